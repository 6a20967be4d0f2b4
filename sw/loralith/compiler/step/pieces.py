"""A piece of a step as a list of its own: its structure, by which equal pieces are known, and its compilation.

A structure names nothing: operators, shapes, formats, and how the tensors that it is given lie in memory. So each one is compiled once,
and the layout of its results (`ResultLayout`) holds for all pieces that have it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loralith.compiler.step.compile import OPTIMIZER, StepCompiler
from loralith.compiler.step.compiled_step import CompiledStep
from loralith.compiler.step.copies import copy
from loralith.compiler.step.cuts import LARGE, Piece, batch_of
from loralith.compiler.step.elementwise import materialize
from loralith.compiler.step.emitter import Emitter, Work
from loralith.compiler.step.layouts import CHAINED, LaneDimensions, pointwise
from loralith.compiler.step.memory import Memory
from loralith.compiler.step.views import Buffer, View
from loralith.spec.commands import FORMAT_BYTES, VectorFormat
from loralith.spec.config import Config
from loralith.spec.graph import MOVES, Graph, Kind, Node, Op

__all__ = [
    "BufferLayout",
    "Layouts",
    "ResultLayout",
    "Structure",
    "ViewLayout",
    "alignment_copies",
    "compile_structure",
    "graph_of",
    "structure_of",
    "write_tiles",
]

PIECE_BYTES = 1 << 33
"""Device memory that a piece may take."""


class BufferLayout(NamedTuple):
    """Format and elements of a buffer; the first ``run`` of each ``pitch`` elements are valid."""

    format: int
    elements: int
    run: int
    pitch: int


class ViewLayout(NamedTuple):
    """A view: the number of its buffer, shape, strides, offset."""

    buffer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass
class Layouts:
    """Layouts of the tensors between pieces: ``views`` of each node (several of an integer in several bytes) of ``buffers`` by number."""

    views: dict[str, tuple[ViewLayout, ...]] = field(default_factory=dict)
    buffers: list[BufferLayout] = field(default_factory=list)

    def add(self, names: Sequence[str], layout: ResultLayout, structure: Structure) -> None:
        """Add a piece's results ``names``, laid out as ``layout`` says; the matrices of a batch lie one after the other."""
        times, first = structure.times, len(self.buffers)
        for own in layout.buffers:
            dense = own.run == own.elements
            elements = own.elements * times
            self.buffers.append(BufferLayout(own.format, elements, elements if dense else own.run, elements if dense else own.pitch))
        for name, views in zip(names, layout.results, strict=True):
            found = []
            for view in views:
                own_buffer = view.buffer - len(structure.buffers)  # below 0: one that it was given
                shape, strides = tuple(view.shape), tuple(view.strides)
                if times > 1 and len(shape) == 3:
                    shape, strides = (times, *shape[1:]), (layout.buffers[own_buffer].elements, *strides[1:])
                number = structure.buffers[view.buffer] if own_buffer < 0 else first + own_buffer
                found.append(ViewLayout(number, shape, strides, view.offset))
            self.views[name] = tuple(found)

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            self.views.pop(name, None)


@dataclass(frozen=True)
class Structure:
    """What of a piece decides its list, as JSON values.

    Attributes:
        text: all of it. key: its hash.
        buffers: the numbers of the buffers that it is given, in its own order.
        times: how many matrices of a batch there are, of which ``text`` has one; they are independent, and take as many times its cycles.
    """

    text: str
    key: str
    buffers: tuple[int, ...]
    times: int


def structure_of(graph: Graph, lanes: LaneDimensions, piece: Piece, layouts: Layouts) -> Structure:
    """The structure of ``piece`` where what it is given lies as ``layouts`` says; ``lanes``, of the whole graph."""
    times = _independent(graph, piece)
    names: dict[str, str] = {}
    buffers: dict[int, int] = {}
    given, sources, nodes = [], [], []
    for i, name in enumerate(piece.given):
        names[name] = f"given{i}"
        views = [[buffers.setdefault(v.buffer, len(buffers)), _one(v.shape, times), list(v.strides), v.offset] for v in layouts.views[name]]
        largest = int(graph[name].op is Op.LARGEST)
        given.append([graph[name].kind.value, _one(graph[name].shape, times), views, largest])
    for i, name in enumerate(piece.sources):
        names[name] = f"source{i}"
        sources.append([graph[name].op.value, graph[name].kind.value, list(graph[name].shape)])
    for i, node in enumerate(piece.nodes):
        names[node.name] = f"node{i}"
        more: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in node.attributes.items()}
        if more.get("draw"):
            more["draw"] = 1
        if node.op is Op.MATMUL or pointwise(node, graph):
            more["across"] = lanes.rows_along_lanes(node)
        elif node.op in CHAINED and lanes.dimension(node.name) is not None:
            more["along"] = lanes.dimension(node.name)
        inputs = [names[x] if isinstance(x, str) else x for x in node.inputs]
        kind = "optimizer" if node.source == OPTIMIZER else ""
        nodes.append([node.op.value, node.kind.value, _one(node.shape, times), inputs, more, kind])
    states = {node: what for what, node in graph.outputs.items() if what.startswith("state.")}
    results = []
    for name in piece.results:
        state = states.get(name, "").removeprefix("state.")
        results.append([names[name], f"state.{names[state]}" if state in names else ""])
    data = {
        "given": given,
        "buffers": [list(layouts.buffers[b]) for b in buffers],
        "sources": sources,
        "nodes": nodes,
        "results": results,
    }
    text = json.dumps(data, sort_keys=True)
    return Structure(text, _key(text), tuple(buffers), times)


def alignment_copies(graph: Graph, piece: Piece, layouts: Layouts, bus: int) -> list[tuple[str, Structure]]:
    """Of a piece whose batch is taken apart: copies of its inputs that come first, so that each matrix begins at a bus word."""
    times = _independent(graph, piece)
    found = []
    for name in piece.given if times > 1 else ():
        node = graph[name]
        view, *more = layouts.views[name]
        size = FORMAT_BYTES[VectorFormat(layouts.buffers[view.buffer].format)]
        if batch_of(node) != times or more or view.strides[0] * size % bus == 0:
            continue
        number, shape, strides, offset = view
        data = {
            "given": [[node.kind.value, list(shape), [[0, list(shape), list(strides), offset]], 0]],
            "buffers": [list(layouts.buffers[number])],
            "sources": [],
            "nodes": [[Op.EXPAND.value, node.kind.value, list(shape), ["given0"], {"padded": 1}, ""]],
            "results": [["node0", ""]],
        }
        text = json.dumps(data, sort_keys=True)
        found.append((name, Structure(text, _key(text), (number,), 1)))
    return found


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _one(shape: Sequence[int], times: int) -> list[int]:
    """The shape of one matrix of a batch of ``times``."""
    return [1, *shape[1:]] if times > 1 and len(shape) == 3 and shape[0] == times else list(shape)


def _independent(graph: Graph, piece: Piece) -> int:
    """The batch that all of a large piece's tensors have or share, where nothing goes from one matrix to another but a largest magnitude;
    1 for any other piece."""
    batches = {batch_of(node) for node in piece.nodes if math.prod(node.shape) >= LARGE}
    if len(batches) != 1 or (batch := batches.pop()) == 1:
        return 1
    tensors = [*piece.nodes, *(graph[x] for x in piece.given)]
    if any(math.prod(n.shape) > 1 and len(n.shape) == 3 and n.shape[0] not in (1, batch) for n in tensors):
        return 1
    own = {node.name for node in piece.nodes}
    for name in piece.results:
        node = graph[name]
        if math.prod(node.shape) > 1 and batch_of(node) != batch:
            return 1
        while node.op in MOVES:
            node = graph[node.inputs[0]]
        if node.name not in own:
            return 1
    for node in piece.nodes:
        if math.prod(node.shape) > 1 and len(node.shape) != 3:
            return 1
        if 0 in node.attributes.get("dims", ()) or node.attributes.get("dim") == 0:
            return 1
        if node.op is Op.PERMUTE and node.attributes["order"][0] != 0:
            return 1
        if node.op in MOVES and batch_of(graph[node.inputs[0]]) != batch_of(node) and node.op is not Op.EXPAND:
            return 1
    return batch


class ResultLayout(NamedTuple):
    """Layout of a structure's results: its own ``buffers``, and each result's views. A view numbers its buffer: first those that the
    structure was given, then its own."""

    buffers: list[BufferLayout]
    results: list[tuple[ViewLayout, ...]]


class _Piece(StepCompiler):
    """Compiles a structure whose inputs are ``views`` of ``buffers``."""

    def __init__(self, graph: Graph, e: Emitter, seed: int, views: Mapping[str, Sequence[Any]], buffers: Sequence[Sequence[int]]) -> None:
        super().__init__(graph, e, seed)
        self.given = views
        self.buffers: list[Buffer] = []
        for i, (format, elements, run, pitch) in enumerate(buffers):
            self.buffers.append(e.buffer(f"buffer{i}", VectorFormat(format), elements, run, pitch, fresh=True))
        self.pinned.update(self.buffers)

    def _source(self, node: Node) -> None:
        if node.name not in self.given:
            super()._source(node)
            return
        views = [View(self.buffers[b], tuple(shape), tuple(strides), offset) for b, shape, strides, offset in self.given[node.name]]
        self._keep(node.name, views)

    def _across(self, node: Node) -> bool:
        return node.attributes["across"]

    def _along(self, name: str) -> int | None:
        return self.graph[name].attributes.get("along")

    def _node(self, node: Node) -> None:
        if "padded" not in node.attributes:
            super()._node(node)
            return
        view = self._view(node.inputs[0])
        self._keep(node.name, (materialize(self.e, view, range(len(view.shape)), padded=True),))

    def _outputs(self) -> dict[str, View]:
        found = {}
        for what, name in self.graph.outputs.items():
            if what.startswith("state."):
                self.e.note, self.e.work = what, Work.OPTIMIZER
                copy(self.e, self._view(name), self.tensors[what.removeprefix("state.")][0])
            for i, view in enumerate(self._views(name)):
                found[f"{what}.{i}" if i else what] = view
        return found


def graph_of(text: str) -> tuple[Graph, dict[str, Any]]:
    """The graph of a structure, and the structure itself."""
    data = json.loads(text)
    graph = Graph()
    for i, (kind, shape, _, largest) in enumerate(data["given"]):
        graph.add(Node(f"given{i}", Op.INPUT, Kind(kind), tuple(shape), (), {"largest": largest}))
    for i, (op, kind, shape) in enumerate(data["sources"]):
        graph.add(Node(f"source{i}", Op(op), Kind(kind), tuple(shape)))
    draws = 0
    for i, (op, kind, shape, inputs, more, of) in enumerate(data["nodes"]):
        attributes = {k: tuple(v) if isinstance(v, list) else v for k, v in more.items()}
        if attributes.get("draw"):
            attributes["draw"] = draws = draws + 1
        graph.add(Node(f"node{i}", Op(op), Kind(kind), tuple(shape), tuple(inputs), attributes, OPTIMIZER if of else "piece"))
    for i, (name, state) in enumerate(data["results"]):
        graph.set_output(state or f"result{i}", name)
    return graph, data


def write_tiles(text: str, config: Config, base: int = 0, seed: int = 0, verify: bool = False) -> tuple[StepCompiler, ResultLayout]:
    """The tiles of a piece in device memory of its own, from address ``base`` on, before they are scheduled, and its results' layout.

    Raises LoralithError for what does not fit.
    """
    graph, data = graph_of(text)
    e = Emitter(config, Memory(base, PIECE_BYTES), keep=verify)
    views = {f"given{i}": views for i, (_, _, views, _) in enumerate(data["given"])}
    piece = _Piece(graph, e, seed, views, data["buffers"])
    piece.write()
    numbers = {buffer: i for i, buffer in enumerate(piece.buffers)}
    buffers: list[BufferLayout] = []
    results = []
    for name, _ in data["results"]:
        own = []
        for view in piece.tensors[name]:
            b = view.buffer
            if b not in numbers:
                numbers[b] = len(numbers)
                buffers.append(BufferLayout(int(b.format), b.elements, b.run, b.pitch))
            own.append(ViewLayout(numbers[b], view.shape, view.strides, view.offset))
        results.append(tuple(own))
    return piece, ResultLayout(buffers, results)


def compile_structure(text: str, config: Config, base: int = 0, seed: int = 0, verify: bool = False) -> CompiledStep:
    """The list of the tiles of `write_tiles`. Raises LoralithError for what does not fit."""
    piece, _ = write_tiles(text, config, base, seed, verify)
    return piece.listed(base, piece.e.tiles)
