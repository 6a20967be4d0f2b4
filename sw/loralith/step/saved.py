"""Which tensors a step keeps from its forward pass for its backward pass, and how much device memory it takes.

The backward pass may compute again what needs no product: an activation from the tensor before it, a norm's result from its input and its
two numbers; and products whose result is several times as large as what they read: a softmax's sums from Q and K, the two halves of GEGLU.
Which tensors are kept is a minimum cut of the graph, in bytes (as AOTAutograd's partitioner does it: Chen et al., 2016, "Training Deep Nets
with Sublinear Memory Cost", is the idea of computing again).

A matrix of scores [queries, keys], and what has its shape (P, dP, dS), is made block by block as often as it is read, and is nowhere whole.
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
EXPANDING = 4
"""A product whose result has at least so many times the elements of its operands that are not frozen is computed again."""


@dataclass(frozen=True)
class Plan:
    """Bytes of a step on the device.

    Attributes:
        saved: bytes of each tensor that is kept for the backward pass, by node.
        recomputed: products of the forward pass that the backward pass computes again for it.
        resident: of what is there in every step: weights, their units, adapters.
        peak: the most at any time, with what is resident.
        forward_peak: the same of a forward pass alone, that keeps nothing.
    """

    saved: dict[str, int]
    recomputed: tuple[str, ...]
    resident: int
    peak: int
    forward_peak: int

    @property
    def saved_bytes(self) -> int:
        return sum(self.saved.values())


def tensor_bytes(graph: Graph, node: Node, word_bytes: int = 2) -> int:
    """In DRAM: INT8 one byte, the batch's two words two, what lies between operators ``word_bytes`` (bfloat16 two), other words four."""
    root = node
    while root.op in MOVES and root.op is not Op.CONCAT:
        root = graph[root.inputs[0]]
    elements = math.prod(node.shape)
    if node.kind is Kind.INT8:
        return elements * (1 if root.attributes.get("limit", Q8_MAX) <= Q8_MAX else 2)
    return elements * (word_bytes if root.op in (Op.BRAIN, Op.CONCAT) else 4)


def plan_memory(graph: Graph, word_bytes: int = 2) -> Plan:
    """The plan of a graph whose outputs are ``loss`` and gradients. ``word_bytes``: of an element between two operators.

    Two products of a matrix of scores in the forward pass, and three more in the backward pass, are not among ``recomputed``.
    """
    order = {name: i for i, name in enumerate(graph.nodes)}
    boundary = order[graph.outputs["loss"]]
    scores = _scores(graph)
    saved = _cut(graph, order, boundary, scores | _expanding(graph))
    resident = sum(tensor_bytes(graph, node) for node in graph.nodes.values() if node.op in FROM_HOST)
    stored = _stored(graph, scores)
    sizes = {name: tensor_bytes(graph, graph[name], word_bytes) for name in stored | set(saved)}
    intervals = _intervals(graph, order, boundary, sizes, set(saved))
    forward = [
        (start, min(end, boundary), size) for start, end, size in _intervals(graph, order, boundary, sizes, set()) if start < boundary
    ]
    again = tuple(sorted(_needed(graph, order, boundary, set(saved)) - scores, key=order.__getitem__))
    return Plan(saved, again, resident, resident + _highest(intervals), resident + _highest(forward))


def _scores(graph: Graph) -> set[str]:
    """The products whose sums a softmax takes: the backward pass computes them again."""
    found: set[str] = set()
    for node in graph.of(Op.MAXIMUM):
        while node.op is not Op.MATMUL:
            node = graph[node.inputs[0]]
        found.add(node.name)
    return found


def _root(graph: Graph, node: Node) -> Node:
    while node.op in MOVES and node.op is not Op.CONCAT:
        node = graph[node.inputs[0]]
    return node


def _expanding(graph: Graph) -> set[str]:
    """Products with a frozen operand whose result is large beside the other one."""
    found: set[str] = set()
    for node in graph.of(Op.MATMUL):
        roots = [_root(graph, graph[x]) for x in node.inputs]
        moving = [root for root in roots if root.op not in FROM_HOST]
        if len(moving) == 1 and math.prod(node.shape) >= EXPANDING * math.prod(moving[0].shape):
            found.add(node.name)
    return found


def _needed(graph: Graph, order: dict[str, int], boundary: int, saved: set[str]) -> set[str]:
    """Products of the forward pass that follow from ``saved`` and that the backward pass reads, through other nodes too."""
    todo = [x for name, node in graph.nodes.items() if order[name] > boundary for x in node.inputs if isinstance(x, str)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or order[name] > boundary or name in saved:
            continue
        seen.add(name)
        todo += [x for x in graph[name].inputs if isinstance(x, str)]
    return {name for name in seen if graph[name].op is Op.MATMUL}


def _cut(graph: Graph, order: dict[str, int], boundary: int, again: set[str]) -> dict[str, int]:
    """The cheapest tensors of the forward pass from which all that the backward pass reads can be computed without a product other than
    those of ``again``."""
    flow = nx.DiGraph()
    flow.add_nodes_from(("forward", "backward"))  # a forward pass alone has no edge to the latter
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


def _stored(graph: Graph, scores: set[str]) -> set[str]:
    """Nodes with a place of their own: tensors between operators, INT8 operands and what is reduced, but for those of scores' shape."""
    shapes = {graph[name].shape for name in scores}
    shapes |= {(*shape[:-2], shape[-1], shape[-2]) for shape in shapes}
    kept = (Op.BRAIN, Op.CONCAT, Op.LARGEST, Op.SUM, Op.COUNT, Op.QUANTIZE)
    return {n.name for n in graph.nodes.values() if n.op in kept and n.shape not in shapes}


def _intervals(
    graph: Graph, order: dict[str, int], boundary: int, sizes: dict[str, int], saved: set[str]
) -> Iterable[tuple[int, int, int]]:
    """(first, last, bytes): when each tensor of ``sizes`` is in memory. One of the forward pass that is not saved may be there twice."""
    roots: dict[str, set[str]] = {}
    reads: dict[str, list[int]] = {name: [] for name in sizes}
    for name, node in graph.nodes.items():
        inputs = [x for x in node.inputs if isinstance(x, str)]
        for root in set().union(*(roots[x] for x in inputs)):
            reads[root].append(order[name])
        roots[name] = {name} if name in reads else set().union(*(roots[x] for x in inputs))
    for name, times in reads.items():
        made, size = order[name], sizes[name]
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
