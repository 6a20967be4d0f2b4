"""Frozen linear layers that another library has quantized: bitsandbytes' and torchao's, read as the values that they stand for.

What a device multiplies is quantized from these values as from any other W. Of INT8 with a scale for each row, as both have it, these are
the same integers again; 4 bits become 8.
"""

from __future__ import annotations

from typing import Any

from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn

__all__ = ["BITSANDBYTES", "float_weight", "library", "stored"]

BITSANDBYTES = ("Linear8bitLt", "Linear4bit")


def library(module: nn.Module) -> str:
    """Which of bitsandbytes and torchao has quantized a layer's weight, "" where none has."""
    if type(module).__module__.startswith("bitsandbytes.") and type(module).__name__ in BITSANDBYTES:
        return "bitsandbytes"
    return "torchao" if type(getattr(module, "weight", None)).__module__.startswith("torchao.") else ""


def float_weight(module: Any) -> Tensor:
    """W [O, I] in floating point: the parameter itself where nobody has quantized it."""
    weight, who = module.weight, library(module)
    if who == "torchao":
        return weight.dequantize()
    if not who or weight.is_floating_point():  # bitsandbytes quantizes on the way to a device
        return weight
    return dequantize_bnb_weight(weight, state=getattr(module, "state", None))


def stored(weight: Tensor) -> Tensor:
    """A plain tensor with what a weight consists of: itself, or of torchao's the integers."""
    if not type(weight).__module__.startswith("torchao."):
        return weight
    names, _ = weight.__tensor_flatten__()  # type: ignore[attr-defined]
    return getattr(weight, names[0])
