"""The emoji pipeline personalized with a few pictures of a held-out subject, by each training method: pictures before and after, and how
well they show the subject and fit their prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

from loralith.emoji.catalogue import PICTURE_SIZE, Concept
from loralith.emoji.encoder import Judge
from loralith.emoji.fidelity import as_tensor, prompt_fidelity, read_pictures, sheet, subject_fidelity
from loralith.emoji.scenes import with_article
from loralith.emoji.subject import write_subject
from loralith.errors import LoralithError
from loralith.formats.run_folder import PIPELINE_CHECKPOINT
from loralith.pipeline.finetune import finetune_pipeline
from loralith.pipeline.run import Attach
from loralith.pipeline.settings import FP32, PipelineSettings
from loralith.training.loop import Progress

TOKEN = "<subject>"
"""The word whose embedding ZOODiP trains."""
PROMPTS = (
    "a photo of {} on a blue background",
    "a photo of {} on a white background",
    "a photo of {} on a red background",
    "a photo of a small {} in the top left",
    "a black and white photo of {}",
    "{} and a red apple on a green background",
)
SAMPLE_STEPS, GUIDANCE = 25, 3.0
PHOTOS = 6


@dataclass(frozen=True)
class Variant:
    """A row of the gallery: a method with its settings, on the accelerator's numbers or in FP32."""

    method: str
    settings: Mapping[str, Any]
    fp32: bool = False

    @property
    def name(self) -> str:
        return f"{self.method}, FP32" if self.fp32 else self.method


_ADAPTER = {"steps": 300, "batch": 4, "lr": 1e-3, "rank": 8, "alpha": 16.0}
VARIANTS = (
    Variant("lora", _ADAPTER),
    Variant("lora", _ADAPTER, fp32=True),
    Variant("hollowed-net", {**_ADAPTER, "samples_stored": 256}),
    Variant("tuneqdm", {"steps": 300, "batch": 4, "lr": 1e-2, "bits": 8, "experts": 2}),
    Variant("zoodip", {"steps": 1500, "batch": 4, "lr": 5e-3, "token": TOKEN}),
)


def prompts_for(name: str) -> list[str]:
    """The gallery's prompts of a subject, or of the trained word."""
    said = with_article(name)
    return [prompt.format(name if "small {}" in prompt else said) for prompt in PROMPTS]


def chosen(names: Sequence[str]) -> list[Variant]:
    """The variants of those names. Raises LoralithError for one that does not exist."""
    known = {variant.name: variant for variant in VARIANTS}
    for name in names:
        if name not in known:
            raise LoralithError(f"the gallery has no row {name!r}; its rows are {'; '.join(known)}")
    return [known[name] for name in names]


def run_variant(
    variant: Variant,
    subject: str,
    model: Path,
    photos: Path,
    output: Path,
    attach: tuple[str, str, Attach],
    progress: Callable[[Progress], None] | None,
    stop: Callable[[], bool],
) -> dict[int, NDArray[np.uint8]]:
    """Fine-tunes with one method, or goes on with the run in ``output``; the pictures [prompts, side, side, 3] by step.

    attach : name and configuration of the device and what attaches a model to it; unused in FP32. Raises what `finetune_pipeline` raises.
    """
    device, config, attach_to = attach
    zoodip = variant.method == "zoodip"
    numbers = {"device": FP32} if variant.fp32 else {"device": device, "config": config}
    modules = "lora" if variant.fp32 or variant.method in ("lora", "hollowed-net") else "all"
    settings = PipelineSettings(
        output=output,
        model=model,
        data=photos,
        method=variant.method,
        validation_prompts=tuple(prompts_for(TOKEN if zoodip else subject)),
        sample_steps=SAMPLE_STEPS,
        guidance=GUIDANCE,
        modules=modules,
        **numbers,
        **variant.settings,
    )
    resume = (output / PIPELINE_CHECKPOINT).is_file()
    finetune_pipeline(settings, None if variant.fp32 else attach_to, progress, stop, resume=resume)
    tensors = load_file(output / PIPELINE_CHECKPOINT)
    return {int(name.removeprefix("pictures/")): own for name, own in tensors.items() if name.startswith("pictures/")}


def photos_of(concepts: Sequence[Concept], subject: str, folder: Path, word: str | None = None) -> Path:
    """The folder of pictures that the methods learn from, written where it is missing; captions call the subject by its name, or by
    ``word``. Raises LoralithError where no held-out subject has that name."""
    if not folder.is_dir():
        write_subject(concepts, subject, folder, count=PHOTOS, size=PICTURE_SIZE, word=word)
    return folder


def fidelity_scores(judge: Judge, pictures: NDArray[np.uint8], references: NDArray[np.uint8], subject: str) -> dict[str, float]:
    """`subject_cosine` with the references, `prompt_cosine` with each picture's own prompt, `other_cosine` with the others' prompts."""
    images = as_tensor(pictures)
    prompts = prompt_fidelity(judge, images, prompts_for(subject))
    return {
        "subject_cosine": subject_fidelity(judge, images, as_tensor(references)),
        "prompt_cosine": prompts["cosine"],
        "other_cosine": prompts["other"],
    }


def real_pictures(folder: Path, side: int) -> NDArray[np.uint8]:
    """The training pictures of `photos_of`."""
    return read_pictures(folder, side)


def picture(rows: Mapping[str, NDArray[np.uint8]], scale: int = 2) -> Image.Image:
    """One image: a labelled row of pictures for each entry, on white."""
    label, gap = 170, 4
    drawn = [(name, sheet(pictures, len(pictures), scale)) for name, pictures in rows.items()]
    width = label + max(row.width for _, row in drawn)
    canvas = Image.new("RGB", (width, sum(row.height + gap for _, row in drawn) - gap), "white")
    pen, top = ImageDraw.Draw(canvas), 0
    for name, row in drawn:
        canvas.paste(row, (label, top))
        pen.text((8, top + row.height // 2 - 8), name, fill="black", font_size=16)
        top += row.height + gap
    return canvas


def compute(
    rows: Sequence[Variant],
    subjects: Sequence[str],
    held_out: Sequence[Concept],
    judge: Judge,
    model: Path,
    output: Path,
    attach: tuple[str, str, Attach],
    started: Callable[[str, Variant], None],
    stop: Callable[[], bool],
) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[np.uint8]]]]:
    """Runs what is missing below ``output``: figures, means over the subjects, and for each subject its rows of pictures."""
    scores: dict[str, list[dict[str, float]]] = {}
    pictures: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for subject in subjects:
        folder = output / subject.replace(" ", "-")
        named = photos_of(held_out, subject, folder / "photos")
        worded = photos_of(held_out, subject, folder / "photos-of-the-word", TOKEN)
        made: dict[str, NDArray[np.uint8]] = {}
        for variant in rows:
            started(subject, variant)
            run = folder / variant.name.replace(", ", "-").lower()
            photos = worded if variant.method == "zoodip" else named
            by_step = run_variant(variant, subject, model, photos, run, attach, None, stop)
            if variant.method != "zoodip":  # whose prompts have a word that means nothing before
                made.setdefault("before", by_step[min(by_step)])
            made[variant.name] = by_step[max(by_step)]
        real = real_pictures(named, next(iter(made.values())).shape[1])
        pictures[subject] = {f"{len(real)} pictures": real, **made}
        for name, own in made.items():
            scores.setdefault(name, []).append(fidelity_scores(judge, own, real, subject))
    figures = {
        "subjects": list(subjects),
        "prompts": list(PROMPTS),
        "settings": {variant.name: dict(variant.settings) for variant in rows},
        "rows": [
            {"row": name, **{key: sum(score[key] for score in own) / len(own) for key in own[0]}, "subjects": own}
            for name, own in scores.items()
        ],
    }
    return figures, pictures


def published_pictures(pictures: Mapping[str, Mapping[str, NDArray[np.uint8]]], folder: Path) -> list[Path]:
    """Writes a PNG for each subject."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for subject, rows in pictures.items():
        path = folder / f"{subject.replace(' ', '-')}.png"
        picture(rows).save(path, "PNG", optimize=True)
        paths.append(path)
    return paths


def page(figures: Mapping[str, Any]) -> list[str]:
    """The page's lines: figures, then the pictures."""
    lines = [
        f"Means over {len(figures['subjects'])} held-out subjects and {len(PROMPTS)} prompts, by the measuring encoder (docs/emoji.md):",
        "the cosine of a picture's subject with the training pictures', and of the picture with its own prompt and with the others'.",
        "All rows but `lora, FP32` train on the accelerator's numbers.",
        "",
        "| row | subject | own prompt | other prompts |",
        "|---|---|---|---|",
    ]
    for row in figures["rows"]:
        lines.append(f"| {row['row']} | {row['subject_cosine']:.3f} | {row['prompt_cosine']:.3f} | {row['other_cosine']:.3f} |")
    lines += ["", "Prompts, from left to right: " + "; ".join(f"`{prompt.format('SUBJECT')}`" for prompt in PROMPTS) + "."]
    for subject in figures["subjects"]:
        lines += ["", f"## {subject}", "", f"![{subject}](emoji/{subject.replace(' ', '-')}.png)"]
    return lines
