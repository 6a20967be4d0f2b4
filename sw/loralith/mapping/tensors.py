"""Torch's tensors as numpy arrays, and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loralith.lora.quantize import Float32, largest

__all__ = ["finite", "float32", "output_dtype", "tensor", "unknown"]


def float32(tensor: Tensor) -> Float32:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def tensor(array: NDArray, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``array`` where ``like`` is, of its type or of ``dtype``."""
    return torch.from_numpy(array).to(device=like.device, dtype=dtype or like.dtype)


def output_dtype(x: Tensor) -> torch.dtype:
    """Of a product of ``x``: under autocast autocast's, as of torch's own products."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def finite(dy: Float32, scale: Float32 | float = 1.0) -> bool:
    """Whether all values of dY times ``scale``, which broadcasts with it, are finite in float32.

    Under a GradScaler they need not be: gradients that are not finite then tell it to skip the step.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.float32(largest(dy)) * np.max(scale)):
            return True
        return bool(np.isfinite(dy * scale).all())


def unknown(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A gradient of ``like`` that is not finite anywhere."""
    return torch.full_like(like, torch.nan, dtype=dtype or like.dtype)
