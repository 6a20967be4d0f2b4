"""How much of a tensor its quantization loses, known when it is quantized. Numpy only; runs on a board."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .rotation import rotate

__all__ = ["COLUMNS", "NOTHING", "Loss", "mass_loss", "row_loss"]

SAMPLED_ROWS = 256
"""Rows that are looked at, evenly spaced: enough for a median, and few beside the tensor."""
FEWEST_ROWS = 16
"""Of a tensor whose columns are judged too: the RMS of fewer values says little of a column."""
COLUMNS = 2.5
"""How much more of a column than of a row may be lost: channels differ more than rows."""


@dataclass(frozen=True)
class Loss:
    """``share`` 0..1 of a typical row, or column (``of``), that its quantization loses; its ``rms``, and ``step`` of the quantizer in the
    same units."""

    share: float
    rms: float
    step: float
    of: str = "row"


NOTHING = Loss(0.0, 0.0, 0.0)


def _sampled(x: NDArray) -> slice:
    return slice(None, None, -(-len(x) // SAMPLED_ROWS))


def row_loss(x: NDArray, scale: float | NDArray, *, factor: NDArray | None = None, block: int = 1, stochastic: bool = False) -> Loss:
    """The median over rows, zeros left out, of the RMS error over a row's RMS; or the median over columns, where that is more than
    `COLUMNS` times as much.

    The error of rounding with steps of ``scale`` is scale / sqrt(12) to nearest and scale / sqrt(6) stochastically, for values spread over
    many steps; a row cannot lose more than all of itself. A single value that sets the scale loses nothing, and shows in the other rows; a
    column of large values is most of every row's RMS, and shows in the other columns.

    Parameters: ``x`` [..., n], whose rows are along n; ``scale``, one or one for each row; ``factor`` [n], by which columns are multiplied
    before they are quantized; ``block`` of the rotation along n before that.
    """
    rows = x.reshape(-1, x.shape[-1])
    part = _sampled(rows)
    values = rotate(rows[part], block).astype(np.float64)
    if factor is not None:
        values *= factor
    steps = np.broadcast_to(np.asarray(scale, np.float64), len(rows))[part]
    error = 1 / math.sqrt(6 if stochastic else 12)
    loss = _median(values, steps, error)
    if len(rows) >= FEWEST_ROWS:
        usual = float(np.median(steps))
        columns = (values * (usual / steps)[:, None]).T
        column = _median(columns, np.full(len(columns), usual), error)
        if column.share > COLUMNS * loss.share:
            return replace(column, of="column")
    return loss


def _median(values: NDArray, steps: NDArray, error: float) -> Loss:
    """Of the row whose share is the median; ``error`` in steps."""
    rms = np.sqrt(np.square(values).mean(axis=1))
    there = rms > 0
    if not there.any():
        return NOTHING
    shares = np.minimum(error * steps[there] / rms[there], 1.0)
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
