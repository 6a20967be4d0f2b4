"""The stages of the emoji pipeline's training, one after another, in a folder from which they resume.

vae -> model (text encoder and U-Net); at any time after the VAE: decoder; on its own, from other pictures: encoder, which measures.
"""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from loralith.emoji.catalogue import Catalogue, Concept
from loralith.emoji.encoder import Judge, new_judge, train_encoder
from loralith.emoji.export import ABOUT, export
from loralith.emoji.model_stage import TrainingLatents, train_model, trained_model
from loralith.emoji.models import new_vae
from loralith.emoji.run import CHECKPOINT_SECONDS, StageProgress
from loralith.emoji.settings import Settings, Sizes
from loralith.emoji.vae_stage import refine_decoder, train_vae
from loralith.errors import LoralithError
from loralith.files import read_json, write_json
from loralith.formats.checkpoint import digest, write_tensors
from loralith.formats.run_folder import FolderError
from loralith.progress import tell

SETTINGS, SOURCE, LATENTS = "settings.json", "source", "latents"
VAE, DECODER = "vae.safetensors", "decoder.safetensors"
START = "start.safetensors"
PART_FILES = {
    "vae": "diffusion_pytorch_model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
ENCODER = "encoder.safetensors"
CHECKPOINTS = {"vae": "vae.ckpt", "decoder": "decoder.ckpt", "model": "model.ckpt", "encoder": "encoder.ckpt"}
STAGES = ("vae", "model", "decoder", "encoder")

Progress = Callable[[str, StageProgress], None]


def begin(folder: Path, settings: Settings | None, *, resume: bool, start: Path | None = None) -> Settings:
    """The settings of the run in ``folder``, which is begun with ``settings`` unless it is resumed; ``start``: the exported pipeline whose
    weights it starts from, with that one's settings and the next seed. Raises FolderError."""
    path = folder / SETTINGS
    if resume or (settings is None and start is None):
        if not path.is_file():
            raise FolderError(f"there is no training to resume in {folder}; `loralith emoji train` starts one")
        return settings_from(read_json(path))
    if path.exists():
        raise FolderError(f"output {folder} holds a training already; go on with --resume or give another folder")
    weights: dict[str, dict[str, Tensor]] = {}
    if start is not None:
        settings, weights = _started(start)
    assert settings is not None
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in weights.items():
        write_tensors(tensors, folder / name)
    write_json(asdict(settings), path)
    return settings


def _started(pipeline: Path) -> tuple[Settings, dict[str, dict[str, Tensor]]]:
    """Settings of a training that starts from an exported pipeline, and the files, FP32, that it begins with."""
    about = pipeline / ABOUT
    if not about.is_file():
        raise FolderError(f"{pipeline} is no pipeline that `loralith emoji export` wrote: it has no {ABOUT}")
    files = {part: pipeline / part / name for part, name in PART_FILES.items()}
    for path in files.values():
        if not path.is_file():
            raise FolderError(f"{pipeline} lacks {path.relative_to(pipeline)}; export it again")
    parts = {part: {name: tensor.float() for name, tensor in load_file(path).items()} for part, path in files.items()}
    whole = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    before = settings_from(read_json(about)["settings"])
    started = replace(before, seed=before.seed + 1, start=digest(whole))
    return started, {VAE: parts["vae"], START: {name: tensor for name, tensor in whole.items() if not name.startswith("vae.")}}


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings as their JSON holds them. Raises FolderError for a field that is missing."""
    try:
        sizes: dict[str, Any] = {own.name: values["sizes"][own.name] for own in fields(Sizes)}
        others = {own.name: values[own.name] for own in fields(Settings) if own.name not in ("sizes", "start")}
        others["start"] = values.get("start", "")  # which training.json of older pipelines lacks
    except (KeyError, TypeError) as error:
        raise FolderError(f"{SETTINGS} lacks {error}: another version wrote it; start a training in another folder") from error
    sizes |= {name: tuple(value) for name, value in sizes.items() if isinstance(value, list)}
    return Settings(Sizes(**sizes), **others)


def load_vae(settings: Settings, folder: Path, *, refined: bool = True) -> AutoencoderKL:
    """The trained VAE, with its refined decoder where there is one and ``refined`` asks for it."""
    vae = new_vae(settings.sizes)
    vae.load_state_dict(load_file(folder / VAE))
    if refined and (folder / DECODER).is_file():
        vae.load_state_dict(load_file(folder / DECODER))
    return vae.eval().requires_grad_(False)


def train_stages(
    settings: Settings,
    catalogue: Catalogue,
    folder: Path,
    *,
    steps: int,
    stages: tuple[str, ...] = ("vae", "model"),
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    every: float = CHECKPOINT_SECONDS,
) -> bool:
    """Runs the stages up to step ``steps`` of the model; False where ``stop`` ended it. Each begins where it was left."""
    callbacks: dict[str, Callable[[StageProgress], None]] = {
        stage: (lambda state, stage=stage: progress(stage, state) if progress else None) for stage in STAGES
    }
    if not (folder / VAE).is_file():
        tell("stage vae")
        vae = train_vae(settings, catalogue.known, folder / CHECKPOINTS["vae"], callbacks["vae"], stop)
        if vae is None:
            return False
        write_tensors(vae.state_dict(), folder / VAE)
    if "decoder" in stages:
        tell("stage decoder")
        vae = load_vae(settings, folder, refined=False)
        if not refine_decoder(vae, settings, catalogue.known, folder / CHECKPOINTS["decoder"], callbacks["decoder"], stop):
            return False
        write_tensors(vae.state_dict(), folder / DECODER)
    if "model" not in stages:
        return True
    tell("stage model: text encoder and U-Net")
    vae = load_vae(settings, folder, refined=False)
    latents = TrainingLatents(vae, settings, catalogue.known, folder / LATENTS)
    path = folder / CHECKPOINTS["model"]
    start = load_file(folder / START) if settings.start else None
    reached, _ = train_model(
        vae, latents, settings, catalogue, path, steps=steps, start=start, progress=callbacks["model"], stop=stop, every=every
    )
    return reached >= steps


def export_run(settings: Settings, catalogue: Catalogue, folder: Path, output: Path) -> dict[str, Any]:
    """Exports the training's present state; what it says of itself. Raises CheckpointError where the model has no checkpoint yet."""
    model, step, history = trained_model(settings, catalogue.known, folder / CHECKPOINTS["model"])
    about = {"steps": step, "history": history[-1:], "held_out": [list(concept.names) for concept in catalogue.held_out]}
    size = export(load_vae(settings, folder), model, output, {**about, "settings": asdict(settings)})
    return {"steps": step, "bytes": size, "history": history}


def encoder_concepts(other: Catalogue) -> tuple[Concept, ...]:
    """What the measuring encoder learns: another vendor's drawings of all subjects, held out or not."""
    return (*other.known, *other.held_out)


def train_measuring_encoder(
    settings: Settings,
    catalogue: Catalogue,
    other: Catalogue,
    folder: Path,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains the measuring encoder on the ``other`` vendor's pictures; the catalogue's are for its accuracy alone."""
    tell("stage encoder")
    judge = train_encoder(
        settings,
        encoder_concepts(other),
        (*catalogue.known, *catalogue.held_out),
        folder / CHECKPOINTS["encoder"],
        (lambda state: progress("encoder", state)) if progress else None,
        stop,
    )
    if judge is None:
        return False
    write_tensors(judge.encoder.state_dict(), folder / ENCODER)
    return True


def load_judge(settings: Settings, other: Catalogue, folder: Path) -> Judge:
    """The trained measuring encoder. Raises LoralithError where there is none."""
    judge = new_judge(settings, encoder_concepts(other))
    if not (folder / ENCODER).is_file():
        raise LoralithError(f"{folder} has no measuring encoder; `loralith emoji train --resume --stage encoder` trains it")
    judge.encoder.load_state_dict(load_file(folder / ENCODER))
    judge.encoder.eval().requires_grad_(False)
    return judge
