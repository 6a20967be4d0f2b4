"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from loralith.methods.options import SettingsError
from loralith.pipeline.settings import PipelineSettings

__all__ = ["check_optimizer", "learning_rate", "make_optimizer"]


def check_optimizer(settings: PipelineSettings) -> None:
    """Raises SettingsError for an optimizer whose package is not installed."""
    if settings.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise SettingsError("optimizer adamw8bit needs bitsandbytes, which is not installed; `pip install bitsandbytes`, or take adamw")


def make_optimizer(settings: PipelineSettings, parameters: list[nn.Parameter]) -> Any:
    """A torch optimizer. Raises SettingsError as `check_optimizer` does."""
    check_optimizer(settings)
    kind = import_module("bitsandbytes").optim.AdamW8bit if settings.optimizer == "adamw8bit" else torch.optim.AdamW
    return kind(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def learning_rate(settings: PipelineSettings, step: int) -> float:
    """Of step ``step``, counted from 0: rising over `warmup` steps, then constant, or falling to 0 after the last step in a line or in half
    a cosine."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / (settings.warmup + 1)
    share = (step - settings.warmup) / (settings.steps - settings.warmup)
    factors = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}
    return settings.lr * factors[settings.lr_schedule]
