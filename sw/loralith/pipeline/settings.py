"""What a fine-tune of a diffusers pipeline is told, checked as a whole before anything is read or written, and before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from loralith.methods.options import HollowOptions, SettingsError, TuneqdmOptions, real, whole
from loralith.methods.settings import FP32, MODULES
from loralith.spec.scheme import FQT, SchemeError

__all__ = ["LR_SCHEDULES", "PIPELINE_METHODS", "OPTIMIZERS", "TIMESTEP_SAMPLINGS", "PipelineSettings"]

PIPELINE_METHODS = ("lora", "hollowed-net", "tuneqdm", "zoodip")
OPTIMIZERS = ("adamw", "adamw8bit")
LR_SCHEDULES = ("constant", "linear", "cosine")
TIMESTEP_SAMPLINGS = ("auto", "uniform", "logit-normal")

ADAPTERS = ("lora", "hollowed-net")
"""Methods that train LoRA."""
OF_LORA = ("rank", "alpha", "rslora", "targets")
OF_ZOODIP = ("token", "initializer", "perturbations", "mu")
OF_HOLLOW = ("hollow", "samples_stored", "boundary", "train")
OF_TUNEQDM = ("bits", "experts", "input_scales")
BACKWARD = ("class_prompt", "accumulation", "weight_decay", "ema", "caption_dropout", "timestep_sampling")
WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "lora": (*OF_ZOODIP, *OF_TUNEQDM, *OF_HOLLOW),
    "hollowed-net": (*OF_ZOODIP, *OF_TUNEQDM, "class_prompt", "accumulation"),
    "tuneqdm": (*OF_LORA, *OF_ZOODIP, *OF_HOLLOW, "checkpointing", "optimizer", "verify"),
    "zoodip": (*OF_LORA, *OF_TUNEQDM, *OF_HOLLOW, *BACKWARD, "checkpointing", "optimizer", "verify"),
}
"""Settings that a method does not have; each must have its default. A recomputed pass of TuneQDM would have another expert's scales."""

NO_RESULT = ("output", "cache", "originals", "verify", "checkpoint_every", "validate_every")
"""Settings that change no trained bit."""
PATHS = ("output", "model", "data", "class_data", "cache", "originals")


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of `loralith finetune --model FOLDER` where the folder holds a pipeline.

    Members
    -------
    output : folder of the adapter, report and checkpoint. model : the pipeline's folder. data : the pictures' folder.
    method : one of PIPELINE_METHODS. prompt : the caption of every picture, or none where each has its own.
    class_prompt : prior preservation: the class that must not be lost, in words. class_data : pictures of it; else class_images of them are
    drawn with the untrained pipeline. prior_weight : of their loss.
    resolution : edge of the square pictures in pixels; the pipeline's own where None. buckets : keep the pictures' aspect ratios, with the
    same area. upscale : enlarge pictures that are too small instead of refusing them.
    rank, alpha, rank_pattern, alpha_pattern, rslora : of LoRA. targets : endings of the names of the layers with an adapter; the family's
    own where empty.
    steps : optimizer steps. batch : pictures at a time. accumulation : batches of a step. lr : learning rate, with lr_schedule after warmup
    steps. optimizer, weight_decay. checkpointing : compute activations again in the backward pass. ema : decay of the averaged weights
    that are judged and saved, or None.
    min_snr : gamma of min-SNR weighting, or None. noise_offset : of the noise of a channel as a whole. timestep_sampling : "uniform",
    "logit-normal", or "auto": logit-normal for flow matching, else uniform. caption_dropout : share of captions that are dropped.
    seed : of every draw. threads : of torch; the order of its sums, and so the bits, depend on it.
    validation_prompts : drawn before and after, and every validate_every steps where that is not 0, in sample_steps steps with guidance
    (the pipeline's own where None).
    device, config, modules, adapter_scales, weight_bits, rotation, verify : as `FinetuneSettings` has them.
    token, initializer, perturbations, mu : of ZOODiP: the new word, the word whose embedding it starts from, directions of a step, and how
    far it looks along them. bits, experts, input_scales : of TuneQDM, as `TuneqdmOptions` has them. hollow, samples_stored, boundary,
    train : of Hollowed Net, as `HollowOptions` has them.
    cache : folder of latents and text embeddings, `cache` in the output where None. originals : folder of the file that holds the FP32
    weights of mapped modules while the model is attached, memory where None. checkpoint_every : steps between checkpoints.

    Raises SettingsError.
    """

    output: Path
    model: Path
    data: Path
    method: str = "lora"
    prompt: str | None = None
    class_prompt: str | None = None
    class_data: Path | None = None
    class_images: int = 50
    prior_weight: float = 1.0
    resolution: int | None = None
    buckets: bool = False
    upscale: bool = False
    rank: int = 4
    alpha: float = 8.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    targets: tuple[str, ...] = ()
    steps: int = 200
    batch: int = 1
    accumulation: int = 1
    lr: float = 1e-4
    lr_schedule: str = "constant"
    warmup: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    checkpointing: bool = False
    ema: float | None = None
    min_snr: float | None = None
    noise_offset: float = 0.0
    timestep_sampling: str = "auto"
    caption_dropout: float = 0.0
    seed: int = 0
    threads: int = 1
    validation_prompts: tuple[str, ...] = ()
    validate_every: int = 0
    sample_steps: int = 20
    guidance: float | None = None
    device: str = FP32
    config: str | None = None
    modules: str = "lora"
    adapter_scales: str = FQT().adapter_scales
    weight_bits: int = FQT().weight_bits
    rotation: int = FQT().rotation
    verify: bool = False
    token: str = "<subject>"
    initializer: str = ""
    perturbations: int = 2
    mu: float = 1e-2
    bits: int = 4
    experts: int = 4
    input_scales: str = "trained"
    hollow: str = "mid_block"
    samples_stored: int = 512
    boundary: str = "fp32"
    train: str = "kept"
    cache: Path | None = None
    originals: Path | None = None
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        for name, known in (
            ("method", PIPELINE_METHODS),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", LR_SCHEDULES),
            ("timestep_sampling", TIMESTEP_SAMPLINGS),
            ("modules", MODULES),
        ):
            if getattr(self, name) not in known:
                raise SettingsError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.modules == "step":
            raise SettingsError("modules must be lora or all for a pipeline, not 'step': whole steps are of the small model")
        counts = ("class_images", "rank", "steps", "batch", "accumulation", "threads", "sample_steps", "perturbations", "checkpoint_every")
        for name in counts:
            whole(name, getattr(self, name), 1)
        for name in ("warmup", "validate_every"):
            whole(name, getattr(self, name), 0)
        whole("seed", self.seed, 0, 2**32 - 1)
        if self.resolution is not None:
            whole("resolution", self.resolution, 8)
        for name in ("alpha", "lr", "prior_weight", "mu", *(name for name in ("min_snr", "guidance") if getattr(self, name) is not None)):
            real(name, getattr(self, name), positive=True)
        for name, value in self.rank_pattern.items():
            whole(f"the rank of {name}", value, 1)
        for name, value in self.alpha_pattern.items():
            real(f"the alpha of {name}", value, positive=True)
        for name in ("noise_offset", "weight_decay", "caption_dropout", *(("ema",) if self.ema is not None else ())):
            real(name, getattr(self, name))
            below = 1.0 if name in ("caption_dropout", "ema") else float("inf")
            if not 0.0 <= getattr(self, name) < below:
                raise SettingsError(f"{name} must be at least 0{' and below 1' if below == 1.0 else ''}, not {getattr(self, name)!r}")
        self._check_together()

    def _check_together(self) -> None:
        for name in ("prompt", "class_prompt"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise SettingsError(f"{name} must have words, not {value!r}")
        if any(not prompt.strip() for prompt in self.validation_prompts):
            raise SettingsError("a validation prompt must have words")
        if self.class_data is not None and self.class_prompt is None:
            raise SettingsError("class_data goes with class_prompt, which says what the pictures show")
        if self.warmup >= self.steps:
            raise SettingsError(f"warmup must be below the {self.steps} steps, not {self.warmup}")
        if self.validate_every and not self.validation_prompts:
            raise SettingsError("validate_every goes with a validation prompt; give one")
        if self.device == FP32:
            for name in ("modules", "adapter_scales", "weight_bits", "rotation", "verify", "originals"):
                default = next(own.default for own in fields(self) if own.name == name)
                if getattr(self, name) != default:
                    raise SettingsError(f"{name} must be {default!r} without a device, not {getattr(self, name)!r}")
        usual = {own.name: own.default for own in fields(self)}
        for name in WITHOUT_EFFECT[self.method]:
            if getattr(self, name) != usual[name]:
                raise SettingsError(f"{name} is no setting of {self.method}; leave it out")
        if self.method not in ADAPTERS:
            if self.rotation:
                raise SettingsError(f"rotation must be 0 for {self.method}, whose products are not rotated, not {self.rotation}")
            if self.rank_pattern or self.alpha_pattern:
                raise SettingsError(f"ranks and alphas are no settings of {self.method}, which trains no adapter; leave them out")
            if self.device != FP32 and self.modules != "all":
                raise SettingsError(f"modules must be 'all' for {self.method} on a device, not {self.modules!r}")
        HollowOptions(hollow=self.hollow, samples=self.samples_stored, boundary=self.boundary, train=self.train)
        TuneqdmOptions(bits=self.bits, experts=self.experts, input_scales=self.input_scales)
        try:
            self.scheme()
        except SchemeError as error:
            raise SettingsError(str(error)) from error

    def scheme(self) -> FQT:
        """The numbers of a device that trains. Raises SchemeError."""
        return FQT(seed=self.seed, adapter_scales=self.adapter_scales, weight_bits=self.weight_bits, rotation=self.rotation)

    def cache_folder(self) -> Path:
        return self.cache or self.output / "cache"

    def record(self) -> dict[str, Any]:
        """All settings but the output as JSON values; paths are absolute, so that the run goes on from any working folder."""
        values = asdict(self)
        del values["output"]
        for name in PATHS:
            if values.get(name) is not None:
                values[name] = str(Path(values[name]).absolute())
        return values | {"targets": list(self.targets), "validation_prompts": list(self.validation_prompts)}

    @classmethod
    def from_record(cls, output: Path, record: Mapping[str, Any]) -> PipelineSettings:
        """The inverse of `record`. Raises SettingsError for settings that this version does not have."""
        known = {own.name for own in fields(cls)}
        for name in record:
            if name not in known:
                raise SettingsError(f"the run in {output} has the setting {name}, which this version does not have")
        values = dict(record)
        for name in PATHS:
            if values.get(name) is not None:
                values[name] = Path(values[name])
        for name in ("targets", "validation_prompts"):
            values[name] = tuple(values[name])
        return cls(output=output, **values)

    def identity(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """The settings that decide the result, as JSON values; ``digests`` of the folders' contents in place of their paths."""
        values = {name: value for name, value in self.record().items() if name not in NO_RESULT}
        if not self.rotation:  # earlier runs have no such setting
            del values["rotation"]
        return values | {name: digests.get(name) for name in ("model", "data", "class_data")}
