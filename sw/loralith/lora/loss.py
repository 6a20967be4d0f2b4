"""How much of a tensor its quantization loses, known when it is quantized. Numpy only; runs on a board."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOTHING", "Loss", "mass_loss", "row_loss"]

SAMPLED_ROWS = 256
"""Rows that are looked at, evenly spaced: enough for a median, and few beside the tensor."""


@dataclass(frozen=True)
class Loss:
    """``share`` 0..1 of a typical row that its quantization loses; ``rms`` of such a row, and ``step`` of the quantizer in its units."""

    share: float
    rms: float
    step: float


NOTHING = Loss(0.0, 0.0, 0.0)


def _sampled(x: NDArray) -> slice:
    return slice(None, None, -(-len(x) // SAMPLED_ROWS))


def row_loss(x: NDArray, scale: float | NDArray, *, factor: NDArray | None = None, stochastic: bool = False) -> Loss:
    """The median over rows, zeros left out, of the RMS error over a row's RMS.

    The error of rounding with steps of ``scale`` is scale / sqrt(12) to nearest and scale / sqrt(6) stochastically, for values spread over
    many steps; a row cannot lose more than all of itself. A single value that sets the scale loses nothing, and shows in the other rows.

    Parameters: ``x`` [..., n], whose rows are along n; ``scale``, one or one for each row; ``factor`` [n], by which columns are multiplied
    before they are quantized.
    """
    rows = x.reshape(-1, x.shape[-1])
    part = _sampled(rows)
    values = rows[part].astype(np.float64)
    if factor is not None:
        values *= factor
    steps = np.broadcast_to(np.asarray(scale, np.float64), len(rows))[part]
    rms = np.sqrt(np.square(values).mean(axis=1))
    there = rms > 0
    if not there.any():
        return NOTHING
    shares = np.minimum(steps[there] / rms[there] / math.sqrt(6 if stochastic else 12), 1.0)
    middle = np.argsort(shares)[(len(shares) - 1) // 2]
    return Loss(float(shares[middle]), float(rms[there][middle]), float(steps[there][middle]))


def mass_loss(e: NDArray, kept: NDArray) -> Loss:
    """Of P's rows: the median share of the sum of ``e`` [..., n] that is not in ``kept`` [...], its sum after quantization to 127ths."""
    rows = e.reshape(-1, e.shape[-1])
    part = _sampled(rows)
    values = rows[part].astype(np.float64)
    sums = values.sum(axis=1)
    shares = np.minimum(np.abs(1 - kept.reshape(-1)[part] / 127 / sums), 1.0)
    middle = np.argsort(shares)[(len(shares) - 1) // 2]
    return Loss(float(shares[middle]), float(np.sqrt(np.square(values[middle]).mean())), 1 / 127)
