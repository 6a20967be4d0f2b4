"""The numbers: hash, requantization and limits, as exact integer definitions.

Every function here is a definition, written for clarity on Python integers. The hash also accepts numpy ``uint64``
arrays and torch ``int64`` tensors, because it uses only ``+ ^ & << >>`` on values below 2**63.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

__all__ = [
    "ACC_MAX",
    "ACC_MIN",
    "K_LIMIT",
    "MANTISSA_MAX",
    "MANTISSA_MIN",
    "Q4_MAX",
    "Q8_MAX",
    "SHIFT_MAX",
    "HASH_VECTORS",
    "Requantization",
    "chain_shift_limit",
    "hash32",
    "hash_key",
    "least_shift",
    "requantize",
    "rounding_offset",
]

MASK32 = 0xFFFF_FFFF

Q8_MAX = 127
"""Largest magnitude of a quantized INT8 value; -128 is legal as a plain operand only."""
Q4_MAX = 7
ACC_MIN, ACC_MAX = -(1 << 31), (1 << 31) - 1
K_LIMIT = 131_071
"""Longest exact INT32 reduction when both operands may be -128: K * 2**14 <= 2**31 - 1."""
MANTISSA_MIN, MANTISSA_MAX = 1 << 15, (1 << 16) - 1
SHIFT_MAX = 47

T = TypeVar("T")


def _round(x, k):
    """One mixing round on 32-bit values: every step is a bijection for a fixed ``k``."""
    x = (x + k) & MASK32
    x = (x + (x << 10)) & MASK32
    x = x ^ (x >> 6)
    x = (x + (x << 3)) & MASK32
    x = x ^ (x >> 11)
    x = (x + (x << 15)) & MASK32
    return x ^ (x >> 16)


def hash_key(seed: int, step: int, tensor: int) -> tuple[int, int]:
    """Two 32-bit key words for one tensor at one step.

    Parameters: ``seed`` 0..2**64-1, ``step`` and ``tensor`` 0..2**32-1 (ids that the caller chooses).
    Raises ValueError for a value out of range.
    """
    for name, value, bits in (("seed", seed, 64), ("step", step, 32), ("tensor", tensor, 32)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} must be in 0..2**{bits}-1, not {value}")
    lanes = zip(_LANES, _absorbed(seed, step), strict=True)
    key = [_round(_round(x, tensor), lane) for lane, x in lanes]
    return key[0], key[1]


_LANES = (0x243F_6A88, 0x85A3_08D3)
"""First fractional words of pi: only to separate the two lanes."""


@lru_cache(maxsize=64)  # a training step asks for some hundred keys of one (seed, step)
def _absorbed(seed: int, step: int) -> tuple[int, ...]:
    """Each lane after the words that precede `tensor`."""
    states = []
    for lane in _LANES:
        x = lane
        for word in (seed & MASK32, seed >> 32, step):
            x = _round(_round(x, word), lane)
        states.append(x)
    return tuple(states)


def hash32(key: tuple[int, int], index: T) -> T:
    """32-bit hash of ``index`` (0..2**32-1) under ``key``; a bijection of the index.

    ``index`` is a Python int, or an array or tensor of 64-bit integers. The accelerator computes the same bits at one
    value per PPU lane and cycle.
    """
    return _round(_round(index, key[0]), key[1])  # type: ignore[return-value]


def rounding_offset(h: int, n: int) -> int:
    """The random addend of stochastic rounding: the top ``n`` bits of the hash, uniform in 0..2**n-1 (n <= 32)."""
    if n == 0:
        return 0
    return h >> (32 - n) if n <= 32 else h << (n - 32)


@dataclass(frozen=True)
class Requantization:
    """A scale as two integers: value * mantissa / 2**shift.

    ``mantissa`` is in 32768..65535 and ``shift`` in 0..47.
    """

    mantissa: int
    shift: int

    def __post_init__(self) -> None:
        if not MANTISSA_MIN <= self.mantissa <= MANTISSA_MAX:
            raise ValueError(f"mantissa must be in {MANTISSA_MIN}..{MANTISSA_MAX}, not {self.mantissa}")
        if not 0 <= self.shift <= SHIFT_MAX:
            raise ValueError(f"shift must be in 0..{SHIFT_MAX}, not {self.shift}")

    @classmethod
    def from_ratio(cls, ratio: float) -> Requantization:
        """Nearest (mantissa, shift) to a float64 ``ratio``, by frexp and round half even, carry renormalized.

        Raises ValueError for one that no pair stands for: below 2**-32 or, rounded, 65536 or more, or no positive finite number.
        """
        if not math.isfinite(ratio) or ratio <= 0.0:
            raise ValueError(f"ratio must be a positive finite number, not {ratio!r}")
        fraction, exponent = math.frexp(ratio)
        mantissa = round(fraction * 65536.0)
        if mantissa == 65536:
            mantissa, exponent = 32768, exponent + 1
        shift = 16 - exponent
        if shift < 0:
            raise ValueError(f"ratio must be below 65536, not {ratio!r}")
        if shift > SHIFT_MAX:
            raise ValueError(f"ratio must be at least 2**-32, not {ratio!r}")
        return cls(mantissa, shift)

    @property
    def ratio(self) -> float:
        """The exact ratio that this pair stands for."""
        return math.ldexp(self.mantissa, -self.shift)


def requantize(acc: int, scale: Requantization, h: int | None = None, qmax: int = Q8_MAX) -> tuple[int, int, bool]:
    """Requantize one INT32 accumulator to INT8, or to 4 bits with ``qmax`` 7.

    Parameters: ``acc`` (INT32), ``scale``, and ``h``, a 32-bit hash for stochastic rounding or None for round half even.
    Returns: (q in -qmax..qmax, \\|acc * mantissa\\| before the shift, saturated).
    """
    n = scale.shift
    p = acc * scale.mantissa
    if h is not None:
        q = (p + rounding_offset(h, n)) >> n
    elif n == 0:
        q = p
    else:
        q = (p + (1 << (n - 1)) - 1 + ((p >> n) & 1)) >> n
    saturated = not -qmax <= q <= qmax
    return max(-qmax, min(qmax, q)), abs(p), saturated


def least_shift(maximum: int, low: int = 0, high: int = SHIFT_MAX) -> int:
    """The least t in ``low``..``high`` with ``maximum``, max \\|p\\|, at most 127 * 2**t; ``high`` if there is none."""
    t = max(maximum.bit_length() - 7, 0)
    if maximum > Q8_MAX << t:
        t += 1
    return min(max(t, low), high)


def chain_shift_limit(k_first: int, k_second: int) -> int:
    """Largest left shift n of the first segment with (k_first * 2**n + k_second) * 2**14 <= 2**31 - 1; -1 if none."""
    n = -1
    while ((k_first << (n + 1)) + k_second) << 14 <= ACC_MAX and n < 16:
        n += 1
    return n


HASH_VECTORS: tuple[tuple[int, int, int, int, int], ...] = (
    (0, 0, 0, 0, 0xC1799B90),
    (0, 0, 0, 1, 0x4502F4A0),
    (1, 2, 3, 4, 0x5086A59C),
    (18446744073709551615, 4294967295, 4294967295, 4294967295, 0x42B23381),
    (42, 7, 1001, 24639, 0x3E1507E3),
    (4294967296, 0, 5, 65536, 0x3233C709),
)
"""(seed, step, tensor, index, hash): other implementations check themselves against these."""
