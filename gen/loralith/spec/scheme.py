"""Fully quantized LoRA training: what a scheme may choose, and what a tensor is in a layer. `scales` has the decisions on numbers.

Standard library only; docs/numerics.md derives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import IntEnum

from .numerics import Q4_MAX, Q8_MAX

__all__ = [
    "FQT",
    "ROTATIONS",
    "STOCHASTIC_ROLES",
    "Role",
    "SchemeError",
    "hash_words",
    "tensor_id",
]

HEADROOM_MAX = 16.0
ROTATIONS = (0, 4, 16, 64, 256)
"""What `FQT.rotation` may be."""


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
        rotation: largest block of the Hadamard rotation of X, W and A along their reduction (see `scales.rotation_block`): 4, 16, 64
            or 256, or 0 for none.
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
    rotation: int = 0
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
        need(self.rotation in ROTATIONS, "rotation", f"one of {', '.join(map(str, ROTATIONS))} (powers of four; 0 for none)")
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

    def require_unrotated(self, what: str) -> None:
        """Raises SchemeError for a scheme with a rotation, which ``what`` does not have."""
        if self.rotation:
            raise SchemeError(f"{what} have no rotation: rotation must be 0, not {self.rotation}")

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
