"""A step graph cut into pieces that are compiled one by one, with the tensors between them in device memory.

Cuts are where little runs at the same time on both sides: before each normalization, whose sums wait for all of a tensor; before and after
attention's scores, which are so large that they fill every unit alone; between the tensors that an optimizer updates. A value that lies in
memory nowhere (a chain that its one reader goes on with) belongs to the piece of that reader, so that a cut stores nothing that the whole
step does not store.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, field

from loralith.compiler.step.compile import OPTIMIZER, SOURCES
from loralith.compiler.step.layouts import CHAINED
from loralith.compiler.step.pending import PASSED, continues_in_reader, readers_of
from loralith.spec.graph import MOVES, Graph, Kind, Node, Op

__all__ = ["LARGE", "Piece", "batch_of", "cut"]

LARGE = 1 << 22
"""Elements of a batch of matrices from which on it is a piece of its own."""


@dataclass
class Piece:
    """``nodes`` in their order; ``given``, nodes of earlier pieces that it reads; ``sources``, what the host wrote that it reads;
    ``results``, nodes that later pieces or the step's outputs read."""

    nodes: list[Node] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


def batch_of(node: Node) -> int:
    """Matrices in a batch [B, M, N]; 1 of any other tensor."""
    return node.shape[0] if len(node.shape) == 3 else 1


def cut(graph: Graph) -> list[Piece]:
    """Pieces in the order in which they run. Every node but what comes from the host stands in one of them."""
    piece_of = _pieces(graph, _segments(graph))
    found = [Piece() for _ in range(max(piece_of.values(), default=-1) + 1)]
    for name, number in piece_of.items():
        found[number].nodes.append(graph[name])
    readers: dict[str, set[int]] = {}
    for number, piece in enumerate(found):
        for node in piece.nodes:
            for name in node.inputs:
                if isinstance(name, str):
                    readers.setdefault(name, set()).add(number)
    outputs = set(graph.outputs.values())
    for number, piece in enumerate(found):
        own = {node.name for node in piece.nodes}
        reads = dict.fromkeys(x for node in piece.nodes for x in node.inputs if isinstance(x, str) and x not in own)
        piece.sources = [x for x in reads if graph[x].op in SOURCES]
        piece.given = [x for x in reads if graph[x].op not in SOURCES]
        piece.results = [node.name for node in piece.nodes if node.name in outputs or readers.get(node.name, set()) - {number}]
    return [piece for piece in found if piece.nodes]


def _segments(graph: Graph) -> dict[str, int]:
    """The number of each node's segment of the graph's order."""
    found: dict[str, int] = {}
    number, source, batch = 0, "", 1
    for node in graph.nodes.values():
        if node.op in SOURCES:
            number += node.op is Op.STATE and source == OPTIMIZER
            continue
        wanted = _batch_of_piece(graph, node)
        begins = node.source != source and ("norm" in node.source or node.source == OPTIMIZER)
        if begins or (wanted is not None and wanted != batch):
            number += 1
            batch = wanted or 1
        source = node.source
        found[node.name] = number
    return found


def _batch_of_piece(graph: Graph, node: Node) -> int | None:
    """The batch that the node's piece must have: that of a large tensor, 1 without a batch, None where both will do."""
    batch = batch_of(node)
    if math.prod(node.shape) == 1:
        return None
    if node.op in MOVES:
        return None if batch > 1 and batch_of(graph[node.inputs[0]]) == batch else 1
    if batch == 1:
        return 1
    return batch if math.prod(node.shape) >= LARGE else None


def _pieces(graph: Graph, segments: dict[str, int]) -> dict[str, int]:
    """The piece of each node, in the graph's order."""
    readers = readers_of(graph)
    outputs = set(graph.outputs.values())
    deferred: set[str] = set()  # not stored in memory
    for node in graph.nodes.values():
        chained = node.op in CHAINED or node.op in (Op.WORD, Op.SCALE) or (node.op in PASSED and node.inputs[0] in deferred)
        if node.kind is Kind.SUM or (chained and continues_in_reader(node, readers, outputs)):
            deferred.add(node.name)
    found = dict(segments)
    for name in reversed(list(segments)):
        if name in deferred:
            found[name] = min(found[reader.name] for reader in readers[name])
    for node in graph.of(Op.LARGEST):
        if "dims" not in node.attributes:
            _with_its_maker(graph, node, found, deferred)
    return found


def _with_its_maker(graph: Graph, node: Node, pieces: dict[str, int], deferred: Container[str]) -> None:
    """A tensor's largest magnitude is taken in the visit that makes the tensor: it belongs to that piece, and so do moves between them."""
    along = [node]
    while (maker := graph[along[-1].inputs[0]]).op in PASSED and maker.name not in deferred:
        along.append(maker)
    apart = len(along) > 1 and batch_of(maker) > 1  # a batch that is taken apart has no moves
    if maker.op not in SOURCES and maker.name not in deferred and not apart:
        pieces.update((one.name, pieces[maker.name]) for one in along)
