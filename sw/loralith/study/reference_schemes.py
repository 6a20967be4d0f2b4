"""Schemes on the torch reference of `verif`, or on a device; and what quantization alone costs the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from loralith.device import open_device
from loralith.diffusion.unet import load_model
from loralith.mapping.attach_model import attach
from loralith.methods.settings import PROJECTIONS
from loralith.spec.scheme import FQT
from loralith.spec.step import StepScheme
from loralith.verif.reference_attachment import ReferenceAttachment
from loralith.verif.step.step_attachment import StepAttachment
from loralith.verif.torch_quantize import quantize_weight

__all__ = ["attacher", "weight_errors"]


@contextmanager
def attacher(device: str | None, config: str) -> Iterator[Callable[..., Any]]:
    """What puts a scheme on the torch reference, or on a device."""

    if device is None:
        yield (
            lambda model, scheme, tally: (
                StepAttachment(model, scheme) if isinstance(scheme, StepScheme) else ReferenceAttachment(model, scheme, tally)
            )
        )
        return

    with open_device(device, config) as opened:
        yield lambda model, scheme, tally: attach(model, opened, scheme)


def weight_errors() -> dict[str, list[float]]:
    """Relative error of quantized W, mean over the layers that a study trains, for 8 and 4 bits."""
    named = load_model()[0].named_parameters()
    weights = [w.detach() for name, w in named if name.endswith(tuple(f"{target}.weight" for target in PROJECTIONS))]

    def error(scheme: FQT) -> float:
        total = 0.0
        for weight in weights:
            q = quantize_weight(weight, scheme)
            total += float((q.integers() * q.scale.double()[:, None] - weight).norm() / weight.norm())
        return total / len(weights)

    torch.set_num_threads(1)
    kinds: dict[str, dict[str, Any]] = {"row": {}, "row, powers of two": {"power_of_two": True}, "tensor": {"weight_scales": "tensor"}}
    kinds |= {f"{side} x {side} square": {"weight_scales": "block", "weight_block": side} for side in (16, 8, 4, 2)}
    return {name: [error(FQT(weight_bits=bits, **fields)) for bits in (8, 4)] for name, fields in kinds.items()}
