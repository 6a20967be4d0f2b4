"""TuneQDM on pipelines: scales of a quantized denoiser, by groups of time steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import torch
from safetensors.torch import load_file

from helpers.same_values import assert_same_values
from loralith.formats.checkpoint import load_checkpoint
from loralith.formats.run_folder import PIPELINE_CHECKPOINT, SCALES
from loralith.methods.options import SettingsError
from loralith.methods.tuneqdm.scales_file import ScalesError
from loralith.pipeline.load import load_family
from loralith.pipeline.model_folder import ModelFolder
from loralith.pipeline.samples import draw
from loralith.pipeline.tuneqdm import apply_scales

OWN: dict[str, Any] = {"method": "tuneqdm", "experts": 2, "batch": 3, "lr": 0.05, "device": "direct", "config": "tiny", "modules": "all"}


@pytest.mark.parametrize("kind", ["sd", "sana", "flux"])
def test_a_fresh_pipeline_with_the_scales_draws_the_same_picture(
    kind: str, settings_for: Callable[..., Any], run: Callable[..., Any], pipelines: Callable[[str], Path]
) -> None:
    settings = settings_for(kind, validation_prompts=("toy",), **OWN)
    report = run(settings).report
    drawn = load_checkpoint(settings.output / PIPELINE_CHECKPOINT, report["settings"]).tensors
    folder = ModelFolder.read(settings.model)
    family = load_family(folder)
    stock = draw(family, settings, "toy", 32, "validation", 0)
    apply_scales(family, folder.digest(), settings.output / SCALES)
    assert_same_values(drawn["pictures/2"][0], draw(family, settings, "toy", 32, "validation", 0))
    assert not torch.equal(drawn["pictures/2"][0], drawn["pictures/0"][0])
    assert not torch.equal(drawn["pictures/0"][0], stock), "4 bits are seen"
    with pytest.raises(ScalesError, match="has model"):
        apply_scales(load_family(folder), "0" * 64, settings.output / SCALES)


def test_only_the_experts_of_the_steps_move(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    """Two steps of one picture each: the other experts see none."""
    settings = settings_for(**{**OWN, "experts": 8, "batch": 1, "device": "fp32", "config": None, "modules": "lora"})
    run(settings)
    scales = load_file(settings.output / SCALES)
    moved = {int(expert) for name, own in scales.items() if name.endswith("s_in") for expert in torch.nonzero((own != 1).any(dim=1))[:, 0]}
    assert len(moved) == 2


def test_devices_train_the_same_scales(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    found = []
    for device in ("direct", "reference"):
        settings = settings_for(output=device, **{**OWN, "device": device, "steps": 1})
        run(settings)
        found.append((settings.output / SCALES).read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"bits": 3}, "bits must be 4 or 8, not 3"),
        ({"checkpointing": True}, "checkpointing is no setting of tuneqdm"),
        ({"rank": 8}, "rank is no setting of tuneqdm"),
        ({"modules": "lora"}, "modules must be 'all' for tuneqdm on a device"),
        ({"method": "lora"}, "experts is no setting of lora"),
    ],
)
def test_settings_that_it_does_not_have_are_refused(own: dict[str, Any], told: str, settings_for: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match=told):
        settings_for(**{**OWN, **own})
