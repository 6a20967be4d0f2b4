"""How long a training step takes that never leaves the device, by a model: cycles of the array, of the vector unit and of the bus.

A model on paper, which no hardware has confirmed; docs/step_backend.md says what runs. What it assumes is in docs/step.md: each figure of
this file is one of its sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loralith.compiler.schedules.matmul import array_cycles, best_fold
from loralith.device.products import plan_product
from loralith.errors import LoralithError
from loralith.spec.config import Config
from loralith.step.operators import Operator, StepGraph

__all__ = ["LANES", "PASSES", "Kind", "StepModel", "model_step"]

LANES = {"ecp5": 4}
"""Lanes of the vector unit by preset; elsewhere one for each row of the array."""


@dataclass(frozen=True)
class Passes:
    """What the vector unit does for an operator: ``visits`` of each element, one an element, lane and cycle.

    ``fused`` of them run beside the product that makes or takes the tensor; the others wait for a sum over all of it.
    """

    visits: int
    fused: int


PASSES: Mapping[str, Passes] = {
    "add": Passes(1, 1),
    "sub": Passes(1, 1),
    "mul": Passes(1, 1),
    "div": Passes(1, 1),
    "cat": Passes(0, 0),
    "silu": Passes(2, 2),
    "silu_backward": Passes(4, 4),
    "gelu": Passes(3, 3),
    "gelu_backward": Passes(5, 5),
    # Forward: exp(z - max), with the maximum from a first S. Backward: the same again, then P (dP - rowsum), the row's sum from dO and O.
    "_softmax": Passes(1, 1),
    "_softmax_backward_data": Passes(2, 2),
    # The sum beside the producer, the squares of what is left, then scale and shift.
    "native_group_norm": Passes(3, 1),
    "native_group_norm_backward": Passes(4, 1),
    "native_layer_norm": Passes(3, 1),
    "native_layer_norm_backward": Passes(4, 1),
    "mse_loss": Passes(1, 0),
    "mse_loss_backward": Passes(1, 1),
    "upsample_nearest2d": Passes(1, 1),
    "upsample_nearest2d_backward": Passes(1, 1),
}
"""Of every operator that is no product. One that is neither here nor in `FREE` is an error."""

FREE = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "split", "unsqueeze"),
        *("squeeze", "select", "detach", "alias", "clone", "index", "where", "embedding", "_to_copy", "lift_fresh", "empty"),
        *("new_empty_strided", "empty_like", "zeros", "ones", "full", "zeros_like", "ones_like", "new_zeros"),
        *("scalar_tensor", "arange", "exp", "cos", "sin", "pow", "copy_", "slice_backward", "select_backward", "fill_"),
        *("rsub", "new_empty", "empty_strided", "split_with_sizes", "gt"),
    )
)
"""Operators that move nothing on the device, or that the host computes once (the embedding of the timestep)."""


@dataclass
class Kind:
    """Sums over the operators of one kind: cycles of array, vector unit and bus, and how long they take together."""

    macs: int = 0
    array: int = 0
    vector: int = 0
    bus: int = 0
    cycles: int = 0
    operators: int = 0


@dataclass
class StepModel:
    """``kinds`` by name. ``macs``: useful ones; ``utilization``: of the array, in useful MACs, over the whole step."""

    config: Config
    lanes: int
    kinds: dict[str, Kind] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        return sum(kind.macs for kind in self.kinds.values())

    @property
    def cycles(self) -> int:
        return sum(kind.cycles for kind in self.kinds.values())

    @property
    def utilization(self) -> float:
        return self.macs / (self.cycles * self.config.processing_elements)

    def figures(self) -> dict[str, Any]:
        """As JSON values."""
        kinds = {name: vars(kind) for name, kind in self.kinds.items()}
        return {
            "config": self.config.name,
            "lanes": self.lanes,
            "macs": self.macs,
            "cycles": self.cycles,
            "utilization": self.utilization,
            "kinds": kinds,
        }


def _kind(operator: Operator, rank: int) -> str:
    product = operator.product
    if product is None:
        if "softmax" in operator.name:
            return "attention"
        return "normalization" if "norm" in operator.name else "element-wise"
    if "convolution" in operator.name:
        return "convolution"
    if operator.name in ("bmm", "baddbmm"):
        return "attention"
    return "adapter" if rank in product[1:] else "linear"


def _array(operator: Operator, kind: str, rank: int, config: Config) -> int:
    assert operator.product is not None
    count, M, N, K = operator.product
    if kind == "adapter" and rank == K:
        # The second segment of a chained product: its steps follow those of the base layer in the same tiles.
        return -(-M // config.rows) * -(-N // config.cols) * K
    straight = array_cycles(M, N, K, best_fold(K, N, config), config)
    swapped = array_cycles(N, M, K, best_fold(K, M, config), config)
    return count * min(straight, swapped)


def _bus_bytes(operator: Operator, kind: str, rank: int, config: Config) -> tuple[int, int]:
    """(read, written) of one operator: INT8 operands as their plan reads them, results of 2 bytes; of attention see docs/step.md."""
    assert operator.product is not None
    count, M, N, K = operator.product
    if kind == "adapter" and rank == K:
        return K * N, 0  # X, or dY, is on chip, and the result is the base layer's
    batch, _ = plan_product(M, N, K, config, count=1, left_resident=True, right_resident=True)
    read, _ = batch.plan.traffic(config)
    written = 2 * count * M * N
    return read * count, written


def model_step(graph: StepGraph, config: Config, rank: int, lanes: int | None = None) -> StepModel:
    """The model of docs/step.md for a traced step. ``lanes``: of the vector unit, by default `LANES`.

    Raises LoralithError for an operator that it does not know, by name.
    """
    lanes = lanes or LANES.get(config.name, config.rows)
    result = StepModel(config, lanes)
    kinds = result.kinds
    fused: dict[str, int] = {}
    for operator in graph.operators:
        if operator.name in FREE or not operator.outputs:
            continue
        if operator.product is None and operator.name not in PASSES:
            raise LoralithError(f"the model of a step has no operator {operator.name!r}; it has {', '.join(sorted(PASSES))}")
        kind = _kind(operator, rank)
        own = kinds.setdefault(kind, Kind())
        own.operators += 1
        if operator.product is not None:
            array = _array(operator, kind, rank, config)
            read, written = _bus_bytes(operator, kind, rank, config)
            if operator.name == "baddbmm":
                array *= 3  # S for the rows' maxima, S again, and once more in the backward pass
                read, written = 3 * read, 0
            elif kind == "attention" and operator.backward and operator.product[3] < operator.product[2]:
                written = 0  # dP stays on chip
            elif kind == "attention" and operator.backward:
                read += math.prod(operator.product[:2]) * operator.product[3] // 2  # dS or P, written and read as INT8: dV and dK
                written += math.prod(operator.product[:2]) * operator.product[3] // 2
            bus = max(-(-read // config.bus_bytes), -(-written // config.bus_bytes))
            own.macs += operator.macs
            own.array += array
            own.bus += bus
            own.cycles += max(array, bus)
        else:
            passes = PASSES[operator.name]
            elements = operator.elements
            vector = -(-elements // lanes)
            own.vector += passes.visits * vector
            fused[kind] = fused.get(kind, 0) + passes.fused * vector
            alone = (passes.visits - passes.fused) * vector
            bus = (passes.visits - passes.fused) * -(-2 * elements // config.bus_bytes)
            own.bus += bus
            own.cycles += max(alone, bus)
    _overlap(kinds, fused)
    return result


def _overlap(kinds: dict[str, Kind], fused: dict[str, int]) -> None:
    """What the vector unit does beside products takes time only where it is more than the array leaves: softmax beside attention's
    products, the rest beside convolutions and linear layers."""
    attention = kinds.get("attention")
    if attention:
        attention.cycles = max(attention.cycles, fused.pop("attention", 0))
    beside = sum(kinds[name].cycles for name in ("convolution", "linear", "adapter") if name in kinds)
    spare = sum(fused.values()) - beside
    if spare > 0 and "element-wise" in kinds:
        kinds["element-wise"].cycles += spare
