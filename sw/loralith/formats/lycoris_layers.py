"""LoKr's and LoHa's layers: the factors of the weight that each adds, whatever file they are from.

LoKr adds the Kronecker product of w1 [l, m] and w2 [k, n, ...], LoHa the elementwise product of w1 and w2 [O, I, ...]. Each may be a
product of two factors a and b over the rank. PEFT, LyCORIS, kohya and ComfyUI name and shape the factors alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from loralith.formats.adapter_checks import AdapterError

__all__ = ["FACTORS", "KINDS", "FactorAdapter", "FactorLayer", "check_factor_shapes", "kind_of"]

KINDS: Mapping[str, str] = {"lokr": "LoKr", "loha": "LoHa"}
FACTORS: Mapping[str, tuple[str, ...]] = {
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
}
"""Names of the factors, by kind."""
WHOLE: Mapping[str, tuple[frozenset[str], ...]] = {
    "lokr": tuple(
        frozenset(f"lokr_{name}" for name in (*one, *two))
        for one in (("w1",), ("w1_a", "w1_b"))
        for two in (("w2",), ("w2_a", "w2_b"), ("w2_a", "w2_b", "t2"))
    ),
    "loha": (frozenset(FACTORS["loha"][:4]), frozenset(FACTORS["loha"])),
}
"""Which factors make a layer."""


@dataclass(frozen=True)
class FactorLayer:
    """Factors by name, and the scale of the weight that they make."""

    factors: Mapping[str, Tensor]
    scale: float

    @property
    def rank(self) -> int | None:
        """None where both of LoKr's matrices are whole."""
        for name in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if name in self.factors:
                return int(self.factors[name].shape[0])
        return None

    def matrices(self) -> tuple[Tensor, Tensor]:
        """w1 and w2, without the scale, of a convolution's kernel as it is or flattened."""
        kind = kind_of(self.factors)
        names = ("lokr_w1", "lokr_w2") if kind == "lokr" else ("hada_w1", "hada_w2")
        return self._matrix(names[0], "hada_t1"), self._matrix(names[1], "lokr_t2" if kind == "lokr" else "hada_t2")

    def _matrix(self, name: str, middle: str) -> Tensor:
        if name in self.factors:
            return self.factors[name]
        a, b = self.factors[f"{name}_a"], self.factors[f"{name}_b"]
        if middle not in self.factors:
            return a @ b
        return torch.einsum("ij...,ip,jr->pr...", self.factors[middle], a, b)

    def weight(self, shape: tuple[int, ...]) -> Tensor:
        """What the layer adds to a weight of ``shape``."""
        one, two = self.matrices()
        if kind_of(self.factors) == "loha":
            return (one * two * self.scale).reshape(shape)
        return (torch.kron(one.reshape(*one.shape, *[1] * (two.ndim - 2)), two) * self.scale).reshape(shape)


@dataclass(frozen=True)
class FactorAdapter:
    """A model's adapter of LoKr or LoHa (``kind``), layers by the module's name; else as `Adapter`."""

    kind: str
    layers: Mapping[str, FactorLayer]
    source: str = ""
    left_out: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def kind_of(factors: Mapping[str, Tensor]) -> str:
    return "lokr" if any(name.startswith("lokr") for name in factors) else "loha"


def check_factor_shapes(name: str, factors: Mapping[str, Tensor], weight: tuple[int, ...], path: Path) -> None:
    """Raises AdapterError unless the factors make a weight of this shape, [O, I, ...]."""
    kind = kind_of(factors)
    if frozenset(factors) not in WHOLE[kind]:
        sets = " or ".join(", ".join(sorted(one)) for one in WHOLE[kind])
        raise AdapterError(f"{path}: {name} has the factors {', '.join(sorted(factors))}; {KINDS[kind]} has {sets}")
    if len(weight) not in (2, 4):
        raise AdapterError(f"{path} has the layer {name}, which is no Linear and no convolution of this model")
    shapes = {key: list(tensor.shape) for key, tensor in factors.items()}
    try:
        with torch.device("meta"):
            layer = FactorLayer({key: torch.empty(shape) for key, shape in shapes.items()}, 1.0)
        one, two = (tuple(matrix.shape) for matrix in layer.matrices())
    except RuntimeError:
        raise AdapterError(f"{path}: {name} has factors of shapes that do not multiply: {shapes}") from None
    flat = (weight[0], math.prod(weight[1:]))
    if kind == "loha":
        fits = one == two and one in (weight, flat)
    else:
        made = (one[0] * two[0], one[1] * two[1], *two[2:]) if len(one) == 2 and len(two) >= 2 else ()
        fits = made == weight or (made == flat and weight[1] % one[1] == 0)
    if not fits:
        raise AdapterError(f"{path}: {name} has factors of shapes {shapes}, which make no weight of {list(weight)}")
