"""Fully quantized LoRA training: what a scheme may choose, and every decision that host and reference must make alike.

Definitions on Python numbers, standard library only; docs/numerics.md derives them. Array implementations (torch in
`verif`, numpy in `sw`) are written from the same text and compared with these.

Words: T, I, O, r and s = alpha / r as in docs/numerics.md. ``fl(x)`` is x rounded to IEEE binary32, half to even, subnormals
kept. *Accumulators* are the exact INT32 sums of INT8 products. A value that a docstring calls FP32 is a Python float
that binary32 holds exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum

from .numerics import Q4_MAX, Q8_MAX, Requantization, chain_shift_limit

__all__ = [
    "FQT",
    "STOCHASTIC_ROLES",
    "Chain",
    "Role",
    "SchemeError",
    "adapter_requantization",
    "block_exponent",
    "chain",
    "da_scale",
    "db_scale",
    "dequantize_value",
    "float32",
    "h_exponent",
    "h_scale",
    "power_exponent",
    "predicted_maximum",
    "quantize_power_value",
    "quantize_value",
    "remember_maximum",
    "scale_of",
    "hash_words",
    "tensor_id",
    "vanishes",
    "weight_scales",
]

SMALLEST_SCALE = 2.0**-126
"""The smallest normal binary32 number."""
HEADROOM_MAX = 16.0


class SchemeError(ValueError):
    """A scheme, or a tensor under it, that cannot be computed; the message names the value and what would be right."""


class Role(IntEnum):
    """What a tensor is in a layer; the low four bits of its id in the hash.

    A_CHAIN and B_CHAIN are the coarser copies that a chain may need (see `chain`). A frozen layer has X and DY. Attention has Q, K, V,
    DY (the gradient of its result), DY_ROWS (the same with the scales of P's rows taken in) and DS.
    """

    X = 0
    DY = 1
    H = 2
    DH = 3
    Y = 4
    DX = 5
    A = 6
    B = 7
    A_CHAIN = 8
    B_CHAIN = 9
    Q = 10
    K = 11
    V = 12
    DY_ROWS = 13
    DS = 14


STOCHASTIC_ROLES: Mapping[str, tuple[Role, ...]] = {
    "X": (Role.X, Role.Q, Role.K, Role.V),
    "dY": (Role.DY, Role.DY_ROWS, Role.DS),
    "H": (Role.H,),
    "dH": (Role.DH,),
    "Y": (Role.Y,),
    "dX": (Role.DX,),
    "A": (Role.A, Role.A_CHAIN),
    "B": (Role.B, Role.B_CHAIN),
}
"""Names for `FQT.stochastic`, and the roles that each one covers. The frozen W always rounds to nearest."""


def tensor_id(layer: int, role: Role, call: int = 0) -> int:
    """The ``tensor`` word of `numerics.hash_key`: layer * 4096 + call * 16 + role.

    Parameters: ``layer`` 0..2**20-1, the layer's place in the host's list of adapted layers (in order of name); ``call`` 0..255,
    how often that layer ran before within the same step; ``role``. Distinct arguments give distinct ids. Raises SchemeError.
    """
    for name, value, limit in (("layer", layer, 1 << 20), ("call", call, 256)):
        if not 0 <= value < limit:
            raise SchemeError(f"{name} must be in 0..{limit - 1}, not {value}")
    return layer << 12 | call << 4 | Role(role)


def hash_words(seed: int, step: int, layer: int, role: Role, call: int = 0) -> tuple[int, int, int]:
    """The words (seed, step, tensor) of `numerics.hash_key` for one tensor of one pass.

    Parameters: as `tensor_id`'s, but ``call`` is 0..2**32-1: `tensor_id` takes its low eight bits, and the rest adds to the upper half of
    ``seed``, modulo 2**64. Raises SchemeError.
    """
    if not 0 <= call < 1 << 32:
        raise SchemeError(f"call must be in 0..2**32-1, not {call}")
    return (seed + (call >> 8 << 32)) % (1 << 64), step, tensor_id(layer, role, call & 0xFF)


@dataclass(frozen=True)
class FQT:
    """A fully quantized training scheme. Hashable; `to_dict` and `from_dict` carry it through JSON.

    Attributes:
        weight_bits: bits of the frozen W: 8 (-127..127) or 4 (-7..7).
        activation_bits: bits of X and H, and of A and B: 8, or 4 (reference only).
        gradient_bits: bits of dY and dH: 8, or 4 (reference only).
        weight_scales: ``"channel"``, a scale for each row (output channel) of W; ``"tensor"``, one for all; or ``"block"``, one for
            each square of ``weight_block`` rows and columns, as a power of two of a common unit (reference only).
        weight_scale_range: largest over smallest scale of W's rows; a row with a smaller maximum takes the largest scale over
            this (see `weight_scales`). Power of two, 1..65536. B and dY share W's row scales, so that a row near zero would
            otherwise cost every other row of theirs its resolution. The same range holds for squares.
        weight_block: side of W's squares, a power of two, 2..256; read only where ``weight_scales`` is ``"block"``.
        power_of_two: the scales of X, A, W and dY are rounded up to powers of two (reference only).
        stochastic: names of the tensors that round stochastically, of X, dY, H, dH, Y, dX, A, B; the rest round half to even.
        adapter_scales: where the exponents of H and dH come from: ``"measured"``, this step's maximum (a first pass that only
            measures, from which the host decides); ``"device"``, the same maximum, from which the device decides within the bounds
            of `device_shift.DeviceShift`; or ``"delayed"``, the largest of earlier steps' maxima times ``headroom``.
        history: number of earlier maxima that ``"delayed"`` looks at, 1..1024.
        headroom: factor on the largest earlier maximum, 1..16.
        seed: of the rounding hash, 0..2**64-1.

    Raises SchemeError for a value that is not allowed, naming it.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    gradient_bits: int = 8
    weight_scales: str = "channel"
    weight_scale_range: int = 16
    weight_block: int = 16
    power_of_two: bool = False
    stochastic: tuple[str, ...] = ("dY", "dH")
    adapter_scales: str = "measured"
    history: int = 16
    headroom: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, rule: str) -> None:
            if not ok:
                raise SchemeError(f"{field} must be {rule}, not {getattr(self, field)!r}")

        for f in fields(self):
            if f.type == "int":
                value = getattr(self, f.name)
                need(isinstance(value, int) and not isinstance(value, bool), f.name, "an integer")
        need(self.weight_bits in (4, 8), "weight_bits", "4 or 8")
        need(self.activation_bits in (4, 8), "activation_bits", "4 or 8")
        need(self.gradient_bits in (4, 8), "gradient_bits", "4 or 8")
        need(self.weight_scales in ("tensor", "channel", "block"), "weight_scales", "'tensor', 'channel' or 'block'")
        power = self.weight_scale_range > 0 and self.weight_scale_range & (self.weight_scale_range - 1) == 0
        need(power and self.weight_scale_range <= 65536, "weight_scale_range", "a power of two in 1..65536")
        power = self.weight_block > 0 and self.weight_block & (self.weight_block - 1) == 0
        need(power and 2 <= self.weight_block <= 256, "weight_block", "a power of two in 2..256")
        need(isinstance(self.power_of_two, bool), "power_of_two", "True or False")
        if isinstance(self.stochastic, str):
            raise SchemeError(f"stochastic must be a tuple of names, not {self.stochastic!r}")
        for name in self.stochastic:
            if name not in STOCHASTIC_ROLES:
                raise SchemeError(f"stochastic may name {', '.join(STOCHASTIC_ROLES)}, not {name!r}")
        object.__setattr__(self, "stochastic", tuple(name for name in STOCHASTIC_ROLES if name in self.stochastic))
        need(self.adapter_scales in ("measured", "device", "delayed"), "adapter_scales", "'measured', 'device' or 'delayed'")
        if self.adapter_scales == "device" and (self.activation_bits, self.gradient_bits, self.weight_scales == "block") != (8, 8, False):
            raise SchemeError(
                "adapter_scales 'device' needs activation_bits and gradient_bits 8 and weight_scales 'tensor' or 'channel', not "
                f"{self.activation_bits}, {self.gradient_bits} and {self.weight_scales!r}"
            )
        need(1 <= self.history <= 1024, "history", "in 1..1024")
        need(1.0 <= self.headroom <= HEADROOM_MAX, "headroom", "in 1..16")
        object.__setattr__(self, "headroom", float(self.headroom))
        need(0 <= self.seed < 1 << 64, "seed", "in 0..2**64-1")

    @property
    def weight_qmax(self) -> int:
        """Largest magnitude of quantized W."""
        return Q8_MAX if self.weight_bits == 8 else Q4_MAX

    @property
    def activation_qmax(self) -> int:
        """Largest magnitude of quantized X, H, A and B."""
        return Q8_MAX if self.activation_bits == 8 else Q4_MAX

    @property
    def gradient_qmax(self) -> int:
        """Largest magnitude of quantized dY and dH."""
        return Q8_MAX if self.gradient_bits == 8 else Q4_MAX

    @property
    def weight_extra_bits(self) -> int:
        """By how many bits an operand of W may exceed `weight_qmax`: log2 of ``weight_scale_range`` where W has squares, else 0."""
        return self.weight_scale_range.bit_length() - 1 if self.weight_scales == "block" else 0

    def require_device(self) -> None:
        """Raises SchemeError, naming the field, for a scheme that only the reference runs."""
        for name, only in (("activation_bits", 8), ("gradient_bits", 8), ("power_of_two", False)):
            if getattr(self, name) != only:
                raise SchemeError(f"{name} must be {only} on a device, not {getattr(self, name)}; only the reference runs it")
        if self.weight_scales == "block":
            raise SchemeError("weight_scales must be 'tensor' or 'channel' on a device, not 'block'; only the reference runs it")

    def is_stochastic(self, role: Role) -> bool:
        """Whether tensors of this role round stochastically."""
        return any(role in STOCHASTIC_ROLES[name] for name in self.stochastic)

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {**asdict(self), "stochastic": list(self.stochastic)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> FQT:
        """The inverse of `to_dict`. Raises SchemeError for an unknown field or a value that is not allowed."""
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise SchemeError(f"a scheme has no field {name!r}; it has {', '.join(sorted(known))}")
        changed = dict(values)
        if isinstance(changed.get("stochastic"), list):
            changed["stochastic"] = tuple(changed["stochastic"])  # type: ignore[arg-type]
        return cls(**changed)  # type: ignore[arg-type]


# Quantizers.


def float32(x: float) -> float:
    """fl(x). The quotient or product of two FP32 values, computed in float64 and passed through here, is the binary32 one:
    float64 has more than twice as many bits. Raises SchemeError where the result is not finite."""
    try:
        rounded = struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise SchemeError(f"{x!r} is not a finite FP32 number")
    return rounded


def vanishes(maximum: float, qmax: int = Q8_MAX) -> bool:
    """Whether a tensor of this largest magnitude counts as zero: fl(maximum / qmax) is zero or subnormal.

    Such a tensor has scale 1 and q = 0 everywhere, whatever the rounding.
    """
    return float32(maximum / qmax) < SMALLEST_SCALE


def scale_of(maximum: float, qmax: int = Q8_MAX, power_of_two: bool = False) -> float:
    """FP32 scale of a tensor from ``maximum``, the FP32 largest magnitude of its values: fl(maximum / qmax), or with ``power_of_two``
    the smallest power of two of at least maximum / qmax, exactly (`power_exponent`); 1 where it `vanishes`.

    Raises SchemeError for a negative maximum or one that is not finite.
    """
    if not maximum >= 0.0:
        raise SchemeError(f"the largest magnitude of a tensor must be a finite number of at least 0, not {maximum!r}")
    if vanishes(maximum, qmax):
        return 1.0
    return math.ldexp(1.0, power_exponent(maximum, qmax)) if power_of_two else float32(maximum / qmax)


def weight_scales(maxima: Sequence[float], scheme: FQT) -> list[float]:
    """FP32 scales sw[o] of W's rows from the largest magnitudes of the rows.

    With L = `scale_of` (the largest of all): "tensor" gives L to every row; "channel" gives row o
    max(`scale_of`(maxima[o]) without its rule for what vanishes, fl(L / weight_scale_range), 2**-126). A row of zeros thus has a scale
    like its neighbours'. "block" gives every row the unit max(fl(L / weight_scale_range), 2**-126), see `block_exponent`. Where the
    largest vanishes, all scales are 1.
    """
    largest = max(maxima)
    qmax = scheme.weight_qmax
    top = scale_of(largest, qmax, scheme.power_of_two)
    if scheme.weight_scales == "tensor" or vanishes(largest, qmax):
        return [top] * len(maxima)
    floor = max(float32(top / scheme.weight_scale_range), SMALLEST_SCALE)
    if scheme.weight_scales == "block":
        return [floor] * len(maxima)
    if scheme.power_of_two:
        return [max(math.ldexp(1.0, power_exponent(m, qmax)) if m else 0.0, floor) for m in maxima]
    return [max(float32(m / qmax), floor) for m in maxima]


def block_exponent(maximum: float, unit: float, scheme: FQT) -> int:
    """The exponent e of one square of W with "block": its values are unit * 2**e * q, q in +-weight_qmax.

    Parameters: ``maximum``, the largest magnitude in the square; ``unit``, the row scale of `weight_scales`. The smallest e in
    0..`FQT.weight_extra_bits` with fl(maximum / unit) <= weight_qmax * 2**e; e is the largest there is for the square that holds the
    tensor's maximum.
    """
    return min(max(power_exponent(float32(maximum / unit), scheme.weight_qmax), 0), scheme.weight_extra_bits)


def _round_clip(y: float, qmax: int, h: int | None) -> int:
    q = round(y) if h is None else math.floor(y + h / 2.0**32)
    return max(-qmax, min(qmax, q))


def quantize_value(x: float, scale: float, qmax: int = Q8_MAX, h: int | None = None) -> int:
    """One FP32 value of a tensor that does not vanish, quantized with a real scale.

    y = fl(x / scale), a binary32 division. Without ``h``: y rounded to an integer, half to even. With ``h``, a 32-bit hash: the
    floor of the float64 sum y + h / 2**32 (one IEEE addition). Then clipped to +-qmax.
    """
    return _round_clip(float32(x / scale), qmax, h)


def quantize_power_value(x: float, exponent: int, qmax: int = Q8_MAX, h: int | None = None) -> int:
    """The same with the scale 2**exponent, where y = x * 2**-exponent is exact (a float64 ldexp)."""
    return _round_clip(math.ldexp(x, -exponent), qmax, h)


def power_exponent(maximum: float, qmax: int = Q8_MAX) -> int:
    """The smallest integer e with maximum <= qmax * 2**e, exactly; 0 for a maximum of 0.

    With maximum = m * 2**k, m in [0.5, 1) (frexp), and qmax = 127: e = k - 7 if m <= 127 / 128, else k - 6.
    """
    if not (maximum >= 0.0 and math.isfinite(maximum)):
        raise SchemeError(f"the largest magnitude of a tensor must be a finite number of at least 0, not {maximum!r}")
    if maximum == 0.0:
        return 0
    m, k = math.frexp(maximum)
    top, bits = math.frexp(qmax)
    return k - bits if m <= top else k - bits + 1


# H and dH.


def predicted_maximum(history: Sequence[int], scheme: FQT) -> float | None:
    """What `h_exponent` takes for this step when scales are delayed: headroom * max(history); None where a measured pass is needed.

    ``history`` holds accumulator maxima of earlier steps, newest last. None unless scales are ``"delayed"``, for an empty history, and
    for one of zeros only (B = 0 makes the first dH zero; a scale made from that would never let training start).
    """
    if scheme.adapter_scales != "delayed" or max(history, default=0) == 0:
        return None
    return scheme.headroom * max(history)


def remember_maximum(history: Sequence[int], maximum: int, scheme: FQT) -> list[int]:
    """The history after a step whose accumulators' largest magnitude was ``maximum``; the last ``scheme.history`` entries stay.

    From the statistics of an INT8 result (max |p|, p = accumulator * mantissa) the maximum is max |p| / mantissa, exactly.
    """
    return [*history, maximum][-scheme.history :]


def h_exponent(scaling: float, sa: float, maximum: float, qmax: int = Q8_MAX) -> int:
    """The exponent c of H (h = c) or dH (h' = b + c): the smallest with (s * sa) * max(maximum, 1) <= qmax * 2**c.

    Parameters: ``scaling`` s = alpha / r (float64); ``sa``, scale of A; ``maximum``, the largest magnitude of the accumulators, measured
    or predicted. Products in float64, in the order written. Both requantize with the ratio s * sa * 2**-c (docs/numerics.md).
    """
    return power_exponent((scaling * sa) * max(float(maximum), 1.0), qmax)


def adapter_requantization(scaling: float, sa: float, c: int) -> Requantization:
    """Accumulators of H or dH to INT8: `Requantization.from_ratio` of the float64 ldexp(s * sa, -c)."""
    return Requantization.from_ratio(math.ldexp(scaling * sa, -c))


# Chains.


@dataclass(frozen=True)
class Chain:
    """How the two segments of Y (or dX) share one accumulator.

    Attributes:
        base_first: True: base segment (X W^T, or dY W) first, then the adapter's (H B^T, or dH A). False: the other way round.
        shift: left shift n of the accumulators between the segments, 0..16.
        drop: d, by how many bits the adapter's right operand (B for Y, A for dX) is coarser in this chain than elsewhere; 0: the same copy.
        exponent: k: the output's scale is the base segment's scale times 2**k.
    """

    base_first: bool
    shift: int
    drop: int
    exponent: int


def chain(k_base: int, k_adapter: int, exponent: int) -> Chain:
    """Order, shift and coarsening of a chained output.

    Parameters: reduction lengths of the two segments (I and r for Y; O and r for dX), and e: the adapter segment's scale is the base
    segment's times 2**e (e = h + b for Y, h' for dX).

    - e <= 0: the base segment is the coarser one and runs first; n = min(-e, L) with L = chain_shift_limit(k_base, k_adapter), the
      largest n of at most 16 with (k_base * 2**n + k_adapter) * 2**14 <= 2**31 - 1. What is missing, d = -e - n, is taken from the
      adapter's right operand, quantized anew with a scale 2**d coarser. k = -n.
    - e > 0: the adapter segment runs first, n = e, d = 0, k = 0.

    Raises SchemeError where no accumulator fits: k_base + k_adapter above 131071, or e > chain_shift_limit(k_adapter, k_base).
    """
    if exponent <= 0:
        limit = chain_shift_limit(k_base, k_adapter)
        if limit < 0:
            raise SchemeError(f"a chain of {k_base} and {k_adapter} products may overflow 32 bits; split it into parts of at most 131071")
        n = min(-exponent, limit)
        return Chain(True, n, -exponent - n, -n)
    limit = chain_shift_limit(k_adapter, k_base)
    if exponent > limit:
        raise SchemeError(
            f"the adapter's term is 2**{exponent} coarser than the base weight's, and {k_adapter} + {k_base} products leave room for "
            f"2**{limit}; the adapter has outgrown the base weight"
        )
    return Chain(False, exponent, 0, 0)


# Scales of results, in float64; the order of operations is part of the definition.


def h_scale(sx: float, scaling: float, h: int) -> float:
    """Scale of quantized H = X A^T, without s: 2**h * sx / s."""
    return math.ldexp(sx, h) / scaling


def db_scale(g: float, sx: float, sw: float, h: int) -> float:
    """Scale of row o of the INT32 dB = dYq^T Hq, with sw = sw[o]: ((g * sx) * 2**h) / sw; s cancels."""
    return math.ldexp(g * sx, h) / sw


def da_scale(g: float, sx: float, sa: float, h_prime: int) -> float:
    """Scale of the INT32 dA = dHq^T Xq: ((g * sx) * 2**h') / sa."""
    return math.ldexp(g * sx, h_prime) / sa


def dequantize_value(acc: int, scale: float) -> float:
    """An INT32 result as FP32: fl(acc * scale), the product in float64; infinite where FP32 does not hold it.

    Scales of Y: (sx * sw[o]) * 2**k; of dX: g * 2**k.
    """
    product = float(acc) * scale
    try:
        return struct.unpack("<f", struct.pack("<f", product))[0]
    except OverflowError:
        return math.copysign(math.inf, product)
