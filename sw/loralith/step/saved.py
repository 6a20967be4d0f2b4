"""Which tensors a step keeps from its forward pass for its backward pass, and how much device memory it takes.

The backward pass may compute again what needs no product: an activation from the tensor before it, a norm's result from its input and its
two numbers, a softmax from Q and K. Which tensors are kept is a minimum cut of the graph, in bytes (as AOTAutograd's partitioner does it:
Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost", is the idea of computing again).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx

from loralith.spec.graph import MOVES, Graph, Kind, Node, Op
from loralith.spec.numerics import Q8_MAX

__all__ = ["Plan", "plan_memory", "tensor_bytes"]

FROM_HOST = (Op.INPUT, Op.FROZEN, Op.STATE)


@dataclass(frozen=True)
class Plan:
    """Bytes of a step on the device.

    Attributes:
        saved: bytes of each tensor that is kept for the backward pass, by node.
        resident: of what is there in every step: weights, their units, adapters.
        peak: the most at any time, with what is resident.
        forward_peak: the same of a forward pass alone, that keeps nothing.
    """

    saved: dict[str, int]
    resident: int
    peak: int
    forward_peak: int

    @property
    def saved_bytes(self) -> int:
        return sum(self.saved.values())


def tensor_bytes(graph: Graph, node: Node) -> int:
    """In DRAM: INT8 one byte, the batch's two words two, bfloat16 two, other words four."""
    root = node
    while root.op in MOVES and root.op is not Op.CONCAT:
        root = graph[root.inputs[0]]
    elements = math.prod(node.shape)
    if node.kind is Kind.INT8:
        return elements * (1 if root.attributes.get("limit", Q8_MAX) <= Q8_MAX else 2)
    return elements * (2 if root.op in (Op.BRAIN, Op.CONCAT) else 4)


def plan_memory(graph: Graph) -> Plan:
    """The plan of a graph whose outputs are ``loss`` and gradients."""
    order = {name: i for i, name in enumerate(graph.nodes)}
    boundary = order[graph.outputs["loss"]]
    saved = _cut(graph, order, boundary)
    resident = sum(tensor_bytes(graph, node) for node in graph.nodes.values() if node.op in FROM_HOST)
    stored = _stored(graph)
    intervals = _intervals(graph, order, boundary, stored, set(saved))
    forward = [
        (start, min(end, boundary), size) for start, end, size in _intervals(graph, order, boundary, stored, set()) if start < boundary
    ]
    return Plan(saved, resident, resident + _highest(intervals), resident + _highest(forward))


def _scores(graph: Graph) -> set[str]:
    """The products whose sums a softmax takes: the backward pass computes them again."""
    found: set[str] = set()
    for node in graph.of(Op.MAXIMUM):
        while node.op is not Op.MATMUL:
            node = graph[node.inputs[0]]
        found.add(node.name)
    return found


def _cut(graph: Graph, order: dict[str, int], boundary: int) -> dict[str, int]:
    """The cheapest tensors of the forward pass from which all that the backward pass reads can be computed without a product."""
    flow = nx.DiGraph()
    again = _scores(graph)
    for name, node in graph.nodes.items():
        reads = [x for x in node.inputs if isinstance(x, str)]
        if order[name] > boundary:
            flow.add_edges_from((f"{x} out", "backward") for x in reads if order[x] <= boundary)
            continue
        free = node.op in FROM_HOST
        flow.add_edge(f"{name} in", f"{name} out", capacity=0 if free else tensor_bytes(graph, node))
        product = node.op in (Op.MATMUL, Op.CONVOLUTION) and name not in again
        if not reads or product or node.op in (Op.LARGEST, Op.SUM):
            flow.add_edge("forward", f"{name} in")
        else:
            flow.add_edges_from((f"{x} out", f"{name} in") for x in reads)
    _, (before, after) = nx.minimum_cut(flow, "forward", "backward", flow_func=nx.algorithms.flow.boykov_kolmogorov)
    cut = (n for n in graph.nodes.values() if f"{n.name} in" in before and f"{n.name} out" in after and n.op not in FROM_HOST)
    return {node.name: tensor_bytes(graph, node) for node in cut}


def _stored(graph: Graph) -> set[str]:
    """Nodes with a place of their own: bfloat16 tensors, INT8 operands but for softmax's, which stay on chip, and what is reduced."""
    on_chip = {graph[node.inputs[0]].name for node in graph.of(Op.COUNT)}
    kept = (Op.BRAIN, Op.CONCAT, Op.LARGEST, Op.SUM, Op.COUNT)
    return {n.name for n in graph.nodes.values() if n.op in kept or (n.op is Op.QUANTIZE and n.name not in on_chip)}


def _intervals(graph: Graph, order: dict[str, int], boundary: int, stored: set[str], saved: set[str]) -> Iterable[tuple[int, int, int]]:
    """(first, last, bytes): when each stored tensor is in memory. One of the forward pass that is not saved may be there twice."""
    roots: dict[str, set[str]] = {}
    reads: dict[str, list[int]] = {name: [] for name in stored | saved}
    for name, node in graph.nodes.items():
        inputs = [x for x in node.inputs if isinstance(x, str)]
        for root in set().union(*(roots[x] for x in inputs)):
            reads[root].append(order[name])
        roots[name] = {name} if name in reads else set().union(*(roots[x] for x in inputs))
    for name, times in reads.items():
        made, size = order[name], tensor_bytes(graph, graph[name])
        if made > boundary or name in saved:
            yield made, max(times, default=made), size
            continue
        forward, backward = [t for t in times if t <= boundary], [t for t in times if t > boundary]
        yield made, max(forward, default=made), size
        if backward:
            yield min(backward), max(backward), size


def _highest(intervals: Iterable[tuple[int, int, int]]) -> int:
    changes: dict[int, int] = {}
    for start, end, size in intervals:
        changes[start] = changes.get(start, 0) + size
        changes[end + 1] = changes.get(end + 1, 0) - size
    highest = live = 0
    for time in sorted(changes):
        live += changes[time]
        highest = max(highest, live)
    return highest
