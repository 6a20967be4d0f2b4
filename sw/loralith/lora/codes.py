"""Weights as codes with a zero point: W[o, i] = scale[o] (code[o, i] - zero[o]). Numpy only; runs on a board."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loralith.spec.scheme import SchemeError

from .quantize import Float32, Int8, finite32

__all__ = ["BITS", "Codes", "quantize_codes"]

BITS = (4, 8)


@dataclass(frozen=True)
class Codes:
    """``code`` uint8 [O, I] of ``bits`` bits, ``zero`` uint8 [O], ``scale`` float32 [O]."""

    code: NDArray[np.uint8]
    zero: NDArray[np.uint8]
    scale: Float32
    bits: int

    @property
    def centred(self) -> NDArray[np.int16]:
        """code - zero [O, I]: what the products are of."""
        return self.code.astype(np.int16) - self.zero[:, None]

    def halved(self) -> tuple[Int8, Int8]:
        """8 bits as INT8: (code - 128 [O, I], zero - 128 [O]), whose difference is `centred`."""
        return (self.code.astype(np.int16) - 128).astype(np.int8), (self.zero.astype(np.int16) - 128).astype(np.int8)


def quantize_codes(weight: NDArray, bits: int) -> Codes:
    """Codes of W [O, I] by the least and largest value of each row, zero among them (so that a zero point exists).

    scale = fl((hi - lo) / (2^bits - 1)), 1 where that is zero or subnormal; zero = -lo / scale and code = W / scale + zero, each quotient
    in FP32 and rounded half to even, clipped to 0..2^bits - 1. Raises SchemeError for other bits and for values that are not finite.
    """
    if bits not in BITS:
        raise SchemeError(f"bits must be {' or '.join(map(str, BITS))}, not {bits!r}")
    weight = finite32(weight, "W")
    top = 2**bits - 1
    low, high = np.minimum(weight.min(axis=1), 0), np.maximum(weight.max(axis=1), 0)
    scale = ((high.astype(np.float64) - low) / top).astype(np.float32)
    gone = scale < np.finfo(np.float32).tiny
    scale = np.where(gone, np.float32(1), scale)
    zero = np.clip(np.rint(-low / scale), 0, top)
    code = np.clip(np.rint(weight / scale[:, None]) + zero[:, None], 0, top)
    code = np.where(gone[:, None], zero[:, None], code)
    return Codes(code.astype(np.uint8), zero.astype(np.uint8), scale, bits)
