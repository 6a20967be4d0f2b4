"""A U-Net of two levels, and each training method on it, for whole steps on a device."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loralith.diffusion.unet import UNET_CONFIG, assets, new_unet
from loralith.methods import make_method
from loralith.methods.options import HollowOptions, Options, TuneqdmOptions, ZoodipOptions
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.methods.training_method import Bench
from loralith.spec.config import PRESETS

CONFIG = replace(PRESETS["base"], name="base-lanes", vector_lanes=16)
OPTIONS: dict[str, Options] = {
    "zoodip": ZoodipOptions(mu=0.1, tau=2, correlation=0.0),
    "tuneqdm": TuneqdmOptions(experts=4),
    "hollowed-net": HollowOptions("mid_block", samples=2),
}
LEVELS = {
    "block_out_channels": (16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def least_model(folder: Path) -> Path:
    """A folder for `FinetuneSettings.model`, with seeded first values."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    unet = new_unet({**UNET_CONFIG, **LEVELS})
    torch.set_rng_state(state)
    unet.save_pretrained(folder)
    (folder / "tokens.safetensors").write_bytes((assets() / "unet" / "tokens.safetensors").read_bytes())
    return folder


def settings(folder: Path, model: Path, method: str, **more: Any) -> FinetuneSettings:
    """Of whole steps on the reference device."""
    quick = EvaluationSettings(rounds=1, samples=1, sample_steps=1)
    given = {"steps": 3, "batch": 1, "lr": 0.01, "options": OPTIONS[method], **more}
    return FinetuneSettings(
        folder, method=method, model=model, device="reference", config="base-vector", modules="step", evaluation=quick, **given
    )


def prepared(told: FinetuneSettings) -> Any:
    """The settings' method before its first step."""
    method: Any = make_method(told, told.subject())
    method.mu = 0.1
    method.prepare(Bench(lambda model: nullcontext(), lambda note: None, lambda: False))
    method.model.eval()
    return method
