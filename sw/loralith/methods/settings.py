"""What a fine-tune is told, checked as a whole before anything is read or written, and before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.diffusion.digits import HELD_OUT, TRAINING_IMAGES
from loralith.methods.options import OPTIONS, Options, SettingsError, TuneqdmOptions, real, whole
from loralith.spec.config import load_config
from loralith.spec.scheme import FQT, SchemeError

if TYPE_CHECKING:
    from loralith.diffusion.subject import Subject

METHODS = tuple(OPTIONS)
MODULES = ("lora", "all", "step")
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
KEYS_AND_VALUES = ("attn2.to_k", "attn2.to_v")
"""Cross attention's projections of the prompt, which CDM-QTA trains."""
TARGETS = {"all": PROJECTIONS, "kv": KEYS_AND_VALUES}
FP32 = "fp32"
ADAPTER = ("rank", "alpha", "targets", "rank_pattern", "alpha_pattern", "rslora")
NO_RESULT = ("verify", "steps_per_submission", "memory_budget", "checkpoint_every", "curve_every")
"""Settings that change no result."""
USUAL: Mapping[str, Any] = {
    "data": None,
    "model": None,
    "modules": "lora",
    "rank_pattern": {},
    "alpha_pattern": {},
    "rslora": False,
    "unet_only": False,
    "adapter_scales": FQT().adapter_scales,
    "weight_bits": FQT().weight_bits,
    "rotation": FQT().rotation,
}


def choose_targets(text: str) -> tuple[str, ...]:
    """The projections of a word of TARGETS, or of names of PROJECTIONS separated by commas. Raises SettingsError."""
    targets = TARGETS.get(text, tuple(text.split(",")))
    _check_targets(targets)
    return targets


def _check_targets(targets: tuple[str, ...]) -> None:
    known = (*PROJECTIONS, *KEYS_AND_VALUES)
    if not targets or any(target not in known for target in targets) or len(set(targets)) != len(targets):
        raise SettingsError(f"targets must be {', '.join(TARGETS)} or some of {', '.join(known)}, each once, not {list(targets)!r}")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is judged, before and after: `rounds` passes over the class's evaluation images for the held-out loss, and `samples`
    images of `sample_steps` DDIM steps with guidance `guidance`, all from fixed noise."""

    rounds: int = 16
    samples: int = 64
    sample_steps: int = 20
    guidance: float = 2.0


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of `loralith finetune`.

    Members
    -------
    output : folder of the adapter, report, picture and checkpoint; new or empty, unless the run is resumed.
    method : the training method, one of METHODS. options : its own settings, see `methods.options`; its defaults where None.
    digit : the held-out class to learn, one of data.HELD_OUT.
    images : number of training images, drawn by the seed.
    rank, alpha : LoRA rank r, any integer from 1, and alpha > 0; the adapter is scaled by alpha / rank.
    steps : optimizer steps. batch : images per step. lr : learning rate of AdamW (constant, no weight decay).
    seed : seed of the adapter's first values, of the images' choice and of every draw; 0 to 2^32 - 1.
    targets : the attention projections that get an adapter, some of PROJECTIONS and KEYS_AND_VALUES.
    data : folder of images with captions to learn instead of a digit, see `subject`; then digit and images are not looked at.
    model : folder of the U-Net to train instead of the package's, see `unet.load_model`.
    rank_pattern, alpha_pattern : ranks and alphas of layers whose names end in a key. rslora : scale by alpha / sqrt(rank).
    modules : what the device runs, one of MODULES: the LoRA layers, all frozen layers and attention's products too, or the whole step.
    start_from : what the method wrote in another run, of the same shapes, to start from (an adapter's folder or file), or none.
    unet_only : leave out the text encoders' layers of start_from.
    dropout : share of prompts that are dropped while training, 0 to below 1.
    device : "fp32" for plain torch, else the name of the attached device. config : the device's configuration, or none.
    adapter_scales, weight_bits : of the device's scheme, see `spec.scheme.FQT`.
    steps_per_submission : how many steps the device takes from one list, of modules 'step'; changes no result.
    memory_budget : bytes of device memory that a step of modules 'step' may take, or all that there is; changes no result.
    verify : also compare the device with the reference; changes no result.
    checkpoint_every : steps between checkpoints; changes no result.
    curve_every : steps between looks at the adapter while it trains, for the report: held-out loss and a few samples; 0 for none.
    evaluation : see EvaluationSettings.

    Raises SettingsError.
    """

    output: Path
    method: str = "lora"
    options: Options | None = None
    digit: int = 8
    images: int = 20
    rank: int = 4
    alpha: float = 8.0
    steps: int = 200
    batch: int = 4
    lr: float = 3e-3
    seed: int = 0
    targets: tuple[str, ...] = PROJECTIONS
    modules: str = "lora"
    data: Path | None = None
    model: Path | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dropout: float = 0.0
    start_from: Path | None = None
    unet_only: bool = False
    device: str = FP32
    config: str | None = None
    adapter_scales: str = FQT().adapter_scales
    weight_bits: int = FQT().weight_bits
    rotation: int = FQT().rotation
    verify: bool = False
    steps_per_submission: int = 1
    memory_budget: int | None = None
    checkpoint_every: int = 10
    curve_every: int = 0
    evaluation: EvaluationSettings = EvaluationSettings()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if self.options is None:
            object.__setattr__(self, "options", OPTIONS[self.method]())
        self._check_method()
        if self.digit not in HELD_OUT:
            wanted = " or ".join(str(digit) for digit in HELD_OUT)
            raise SettingsError(f"digit must be {wanted}, the classes that the model has never seen, not {self.digit!r}")
        whole("images", self.images, 1, TRAINING_IMAGES[self.digit])
        whole("rank", self.rank, 1)
        real("alpha", self.alpha, positive=True)
        whole("steps", self.steps, 1, 2**32 - 1)
        whole("batch", self.batch, 1)
        real("lr", self.lr, positive=True)
        whole("seed", self.seed, 0, 2**32 - 1)
        _check_targets(self.targets)
        for name, value in self.rank_pattern.items():
            whole(f"the rank of {name}", value, 1)
        for name, value in self.alpha_pattern.items():
            real(f"the alpha of {name}", value, positive=True)
        if self.modules not in MODULES:
            raise SettingsError(f"modules must be {' or '.join(MODULES)}, not {self.modules!r}")
        if self.modules != "lora" and self.device == FP32:
            raise SettingsError(f"modules must be 'lora' without a device, not {self.modules!r}")
        self._check_step()
        for name in ("adapter_scales", "weight_bits", "rotation"):
            if self.device == FP32 and getattr(self, name) != USUAL[name]:
                raise SettingsError(f"{name} must be {USUAL[name]!r} without a device, not {getattr(self, name)!r}")
        try:
            self.scheme()
        except SchemeError as error:
            raise SettingsError(str(error)) from error
        if self.unet_only and (self.start_from is None or not self.options.adapter):  # type: ignore[union-attr]
            raise SettingsError("unet_only goes with an adapter to start from; give start_from too")
        real("dropout", self.dropout)
        if not 0.0 <= self.dropout < 1.0:
            raise SettingsError(f"dropout must be at least 0 and less than 1, not {self.dropout!r}")
        whole("checkpoint_every", self.checkpoint_every, 1)
        whole("curve_every", self.curve_every, 0)
        whole("evaluation.rounds", self.evaluation.rounds, 1)
        whole("evaluation.samples", self.evaluation.samples, 1)
        whole("evaluation.sample_steps", self.evaluation.sample_steps, 1, 1000)
        real("evaluation.guidance", self.evaluation.guidance, positive=True)

    def _check_step(self) -> None:
        whole("steps_per_submission", self.steps_per_submission, 1)
        if self.memory_budget is not None:
            whole("memory_budget", self.memory_budget, 1)
        if self.modules != "step":
            for name, usual in (("steps_per_submission", 1), ("memory_budget", None)):
                if getattr(self, name) != usual:
                    raise SettingsError(f"{name} goes with modules 'step', not with {self.modules!r}")
            return
        if self.config is not None and not load_config(self.config).vector_lanes:
            raise SettingsError(
                f"modules 'step' need a vector unit, which {self.config} has not: tiny-vector, base-vector, or a file with vector_lanes"
            )
        if isinstance(self.options, TuneqdmOptions) and self.options.bits != 4:
            raise SettingsError(f"bits must be 4 for a whole step, whose codes less their zero point are INT8, not {self.options.bits}")
        if self.device == "direct":
            raise SettingsError("modules 'step' runs command lists; give the device reference, not direct")
        for name in ("adapter_scales", "weight_bits", "rotation"):
            if getattr(self, name) != USUAL[name]:
                raise SettingsError(f"{name} must be {USUAL[name]!r} for a whole step, not {getattr(self, name)!r}")

    def _check_method(self) -> None:
        options = self.options
        if options is None or type(options) is not OPTIONS[self.method]:
            raise SettingsError(f"options of {self.method} must be {OPTIONS[self.method].__name__}, not {type(options).__name__}")
        if options.whole and self.device != FP32 and self.modules not in ("all", "step"):
            raise SettingsError(f"modules must be 'all' for {self.method} on a device, not {self.modules!r}")
        if self.rotation and not options.adapter:
            raise SettingsError(f"rotation must be 0 for {self.method}, whose products are not rotated, not {self.rotation}")
        if self.verify and not options.verifiable and self.modules != "step":
            raise SettingsError(f"verify has no reference for the products of {self.method}")

    def subject(self) -> Subject:
        """What the run learns. Raises DataError for a folder that it cannot learn from."""
        from loralith.diffusion.subject import digit_subject, folder_subject

        return digit_subject(self.digit, self.images, self.seed) if self.data is None else folder_subject(self.data)

    def adapter(self) -> dict[str, Any]:
        """What `peft_adapter.add_adapter` is told."""
        return {name: getattr(self, name) for name in (*ADAPTER, "seed")}

    def scheme(self) -> FQT:
        """The numbers of a device that trains. Raises SchemeError."""
        return FQT(seed=self.seed, adapter_scales=self.adapter_scales, weight_bits=self.weight_bits, rotation=self.rotation)

    def identity(self) -> Mapping[str, Any]:
        """The settings that decide the result, as JSON values: what a checkpoint must share with the run that resumes from it."""
        from loralith.diffusion.subject import folder_digest
        from loralith.diffusion.unet import model_digest

        own = asdict(self)
        assert self.options is not None
        unused = () if self.options.adapter else ADAPTER
        for name in ("output", *NO_RESULT, *unused, *([] if own["options"] else ["options"])):
            del own[name]
        if self.options.adapter:
            own["targets"] = sorted(self.targets)
            own["alpha"] = float(self.alpha)
        own["start_from"] = None if self.start_from is None else str(self.start_from)
        own["data"] = None if self.data is None else folder_digest(self.data)
        own["model"] = None if self.model is None else model_digest(self.model)
        for name, usual in USUAL.items():
            if name in own and own[name] == usual:
                del own[name]  # what was added later, where it changes nothing: earlier runs' settings stay equal
        own["lr"] = float(self.lr)
        return own
