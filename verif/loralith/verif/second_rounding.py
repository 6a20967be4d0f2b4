"""Section 2 of docs/numerics.md once more, as `second_numerics` has the others: the hash, and requantization."""

from __future__ import annotations

import math
from dataclasses import dataclass

MASK = 0xFFFFFFFF


def mix(x: int, k: int) -> int:
    x = (x + k) & MASK
    x = (x + (x << 10)) & MASK
    x ^= x >> 6
    x = (x + (x << 3)) & MASK
    x ^= x >> 11
    x = (x + (x << 15)) & MASK
    return x ^ (x >> 16)


def hash_key(seed: int, step: int, tensor: int) -> tuple[int, int]:
    keys = []
    for lane in (0x243F6A88, 0x85A308D3):
        x = lane
        for word in (seed & MASK, seed >> 32, step, tensor):
            x = mix(mix(x, word), lane)
        keys.append(x)
    return keys[0], keys[1]


def hash32(key: tuple[int, int], index: int) -> int:
    return mix(mix(index, key[0]), key[1])


def tensor_key(seed: int, step: int, layer: int, call: int, role: int) -> tuple[int, int]:
    seed = (seed + 2**32 * (call // 256)) % 2**64
    return hash_key(seed, step, layer * 4096 + call % 256 * 16 + role)


def requantization(ratio: float) -> tuple[int, int]:
    """m and n of a ratio. Raises ValueError where the ratio has none."""
    f, j = math.frexp(ratio)
    m = round(f * 65536)
    if m == 65536:
        m, j = 32768, j + 1
    n = 16 - j
    if not (ratio > 0 and 32768 <= m <= 65535 and 0 <= n <= 47):
        raise ValueError(f"{ratio} has no mantissa and shift")
    return m, n


@dataclass
class Requantized:
    q: int
    max_p: int
    saturated: bool


def requantize(acc: int, m: int, n: int, hashed: int | None = None, qmax: int = 127) -> Requantized:
    n = min(n, 47)
    p = acc * m
    if n == 0:
        q = p
    elif hashed is None:
        q = (p + 2 ** (n - 1) - 1 + ((p >> n) & 1)) >> n
    else:
        q = (p + (hashed >> (32 - n) if n <= 32 else hashed << (n - 32))) >> n
    limited = max(-qmax, min(qmax, q))
    return Requantized(limited, abs(p), limited != q)
