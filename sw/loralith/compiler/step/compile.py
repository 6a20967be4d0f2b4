"""A step graph as one command list: nodes in their order, chains of elementwise nodes as one kernel, moves as arithmetic on strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.step.chains import FUNCTIONS, Scalar, Step, TensorOperand, scalar_chain
from loralith.compiler.step.compiled_step import CompiledStep
from loralith.compiler.step.convolutions import convolution
from loralith.compiler.step.copies import copy
from loralith.compiler.step.elementwise import Draw, as_scalar, elementwise, elementwise_with_largest, largest_of
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.fusion import fused
from loralith.compiler.step.layouts import BINARY, CHAINED, LaneDimensions, pointwise
from loralith.compiler.step.memory import Memory
from loralith.compiler.step.moves import moved, reshaped
from loralith.compiler.step.node_reductions import NodeReductions
from loralith.compiler.step.operands import Epilogue
from loralith.compiler.step.padded_images import PaddedImages
from loralith.compiler.step.pending import PASSED, Chain, continues_in_reader, made_twice, quantizes
from loralith.compiler.step.pointwise import pointwise_convolution
from loralith.compiler.step.product_maxima import product_maxima
from loralith.compiler.step.products import matmul
from loralith.compiler.step.reductions import sum_of_counts
from loralith.compiler.step.schedule import scheduled
from loralith.compiler.step.tiles import Tile, Work
from loralith.compiler.step.two_words import planes
from loralith.compiler.step.views import View, expand, permute
from loralith.errors import LoralithError
from loralith.spec.commands import VectorFormat
from loralith.spec.config import Config
from loralith.spec.graph import MOVES, Graph, Kind, Node, Op
from loralith.spec.numerics import Q8_MAX, hash_key

__all__ = ["OPTIMIZER", "SOURCES", "CompiledStep", "StepCompiler", "compile_step"]

OPTIMIZER = "AdamW"
"""Source of the nodes that an optimizer adds to a graph."""
LONGEST = 24
"""Steps of a chain at most: its instructions and scalars are on chip at a time, beside those of other tiles."""
SOURCES = (Op.INPUT, Op.FROZEN, Op.STATE)


def compile_step(graph: Graph, config: Config, base: int, nbytes: int, seed: int, verify: bool = False) -> CompiledStep:
    """The command list of ``graph`` for device memory from ``base`` on.

    Parameters: ``seed`` of stochastic rounding; ``verify``: every tensor that is written stays where it is, and takes memory of its own.
    Raises LoralithError for what does not fit, with the numbers, and for a node that has no kernel, by name.
    """
    return StepCompiler(graph, Emitter(config, Memory(base, nbytes), keep=verify), seed).run(base)


class StepCompiler(NodeReductions):
    """One compilation of a graph by ``e``, with the seed of stochastic rounding."""

    def __init__(self, graph: Graph, e: Emitter, seed: int) -> None:
        super().__init__(graph, e)
        self.seed = seed
        self.padded = PaddedImages(e)

    def run(self, base: int) -> CompiledStep:
        self.write()
        return self.listed(base, self.e.tiles)

    def write(self) -> None:
        """The tiles of all nodes."""
        e = self.e
        self.key = key = e.memory.take(8, "the step's key")
        for node in self.graph.nodes.values():
            if node.op in SOURCES:
                self._source(node)
        if any(node.attributes["draw"] for node in self.graph.of(Op.QUANTIZE)):
            e.load_key(key)
        for node in self.graph.nodes.values():
            if node.op not in SOURCES:
                e.note = f"{node.name} {node.op}"
                e.work = Work.OPTIMIZER if node.source == OPTIMIZER else Work.COPY
                try:
                    self._node(node)
                except LoralithError as error:
                    raise type(error)(f"{node.name} ({node.op} of {node.source}): {error}") from None
        self.outputs = self._outputs()
        e.end_tile()

    def listed(self, base: int, tiles: Sequence[Tile]) -> CompiledStep:
        """``tiles`` as a list."""
        e, outputs = self.e, self.outputs
        groups: dict[Op, dict[str, View]] = {op: {} for op in SOURCES}
        for node in self.graph.nodes.values():
            if node.op in SOURCES and node.name not in self.kernels:
                groups[node.op][node.name] = self.tensors[node.name][0]
        kept = None if e.keep else [(view.buffer.address, view.buffer.address + view.buffer.nbytes) for view in self._left(outputs)]
        tiles = fused(tiles, e.config, base, e.memory.peak, kept)
        commands, drafts = scheduled(tiles, e.config, base, e.memory.peak, lambda code: e.constant(code, "a program"))
        return CompiledStep(
            self.graph,
            e.config,
            CommandList(tuple(commands), tuple(draft.note for draft in drafts)),
            e.static,
            groups[Op.INPUT],
            groups[Op.FROZEN],
            groups[Op.STATE],
            self.kernels,
            outputs,
            self.tensors,
            self.key,
            base,
            e.memory.peak,
            tuple(draft.work for draft in drafts),
        )

    def _realize(self, name: str, chain: Chain, draw: Draw | None = None) -> View:
        last = chain.steps[-1].op if chain.steps else None
        format = VectorFormat.BF16 if last is Op.BRAIN else VectorFormat.INT8 if last is Op.QUANTIZE else VectorFormat.FP32
        source = as_scalar(chain.source, self.bus) if isinstance(chain.source, View) and chain.shape == () and draw is None else None
        if source is not None and not chain.views:
            view = scalar_chain(self.e, name, source, chain.steps)
        elif isinstance(chain.source, View):
            views, prepared = chain.operands()
            tops = [] if format is VectorFormat.INT8 else self._largest_readers(name)
            along = None if chain.moves else self._along(name)
            if tops:
                view, largest = elementwise_with_largest(self.e, name, views, chain.steps, format, along, prepared)
                self._set_ahead(tops, largest)
            else:
                view = elementwise(self.e, name, views, chain.steps, format, draw, along, prepared)
        else:
            _, prepared = chain.operands()
            view = self._product(name, chain.source, Epilogue(chain.steps, chain.views, format, prepared), self._largest_readers(name))
        moved_view = chain.result(view)
        return moved_view if moved_view is not None else self._reordered(name, chain, view)

    def _reordered(self, name: str, chain: Chain, view: View) -> View:
        """The moves of a chain that strides alone do not express."""
        for _, after, order in chain.moves:
            view = permute(view, order) if order is not None else reshaped(self.e, name, view, after)
        return view

    # Nodes.

    def _node(self, node: Node) -> None:
        reads = [x for x in node.inputs if isinstance(x, str)]
        if node.kind is Kind.SUM:
            for name in reads:
                if name not in self.kernels:
                    self._views(name)
            self.values[node.name] = Chain(node, node.shape, reads=reads)
            return
        if node.op in CHAINED or node.op in (Op.WORD, Op.SCALE) or quantizes(node):
            chain = self._extended(node)
            if (
                chain.length < LONGEST
                and node.op is not Op.QUANTIZE
                and (
                    self._deferred(node)
                    or self._product_made_twice(node, chain)
                    or self._recomputed(node, chain)
                    or self._made_again(node, chain)
                )
            ):
                self.values[node.name] = chain
                return
            view = self._realize(node.name, chain)
            self._keep(node.name, (view,))
            self._read_done(chain.reads)
            return
        if node.op in PASSED and isinstance(chain := self.values.get(reads[0]), Chain):
            if self._deferred(node) or self._summed(node, chain):
                chain = self._taken(reads[0])
                chain.move(node)
                self.values[node.name] = chain
                return
        if node.op is Op.QUANTIZE:
            self._keep(node.name, self._quantized(node))
        elif node.op in MOVES:
            self._keep(node.name, moved(self.e, node, [self._views(x) for x in node.inputs]))
        else:
            self._keep(node.name, (self._reduced(node),))
        self._read_done(reads)

    def _deferred(self, node: Node) -> bool:
        """Whether the node's one reader goes on with its value."""
        return continues_in_reader(node, self.readers, self.results)

    def _product_made_twice(self, node: Node, chain: Chain) -> bool:
        """Whether a product is made anew for a maximum of its rows, which is made now, and for the chain that goes on with it."""
        c, source = self.e.config, chain.source
        if not made_twice(node, self.graph, self.readers, c.vector_lanes) or node.name in self.results or c.rows != c.vector_lanes:
            return False
        if not isinstance(source, Node) or chain.moves or not self._across(source):
            return False
        a, b = (_transposed(self._padded(self._view(x), source)) for x in source.inputs)
        top = next(r for r in self.readers[node.name] if r.op is Op.MAXIMUM)
        self._set_ahead([top], _transposed(product_maxima(self.e, top.name, b, a, Epilogue(chain.steps, (), VectorFormat.FP32))))
        return True

    @cached_property
    def lanes(self) -> LaneDimensions:
        return LaneDimensions(self.graph, self.readers)

    def _recomputed(self, node: Node, chain: Chain) -> bool:
        """Whether a chain is computed once for its largest magnitude, which is made now, and once more for the integers that are made by
        it, and lies in memory in no other form."""
        own = self.readers.get(node.name, ())
        if (
            len(own) != 2
            or {r.op for r in own} != {Op.LARGEST, Op.QUANTIZE}
            or node.name in self.results
            or not self._largest_readers(node.name)
        ):
            return False
        if not isinstance(chain.source, View) or chain.moves or any(r.op is Op.QUANTIZE and r.attributes["limit"] > Q8_MAX for r in own):
            return False
        views, prepared = chain.operands()
        stored = 2 if chain.steps[-1].op is Op.BRAIN else 4
        read = [*views, *(view for _, more in prepared.values() for view in more)]
        if sum(view.size for view in read if 0 not in view.strides) >= 2 * stored:  # to read them again, or to store and read the result
            return False
        largest = largest_of(self.e, node.name, views, chain.steps, self._along(node.name), prepared)
        self._set_ahead(self._largest_readers(node.name), largest)
        return True

    def _across(self, node: Node) -> bool:
        """Whether a product's rows lie along the lanes."""
        return self.lanes.rows_along_lanes(node)

    def _along(self, name: str) -> int | None:
        """The dimension of an elementwise node that is to lie along the lanes."""
        return self.lanes.dimension(name)

    def _extended(self, node: Node) -> Chain:
        """The chain that the node ends."""
        inputs = list(node.inputs)
        chains = [i for i, x in enumerate(inputs) if isinstance(x, str) and isinstance(self.values.get(x), Chain)]
        if (beside := self._merged(node, chains)) is not None:
            return beside
        at = chains[0] if chains else None
        if at is None:
            whole = [i for i, x in enumerate(inputs) if isinstance(x, str) and self.graph[x].shape == node.shape]
            at = whole[0] if whole else next(i for i, x in enumerate(inputs) if isinstance(x, str))
        name = inputs[at]
        assert isinstance(name, str)
        value, other = self.values[name], inputs[1 - at] if node.op in BINARY else name
        if isinstance(value, Chain) and isinstance(other, str) and other != name:
            operand_view = self._view(other)
            if as_scalar(operand_view, self.bus) is None and value.operand(operand_view) is None:
                self._views(name)
                value = self.values[name]
        chain = self._taken(name) if isinstance(value, Chain) else Chain(self._view(name), node.shape, reads=[name])
        if node.op is Op.WORD:
            return chain
        if node.op is Op.SCALE:
            limit = node.attributes["limit"] // Q8_MAX
            if limit * Q8_MAX != node.attributes["limit"] or limit & (limit - 1):
                raise LoralithError(f"a scale's limit must be {Q8_MAX} times a power of two, not {node.attributes['limit']}")
            if limit > 1:
                chain.steps.append(Step(Op.MULTIPLY, self._scalar(1.0 / limit)))
            chain.steps.append(Step(Op.SCALE))
            return chain
        if node.op not in BINARY:
            chain.steps.append(Step(node.op, self._scalar(node.inputs[1]) if node.op is Op.QUANTIZE else None))
            return chain
        if other == name:
            chain.steps.append(Step(Op.MULTIPLY) if node.op is Op.MULTIPLY else Step(node.op, self._tile(chain, name)))
            chain.reads.append(name)
            return chain
        reverse = node.op is Op.SUBTRACT and at == 1
        if isinstance(other, str):
            self._view(other)
            chain.reads.append(other)
            operand: Scalar | TensorOperand = as_scalar(self._view(other), self.bus) or self._tile(chain, other)
            if isinstance(operand, Scalar):
                operand = Scalar(other, operand.address)
        else:
            operand = self._scalar(other)
        chain.steps.append(Step(node.op, operand, reverse))
        return chain

    def _merged(self, node: Node, chains: Sequence[int]) -> Chain | None:
        """Of two chains that meet in ``node`` one that the other one's value becomes an operand of, where its tiles have it on chip."""
        if len(chains) != 2 or node.op not in BINARY or node.inputs[0] == node.inputs[1]:
            return None
        first, second = (x for x in node.inputs if isinstance(x, str))
        for name, beside in ((first, second), (second, first)):
            chain, other = self.values[name], self.values[beside]
            assert isinstance(chain, Chain)
            assert isinstance(other, Chain)
            too_long = chain.length + other.length >= LONGEST
            if too_long or not chain.prepares(other) or (isinstance(chain.source, Node) and not self._across(chain.source)):
                continue
            chain, other = self._taken(name), self._taken(beside)
            assert isinstance(other.source, View)
            chain.prepared[len(chain.views)] = other
            chain.steps.append(Step(node.op, TensorOperand(len(chain.views)), node.op is Op.SUBTRACT and name == second))
            chain.views.append(other.source)
            chain.reads += other.reads
            return chain
        return None

    def _tile(self, chain: Chain, name: str) -> TensorOperand:
        view = chain.operand(self._view(name))
        assert view is not None
        chain.views.append(view)
        return TensorOperand(len(chain.views) - 1)

    def _product(self, name: str, node: Node, epilogue: Epilogue, tops: Sequence[Node]) -> View:
        first, second = node.inputs
        if node.op is Op.MATMUL:
            a, b = (self._padded(self._view(x), node) for x in (first, second))
            across = self._across(node)
            if across:
                a, b, epilogue = _transposed(b), _transposed(a), epilogue.seen(lambda view: _transposed(expand(view, node.shape)))
            counts = self._counts_of_rows(self.graph[name]) if across else []
            view, largest, parts = matmul(self.e, name, a, b, epilogue, bool(tops), bool(counts))
            if largest is not None:
                self._set_ahead(tops, largest)
            if parts is not None:
                self._set_ahead(counts, _transposed(sum_of_counts(self.e, counts[0].name, parts, len(parts.shape) - 2)))
            return _transposed(view) if across else view
        assert isinstance(second, str)
        if second not in self.kernels:
            raise LoralithError(f"{second}: a convolution on the device has a frozen weight of its own")
        buffer, _ = self.kernels[second]
        if pointwise(node, self.graph):
            found = pointwise_convolution(self.e, name, self._views(first), buffer, node, epilogue, self._across(node), bool(tops))
            if found is not None:
                if found[1] is not None:
                    self._set_ahead(tops, found[1])
                return found[0]
        view, largest = convolution(
            self.e,
            self.padded,
            name,
            self._views(first),
            buffer,
            self.graph[second].shape,
            node.shape,
            node.attributes["stride"],
            node.attributes["padding"],
            epilogue,
            node.op is Op.CONVOLUTION_INPUT,
            bool(tops),
        )
        if largest is not None:
            self._set_ahead(tops, largest)
        return view

    @staticmethod
    def _padded(view: View, node: Node) -> View:
        """With as many dimensions as the result."""
        more = len(node.shape) - len(view.shape)
        return View(view.buffer, (1,) * more + view.shape, (0,) * more + view.strides, view.offset)

    def _quantized(self, node: Node) -> tuple[View, ...]:
        scale = self._scalar(node.inputs[1])
        (name, _), draw = node.inputs, node.attributes["draw"]
        assert isinstance(name, str)
        if node.attributes["limit"] > Q8_MAX:
            return planes(self.e, node, self._view(name), scale)
        value = self.values[name]
        if not isinstance(value, Chain) or value.moves or not isinstance(value.source, View):
            value = Chain(self._view(name), node.shape)
        chain = Chain(value.source, node.shape, [*value.steps, Step(Op.QUANTIZE, scale, stochastic=bool(draw))], value.views)
        chain.prepared = value.prepared
        if not draw:
            return (self._realize(node.name, chain),)
        return (self._realize(node.name, chain, Draw(hash_key(self.seed, 0, draw), node.attributes["lanes"])),)

    # Results.

    def _left(self, outputs: Mapping[str, View]) -> list[View]:
        """What must be in memory after a step."""
        return [*outputs.values(), *(self.tensors[node.name][0] for node in self.graph.of(Op.STATE))]

    def _outputs(self) -> dict[str, View]:
        found = {what: self._view(name) for what, name in self.graph.outputs.items()}
        for what, view in found.items():
            if what.startswith("state."):
                self.e.note, self.e.work = what, Work.OPTIMIZER
                copy(self.e, view, self.tensors[what.removeprefix("state.")][0])
        return found


def _transposed(view: View) -> View:
    """The last two dimensions exchanged."""
    rank = len(view.shape)
    return permute(view, (*range(rank - 2), rank - 1, rank - 2))


assert set(FUNCTIONS) <= {*CHAINED, Op.SCALE}
