"""docs/numerics.md once more, section by section, by somebody who has read that page and none of the project's code for it.

A second opinion: where it and `loralith.verif.fqt` differ, the page did not say enough or one of the two is wrong (tests/unit/
test_second_numerics.py). Standard library only, exact fractions where the page asks for one rounding; tensors are lists of rows. It is
slow, and meant for tensors of a few hundred values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from .second_rounding import MASK, hash32, requantization, requantize, tensor_key

Matrix = list[list[float]]
Integers = list[list[int]]
TINY = 2.0**-126


def fl(x: float | Fraction) -> float:
    """`x` rounded to IEEE binary32, half to even, subnormals kept."""
    if isinstance(x, float) and (x == 0 or not math.isfinite(x)):
        return x
    exact = Fraction(x)
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1  # now 2^exponent <= size < 2^(exponent + 1)
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = round(size / unit) * unit
    value = math.inf if rounded >= Fraction(2) ** 128 else float(rounded)
    return math.copysign(value, exact)


def quotient(x: float, y: float) -> float:
    """A binary32 division."""
    return fl(Fraction(x) / Fraction(y))


# 1. Quantized tensors


def largest(values: Matrix) -> float:
    found = 0.0
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not math.isfinite(value):
                raise ValueError(f"[{row}, {column}] is {value}")
            found = max(found, abs(value))
    return found


def linear_scale(m: float, qmax: int) -> float:
    """fl(m / qmax), zero or subnormal where a tensor of that largest magnitude vanishes."""
    return quotient(m, qmax)


def exponent_of(m: float, qmax: int) -> int:
    """The smallest e with m <= qmax * 2^e; by frexp as the page has it."""
    f, j = math.frexp(m)
    return (j - 7 if f <= 127 / 128 else j - 6) if qmax == 127 else (j - 3 if f <= 7 / 8 else j - 2)


@dataclass
class Quantized:
    scale: float
    q: Integers
    clipped: int = 0


Hashes = Callable[[int], int] | None
"""The hash of an index where a tensor rounds stochastically, else None."""


def rounded(y: float, index: int, hashes: Hashes) -> int:
    if hashes is None:
        return round(y)
    return math.floor(y + hashes(index) / 2**32)


def quantize_with(values: Matrix, divide: Callable[[float], float], qmax: int, hashes: Hashes, scale: float) -> Quantized:
    columns = len(values[0])
    result = Quantized(scale, [])
    for row, line in enumerate(values):
        integers = []
        for column, value in enumerate(line):
            q = rounded(divide(value), (row * columns + column) & MASK, hashes)
            result.clipped += abs(q) > qmax
            integers.append(max(-qmax, min(qmax, q)))
        result.q.append(integers)
    return result


def zeros(values: Matrix, scale: float = 1.0) -> Quantized:
    return Quantized(scale, [[0] * len(line) for line in values])


def quantize(values: Matrix, qmax: int = 127, hashes: Hashes = None, power_of_two: bool = False) -> Quantized:
    m = largest(values)
    scale = linear_scale(m, qmax)
    if scale < TINY:
        return zeros(values)
    if power_of_two:
        e = exponent_of(m, qmax)
        return quantize_with(values, lambda x: quotient_by_power(x, e), qmax, hashes, 2.0**e)
    return quantize_with(values, lambda x: quotient(x, scale), qmax, hashes, scale)


def quotient_by_power(x: float, e: int) -> float:
    """x * 2^-e in float64."""
    return math.ldexp(x, -e)


def power_exponent(values: Matrix, qmax: int = 127) -> int:
    m = largest(values)
    return 0 if linear_scale(m, qmax) < TINY else exponent_of(m, qmax)


def quantize_power(values: Matrix, e: int, qmax: int = 127, hashes: Hashes = None) -> Quantized:
    if linear_scale(largest(values), qmax) < TINY:
        return zeros(values)
    return quantize_with(values, lambda x: quotient_by_power(x, e), qmax, hashes, 2.0**e)


# 1. Rotation


def rotation_size(rotation: int, length: int) -> int:
    """b: the largest power of four up to `rotation` that divides the length; 1 where there is none."""
    return max((b for b in (4, 16, 64, 256) if b <= rotation and length % b == 0), default=1)


def rotate_row(row: list[float], b: int) -> list[float]:
    """`row` times R, in FP32 and in the page's order."""
    k = {1: 0, 4: 1, 16: 2, 64: 3, 256: 4}[b]
    row = list(row)
    for j in range(k):
        for first in range(len(row)):
            if first // 4**j % 4:
                continue  # its digit j is not 0
            places = [first + digit * 4**j for digit in range(4)]
            a, b_, c, d = (row[place] for place in places)
            p, q, r, t = fl(a + b_), fl(c - d), fl(a - b_), fl(c + d)
            for place, value in zip(places, (fl(p + q), fl(p - q), fl(r + t), fl(t - r)), strict=True):
                row[place] = value
    return [fl(value * 2.0**-k) for value in row] if k else row


def rotate(values: Matrix, b: int) -> Matrix:
    return [rotate_row(row, b) for row in values]


@dataclass
class Weights:
    sw: list[float]
    """Of each row."""
    q: Integers


def row_scale(m: float, qmax: int, power_of_two: bool) -> float:
    """fl(m / qmax), or 2^e in its place where the scheme wants powers of two and nothing vanishes."""
    linear = linear_scale(m, qmax)
    return 2.0 ** exponent_of(m, qmax) if power_of_two and linear >= TINY else linear


def quantize_weights(W: Matrix, qmax: int = 127, per_row: bool = True, scale_range: float = 16, power_of_two: bool = False) -> Weights:
    if linear_scale(largest(W), qmax) < TINY:
        return Weights([1.0] * len(W), zeros(W).q)
    L = row_scale(largest(W), qmax, power_of_two)
    floor = quotient(L, scale_range)
    sw = [max(row_scale(largest([row]), qmax, power_of_two), floor, TINY) if per_row else L for row in W]
    q = [[max(-qmax, min(qmax, round(quotient(x, scale)))) for x in row] for row, scale in zip(W, sw, strict=True)]
    return Weights(sw, q)


def quantize_squares(W: Matrix, block: int, qmax: int = 127, scale_range: int = 16, power_of_two: bool = False) -> Weights:
    """With the integers 2^e Wq, which products take."""
    if linear_scale(largest(W), qmax) < TINY:
        return Weights([1.0] * len(W), zeros(W).q)
    P = scale_range.bit_length() - 1
    u = max(quotient(row_scale(largest(W), qmax, power_of_two), scale_range), TINY)
    result = zeros(W).q
    for top in range(0, len(W), block):
        for left in range(0, len(W[0]), block):
            square = [row[left : left + block] for row in W[top : top + block]]
            m = quotient(largest(square), u)
            e = next((e for e in range(P) if m <= qmax * 2**e), P)
            for i, row in enumerate(square):
                for j, x in enumerate(row):
                    q = round(math.ldexp(quotient(x, u), -e))
                    result[top + i][left + j] = max(-qmax, min(qmax, q)) << e
    return Weights([u] * len(W), result)


# 4. Scales of a layer; 5. Order and shift of a chain

ROLES = {"X": 0, "dY": 1, "H": 2, "dH": 3, "Y": 4, "dX": 5, "A": 6, "B": 7, "coarse A": 8, "coarse B": 9}


def times_transposed(P: Integers, Q: Integers) -> Integers:
    """P Q^T, exact."""
    return [[sum(a * b for a, b in zip(row, other, strict=True)) for other in Q] for row in P]


def transposed(P: list[list]) -> list[list]:
    return [list(line) for line in zip(*P, strict=True)]


def shift_limit(first: int, second: int) -> int:
    """The largest n of at most 16 with (first 2^n + second) 2^14 <= 2^31 - 1."""
    return max(n for n in range(17) if (first * 2**n + second) * 2**14 <= 2**31 - 1)


@dataclass
class Chain:
    base_first: bool
    n: int
    d: int
    k: int
    """The output's scale is 2^k times the base's."""


def chain(base: int, adapter: int, e: int) -> Chain:
    if e <= 0:
        n = min(-e, shift_limit(base, adapter))
        return Chain(True, n, -e - n, -n)
    if e > shift_limit(adapter, base):
        raise ValueError(f"the adapter's segment is 2^{e} times the base's")
    return Chain(False, e, 0, 0)


def smallest_exponent(product: float, a: float, qmax: int) -> int:
    """The smallest e with product * max(a, 1) <= qmax * 2^e."""
    return exponent_of(product * max(a, 1), qmax)


def expected_maximum(history: Sequence[int], headroom: float = 2, length: int = 16) -> float | None:
    """`delayed`: what takes the place of this pass's maximum; None where the pass measures."""
    seen = max(history[-length:], default=0)
    return headroom * seen if seen else None


@dataclass
class Step:
    """A pass of one LoRA layer, forward and backward: every number of it by the page's names."""

    X: Matrix
    W: Matrix
    A: Matrix
    B: Matrix
    dY: Matrix
    alpha: float
    seed: int = 0
    step: int = 0
    layer: int = 0
    call: int = 0
    stochastic: frozenset[str] = frozenset({"dY", "dH"})
    weight_bits: int = 8
    activation_bits: int = 8
    gradient_bits: int = 8
    weight_scales: str = "channel"
    weight_scale_range: int = 16
    weight_block: int = 16
    power_of_two: bool = False
    history: dict[str, list[int]] | None = None
    """Maxima of H and dH in earlier passes where exponents are `delayed`."""
    headroom: float = 2
    remembered: int = 16
    rotation: int = 0
    numbers: dict = field(default_factory=dict)

    def hashes(self, role: str, group: str) -> Hashes:
        if group not in self.stochastic:
            return None
        key = tensor_key(self.seed, self.step, self.layer, self.call, ROLES[role])
        return lambda index: hash32(key, index)

    def requantized(self, acc: Integers, product: float, role: str, qmax: int) -> tuple[int, Integers]:
        """The exponent of (s sa) 2^-e, measured, and the integers."""
        own = max(abs(x) for row in acc for x in row)
        delayed = None if self.history is None else expected_maximum(self.history[role], self.headroom, self.remembered)
        e = smallest_exponent(product, own if delayed is None else delayed, qmax)
        m, n = requantization(product * 2.0**-e)
        hashes, columns = self.hashes(role, role), len(acc[0])
        q = [
            [requantize(x, m, n, None if hashes is None else hashes((t * columns + j) & MASK), qmax).q for j, x in enumerate(row)]
            for t, row in enumerate(acc)
        ]
        return e, q

    def run(self) -> dict:
        return self.numbers if self.numbers else self.backward(self.forward())

    def rotated(self, values: Matrix) -> Matrix:
        """X, W, A, dX or dA times R. Raises ValueError where a LoRA layer's I cannot be rotated."""
        b = rotation_size(self.rotation, len(values[0]))
        if self.rotation and b == 1:
            raise ValueError(f"four does not divide {len(values[0])}")
        return rotate(values, b)

    def weights(self) -> Weights:
        qmax = 127 if self.weight_bits == 8 else 7
        W = self.rotated(self.W)
        if self.weight_scales == "block":
            return quantize_squares(W, self.weight_block, qmax, self.weight_scale_range, self.power_of_two)
        return quantize_weights(W, qmax, self.weight_scales == "channel", self.weight_scale_range, self.power_of_two)

    def length(self, K: int) -> int:
        """Of the base segment, as the limits of section 5 take it."""
        return K * self.weight_scale_range if self.weight_scales == "block" else K

    def forward(self) -> dict:
        qa = 127 if self.activation_bits == 8 else 7
        r = len(self.A)
        s = self.alpha / r
        X = quantize(self.rotated(self.X), qa, self.hashes("X", "X"), self.power_of_two)
        A = quantize(self.rotated(self.A), qa, self.hashes("A", "A"), self.power_of_two)
        W = self.weights()
        quotients = [[quotient(x, scale) for x in row] for row, scale in zip(self.B, W.sw, strict=True)]
        b = power_exponent(quotients, qa)
        B = quantize_power(quotients, b, qa, self.hashes("B", "B"))
        accH = times_transposed(X.q, A.q)
        h, H = self.requantized(accH, s * A.scale, "H", qa)
        order = chain(self.length(len(self.W[0])), r, h + b)
        Bq = B.q if order.d == 0 else quantize_power(quotients, b + order.d, qa, self.hashes("coarse B", "B")).q
        accY = chained(times_transposed(X.q, W.q), times_transposed(H, Bq), order)
        Y = [[fl(x * ((X.scale * sw) * 2.0**order.k)) for x, sw in zip(row, W.sw, strict=True)] for row in accY]
        return {
            "s": s, "sx": X.scale, "Xq": X.q, "sa": A.scale, "Aq": A.q, "sw": W.sw, "Wq": W.q, "b": b, "Bq": B.q, "acc H": accH, "h": h,
            "Hq": H, "chain Y": order, "acc Y": accY, "Y": Y,
        }  # fmt: skip

    def backward(self, n: dict) -> dict:
        qa, qg = (127 if bits == 8 else 7 for bits in (self.activation_bits, self.gradient_bits))
        moved = [[fl(x * sw) for x, sw in zip(row, n["sw"], strict=True)] for row in self.dY]
        dY = quantize(moved, qg, self.hashes("dY", "dY"), self.power_of_two)
        g, s, sa, sx = dY.scale, n["s"], n["sa"], n["sx"]
        acc_dH = times_transposed(dY.q, transposed(n["Bq"]))
        c, dH = self.requantized(acc_dH, s * sa, "dH", qg)
        h_ = c + n["b"]
        order = chain(self.length(len(self.W)), len(self.A), h_)
        Aq = n["Aq"]
        if order.d:
            quotients = [[quotient(x, sa) for x in row] for row in self.rotated(self.A)]
            Aq = quantize_power(quotients, order.d, qa, self.hashes("coarse A", "A")).q
        acc_dX = chained(times_transposed(dY.q, transposed(n["Wq"])), times_transposed(dH, transposed(Aq)), order)
        acc_dB = times_transposed(transposed(dY.q), transposed(n["Hq"]))
        acc_dA = times_transposed(transposed(dH), transposed(n["Xq"]))
        self.numbers = n | {
            "g": g, "dYq": dY.q, "acc dH": acc_dH, "h'": h_, "dHq": dH, "chain dX": order, "acc dX": acc_dX, "acc dB": acc_dB,
            "acc dA": acc_dA,
            "dX": self.rotated([[fl(x * (g * 2.0**order.k)) for x in row] for row in acc_dX]),
            "dB": [[fl(x * (((g * sx) * 2.0 ** n["h"]) / sw)) for x in row] for row, sw in zip(acc_dB, n["sw"], strict=True)],
            "dA": self.rotated([[fl(x * (((g * sx) * 2.0**h_) / sa)) for x in row] for row in acc_dA]),
        }  # fmt: skip
        return self.numbers


def chained(base: Integers, adapter: Integers, order: Chain) -> Integers:
    first, second = (base, adapter) if order.base_first else (adapter, base)
    return [[(x << order.n) + y for x, y in zip(row, other, strict=True)] for row, other in zip(first, second, strict=True)]
