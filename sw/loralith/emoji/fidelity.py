"""How well the pipeline's pictures fit their prompts and subjects, by the measuring encoder; beside it the same for real pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from loralith.diffusion.determinism import generator, repeatable
from loralith.emoji.catalogue import Concept
from loralith.emoji.encoder import Judge, share, stacked
from loralith.emoji.scenes import BACKGROUNDS, draws, plain_scene, with_article
from loralith.errors import LoralithError
from loralith.progress import Steps

BATCH = 16
PICTURES = (".png", ".jpg", ".jpeg")


def sample(pipeline: StableDiffusionPipeline, prompts: Sequence[str], *, steps: int, guidance: float, seed: int) -> NDArray[np.uint8]:
    """A picture of each prompt [N, side, side, 3]; picture k starts from noise that seed and k alone decide."""
    pipeline.set_progress_bar_config(disable=True)
    made, told = [], Steps("pictures", len(prompts))
    with repeatable():
        for first in range(0, len(prompts), BATCH):
            part = list(prompts[first : first + BATCH])
            noise = [generator("emoji sample", seed, first + index) for index in range(len(part))]
            out = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="np")
            made.append(np.asarray(out.images))  # type: ignore[union-attr]
            for _ in part:
                told.step()
    return (np.concatenate(made) * 255.0).round().astype(np.uint8)


def sheet(pictures: NDArray[np.uint8], columns: int, scale: int = 2) -> Image.Image:
    """The pictures in rows of `columns`, each pixel `scale` wide."""
    count, side = len(pictures), pictures.shape[1]
    rows = -(-count // columns)
    canvas = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        canvas[row * side : (row + 1) * side, column * side : (column + 1) * side] = picture
    return Image.fromarray(canvas).resize((columns * side * scale, rows * side * scale), Image.Resampling.NEAREST)


def as_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """[N, side, side, 3] of bytes as [N, 3, side, side] in -1..1."""
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def read_pictures(folder: Path, size: int) -> NDArray[np.uint8]:
    """The folder's pictures in order of their names, brought to size x size. Raises LoralithError where there is none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not paths:
        raise LoralithError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)))
    return np.stack(found)


def prompt_fidelity(judge: Judge, pictures: Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """`cosine`: mean of the pictures with their own prompts; `other`: with the others' prompts; `retrieval`: share of pictures whose own
    prompt is the nearest one of all."""
    _, vectors = judge.pictures(pictures)
    found = vectors @ judge.captions(prompts).T
    own = found.diagonal()
    count = len(prompts)
    other = (found.sum() - own.sum()) / max(1, count * (count - 1))
    return {"cosine": float(own.mean()), "other": float(other), "retrieval": share(found.argmax(1), torch.arange(count))}


def subject_fidelity(judge: Judge, pictures: Tensor, references: Tensor) -> float:
    """Mean cosine between the pictures' subjects and those of the references."""
    made, _ = judge.pictures(pictures)
    real, _ = judge.pictures(references)
    return float((made @ real.T).mean())


def measure_pipeline(
    pipeline: StableDiffusionPipeline, judge: Judge, concepts: Sequence[Concept], *, count: int, steps: int, guidance: float, seed: int
) -> dict[str, Any]:
    """Prompt and subject fidelity of ``count`` known concepts on coloured backgrounds, beside real pictures of the same prompts.

    `name`, `background`: shares of pictures whose concept, of all that were asked for, and colour, of all, the encoder recognizes.
    """
    picked = draws("emoji measure", seed, 0).sample(range(len(concepts)), min(count, len(concepts)))
    scenes = [plain_scene(concepts, pick, "emoji measure", seed) for pick in picked]
    names = [concepts[pick].names[0] for pick in picked]
    prompts = [
        f"a photo of {with_article(name)} on {with_article(scene.background)} background" for name, scene in zip(names, scenes, strict=True)
    ]
    side = int(pipeline.unet.config["sample_size"]) * pipeline.vae_scale_factor
    made = as_tensor(sample(pipeline, prompts, steps=steps, guidance=guidance, seed=seed))
    real = stacked(scenes, concepts, side)
    references = stacked([plain_scene(concepts, pick, "emoji reference", seed) for pick in picked], concepts, side)
    spoken = judge.captions([f"a photo of {with_article(name)}" for name in names])
    coloured = judge.captions([f"a photo of a thing on {with_article(colour)} background" for colour in BACKGROUNDS])
    colours = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    kept, _ = judge.pictures(references)
    result: dict[str, Any] = {"count": len(picked), "steps": steps, "guidance": guidance, "seed": seed}
    for which, pictures in (("made", made), ("real", real)):
        subject, prompt = judge.pictures(pictures)
        result[which] = {
            **prompt_fidelity(judge, pictures, prompts),
            "name": share((prompt @ spoken.T).argmax(1), torch.arange(len(picked))),
            "background": share((prompt @ coloured.T).argmax(1), colours),
            "subject": share((subject @ kept.T).argmax(1), torch.arange(len(picked))),
            "subject_cosine": float((subject * kept).sum(1).mean()),
        }
    return result
