"""What computes the passes of a LoRA layer: command lists (`listed_passes`), or the host in one piece (`direct_passes`).

Numpy only; runs on a board."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loralith.compiler.storage.layout import MatrixLayout, SkinnyShape
from loralith.device.device import Device

from .layer_step import BackwardOperands, BackwardPlan, ForwardOperands, ForwardPlan, LayerNumerics

__all__ = ["BackwardResult", "ForwardResult", "LayerMemory", "Passes"]


@dataclass(frozen=True)
class LayerMemory:
    """What a layer has in device memory: W [O, I] and, for the lists, 64 zeros; and the layout of tensors with ``rank`` columns."""

    device: Device
    weight: MatrixLayout
    zeros: int
    rank: int
    skinny: SkinnyShape


@dataclass(frozen=True)
class ForwardResult:
    """Y's sums, int32 [T, O]. ``maximum``: the largest accumulator of H; ``saturated``: how many values of H did."""

    plan: ForwardPlan
    y: NDArray[np.int32]
    maximum: int
    saturated: int


@dataclass(frozen=True)
class BackwardResult:
    """Sums, int32: dX [T, I] or None, dB [O, r], dA^T [I, r]. ``maximum`` and ``saturated``: of dH."""

    plan: BackwardPlan
    dx: NDArray[np.int32] | None
    db: NDArray[np.int32]
    da: NDArray[np.int32]
    maximum: int
    saturated: int


class Passes(ABC):
    """The passes of one layer. Every implementation gives the same bits."""

    def __init__(self, memory: LayerMemory, numerics: LayerNumerics) -> None:
        self.memory, self.numerics = memory, numerics
        self.device, self.config = memory.device, memory.device.config

    @abstractmethod
    def forward(self, operands: ForwardOperands, x: MatrixLayout, h: MatrixLayout) -> ForwardResult:
        """H, written to ``h``, and Y. X is at ``x``; the layouts have their addresses."""

    @abstractmethod
    def backward(self, operands: BackwardOperands, x: MatrixLayout, h: MatrixLayout, *, need_dx: bool) -> BackwardResult:
        """dX where it is asked for, dB and dA^T, from X and H in device memory."""
