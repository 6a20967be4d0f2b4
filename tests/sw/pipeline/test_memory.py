"""Sizes beyond memory are named before anything is computed or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import torch
from safetensors.torch import load_file
from torch import nn

from loralith.methods.options import SettingsError
from loralith.pipeline.load import load_family
from loralith.pipeline.memory import saved_bytes
from loralith.pipeline.model_folder import ModelFolder
from loralith.training import sizes


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"rank": 10**9}, r"rank 1000000000 needs at least [\d,.]+ GB of memory, and [\d.]+ GB are free; a smaller --rank needs less"),
        ({"rank": 200_000, "device": "direct", "config": "tiny"}, r"the rank of .*to_k must be at most 131055 on a device"),
        ({"batch": 10**7}, "a batch of 10000000 pictures at 32 pixels needs at least .* a smaller --batch or --resolution"),
        ({"resolution": 2**20, "upscale": True}, "resolution 1048576 needs at least .* a smaller --resolution needs less"),
    ],
)
def test_what_cannot_fit_is_named(own: dict[str, Any], told: str, settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    settings = settings_for(**own)
    with pytest.raises(SettingsError, match=told):
        run(settings)
    assert not settings.output.exists()


def test_a_pipeline_that_cannot_be_loaded_is_named(
    settings_for: Callable[..., Any], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "available_bytes", lambda: 100_000)
    settings = settings_for()
    with pytest.raises(SettingsError, match=r"model .*/sd needs at least 0\.0 GB of memory, and 0\.0 GB are free"):
        run(settings)


def test_elements_are_all_weights(pipelines: Callable[[str], Path]) -> None:
    folder = pipelines("sd")
    counted = sum(tensor.numel() for path in folder.rglob("*.safetensors") for tensor in load_file(path).values())
    assert ModelFolder.read(folder).elements() == counted


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "pixart", "sana", "flux"])
def test_the_pass_over_shapes_saves_what_a_real_one_does(kind: str, pipelines: Callable[[str], Path]) -> None:
    family = load_family(ModelFolder.read(pipelines(kind)))
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.no_grad():
        text = family.encode_prompts([""])
    edge = 32 // family.vae_scale
    latents = torch.zeros(1, family.latent_channels, edge, edge, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        family.predict(family.denoiser, latents, torch.zeros(1), text)
    real = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    assert saved_bytes(family, 32) == pytest.approx(real, rel=0.05)
