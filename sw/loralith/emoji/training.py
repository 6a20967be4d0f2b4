"""The stages of the emoji pipeline's training, one after another, in a folder from which they resume.

data -> vae -> latents -> model (text encoder and U-Net), and at any time after the VAE: decoder.
"""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from safetensors.torch import load_file

from loralith.diffusion.checkpoint import write_tensors
from loralith.diffusion.folder import FolderError
from loralith.emoji.catalogue import Catalogue
from loralith.emoji.export import export
from loralith.emoji.model_stage import train_model, trained_model, training_latents
from loralith.emoji.models import new_vae
from loralith.emoji.run import CHECKPOINT_SECONDS, Told
from loralith.emoji.settings import Settings, Sizes
from loralith.emoji.vae_stage import refine_decoder, train_vae
from loralith.files import read_json, write_json
from loralith.progress import tell

SETTINGS, SOURCE, LATENTS = "settings.json", "source", "latents"
VAE, DECODER = "vae.safetensors", "decoder.safetensors"
CHECKPOINTS = {"vae": "vae.ckpt", "decoder": "decoder.ckpt", "model": "model.ckpt"}
STAGES = ("vae", "latents", "model", "decoder")

Progress = Callable[[str, Told], None]


def begin(folder: Path, settings: Settings, *, resume: bool) -> Settings:
    """The settings of the run in ``folder``, which is begun with ``settings`` where it is new. Raises FolderError."""
    path = folder / SETTINGS
    if resume:
        if not path.is_file():
            raise FolderError(f"there is no training to resume in {folder}; start it without --resume")
        return settings_from(read_json(path))
    if path.exists():
        raise FolderError(f"output {folder} holds a training already; go on with --resume or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(asdict(settings), path)
    return settings


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings as their JSON holds them."""
    sizes: dict[str, Any] = {own.name: values["sizes"][own.name] for own in fields(Sizes)}
    sizes |= {name: tuple(value) for name, value in sizes.items() if isinstance(value, list)}
    return Settings(Sizes(**sizes), **{own.name: values[own.name] for own in fields(Settings) if own.name != "sizes"})


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
    stages: tuple[str, ...] = ("vae", "latents", "model"),
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    every: float = CHECKPOINT_SECONDS,
) -> bool:
    """Runs the stages up to step ``steps`` of the model; False where ``stop`` ended it. Each begins where it was left."""
    told: dict[str, Callable[[Told], None]] = {
        stage: (lambda one, stage=stage: progress(stage, one) if progress else None) for stage in STAGES
    }
    if not (folder / VAE).is_file():
        tell("stage vae")
        vae = train_vae(settings, catalogue.known, folder / CHECKPOINTS["vae"], told["vae"], stop)
        if vae is None:
            return False
        write_tensors(vae.state_dict(), folder / VAE)
    if "decoder" in stages:
        tell("stage decoder")
        vae = load_vae(settings, folder, refined=False)
        if not refine_decoder(vae, settings, catalogue.known, folder / CHECKPOINTS["decoder"], told["decoder"], stop):
            return False
        write_tensors(vae.state_dict(), folder / DECODER)
    if "model" not in stages and "latents" not in stages:
        return True
    vae = load_vae(settings, folder, refined=False)
    tell("stage latents")
    latents = training_latents(vae, settings, catalogue.known, folder / LATENTS, stop)
    if latents is None:
        return False
    if "model" not in stages:
        return True
    tell("stage model: text encoder and U-Net")
    path = folder / CHECKPOINTS["model"]
    reached, _ = train_model(vae, latents, settings, catalogue, path, steps=steps, progress=told["model"], stop=stop, every=every)
    return reached >= steps


def export_run(settings: Settings, catalogue: Catalogue, folder: Path, output: Path) -> dict[str, Any]:
    """Exports the training's present state; what it says of itself. Raises CheckpointError where the model has no checkpoint yet."""
    model, step, history = trained_model(settings, catalogue.known, folder / CHECKPOINTS["model"])
    about = {"steps": step, "history": history[-1:], "held_out": [list(concept.names) for concept in catalogue.held_out]}
    size = export(load_vae(settings, folder), model, output, {**about, "settings": asdict(settings)})
    return {"steps": step, "bytes": size, "history": history}
