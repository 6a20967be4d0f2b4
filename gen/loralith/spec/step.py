"""The numbers of a training step that runs whole on a device: what may be chosen. docs/step.md defines them.

Standard library only, like the rest of `loralith.spec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from .scheme import SchemeError

__all__ = ["BATCH_MAX", "LEAST_ROWS", "PART_TERMS", "STORAGE", "WHOLE_TERMS", "StepScheme", "dimension_of", "row_dimension", "sum_parts"]

BATCH_MAX = 127 << 8
"""Largest magnitude of a value of the batch in two words: 2^8 times 127, so that the vector unit's SCALE gives its scale as well."""
WHOLE_TERMS = 4096
"""Terms of a sum that is made at once, at most."""
PART_TERMS = 256
"""Terms of a part of a longer sum, at most."""
LEAST_ROWS = 16
"""Rows that a gradient has at least for them to lie along the lanes: four draws of the hash."""
STORAGE = ("vector", "bf16", "e6m9", "int16")


def sum_parts(shape: Sequence[int], dims: Sequence[int]) -> tuple[int, int] | None:
    """How a sum over ``dims`` (each at least 0) of a tensor of ``shape`` is made: at once (None), or first of parts, as (the dimension
    that is cut, terms of each part): of the longest one, the last of equals."""
    terms, long = math.prod(shape[d] for d in dims), max(dims, key=lambda d: (shape[d], d), default=0)
    if terms <= WHOLE_TERMS:
        return None
    part = next(n for n in range(min(PART_TERMS, shape[long]), 0, -1) if shape[long] % n == 0)
    return None if part == 1 else (long, part)


def row_dimension(shape: Sequence[int]) -> int | None:
    """The dimension of a gradient, of ``shape`` as it was computed, along the lanes where it is rounded stochastically: the rows' index of
    a matrix or of matrices [B, M, N], the second dimension of [N, C, H, W] or [B, T, heads, C]. None where that is short: then the last one
    of what the product reads."""
    found = {2: 0, 3: 1, 4: 1}.get(len(shape))
    return None if found is None or shape[found] < LEAST_ROWS else found


def dimension_of(shape: Sequence[int], strides: Sequence[int], size: int, stride: int) -> int:
    """The last dimension of a view that has ``size`` and ``stride``; -1 where there is none."""
    return max((d for d, own in enumerate(zip(shape, strides, strict=True)) if own == (size, stride)), default=-1)


@dataclass(frozen=True)
class StepScheme:
    """How every operator of a training step rounds. Hashable; `to_dict` and `from_dict` carry it through JSON.

    Attributes:
        fraction_bits: fraction bits p of the vector unit's floating-point format (1 sign, 8 exponent, p fraction bits), 7..23.
        storage: how a tensor lies in memory between two operators: ``"vector"``, in the vector format itself; ``"bf16"``, with 7 fraction
            bits; ``"e6m9"``, with 6 exponent and 9 fraction bits, 2^-44 .. 2^19; ``"int16"``, as 16-bit integers times a power of two for
            the tensor.
        optimizer_bits: fraction bits of A, B and AdamW's moments, 7..23.
        batch_words: INT8 words of each value of the noisy batch where a convolution reads it, 2 or 1. The prediction follows the batch
            closely, so that one word's rounding of it would be the largest error of the whole step.
        operand_words: INT8 tensors that stand for each operand that is not frozen: 1, or 2, the second one of what the first one's rounding
            has left. A difference of two losses needs 2: docs/step.md.
        stochastic_update: whether A and B round stochastically when the optimizer writes them.
        stochastic: whether gradients round stochastically to INT8 (everything else rounds half to even).
        seed: of the rounding, 0..2**64-1.

    Raises SchemeError for a value that is not allowed, naming it.
    """

    fraction_bits: int = 16
    storage: str = "bf16"
    optimizer_bits: int = 16
    batch_words: int = 2
    operand_words: int = 1
    stochastic_update: bool = False
    stochastic: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {"fraction_bits": (7, 23), "optimizer_bits": (7, 23), "batch_words": (1, 2), "operand_words": (1, 2)}
        for name, (low, high) in {**ranges, "seed": (0, (1 << 64) - 1)}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise SchemeError(f"{name} must be an integer in {low}..{high}, not {value!r}")
        if self.storage not in STORAGE:
            raise SchemeError(f"storage must be one of {', '.join(STORAGE)}, not {self.storage!r}")
        for name in ("stochastic_update", "stochastic"):
            if not isinstance(getattr(self, name), bool):
                raise SchemeError(f"{name} must be True or False, not {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> StepScheme:
        """The inverse of `to_dict`. Raises SchemeError for an unknown field or a value that is not allowed."""
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise SchemeError(f"a step scheme has no field {name!r}; it has {', '.join(sorted(known))}")
        return cls(**values)  # type: ignore[arg-type]
