"""A node's reduction: over its tensor in device memory, or taken ahead, where the tensor was made."""

from __future__ import annotations

from collections.abc import Sequence

from loralith.compiler.step import reductions
from loralith.compiler.step.chain_sums import ChainSum, chain_sum
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.layouts import CHAINED
from loralith.compiler.step.node_values import NodeValues
from loralith.compiler.step.pending import PASSED, Chain, readers_of
from loralith.compiler.step.views import View
from loralith.spec.graph import Graph, Node, Op
from loralith.spec.vector.program import Reduce

__all__ = ["NodeReductions"]


class NodeReductions(NodeValues):
    """``readers``: who reads each node. ``ahead``: values of reductions that are there before their nodes. ``results``: nodes that somebody
    reads after the list."""

    def __init__(self, graph: Graph, e: Emitter) -> None:
        super().__init__(graph, e)
        self.readers = readers_of(graph)
        self.ahead: dict[str, View] = {}
        self.results = set(graph.outputs.values())

    def _largest_readers(self, name: str) -> list[Node]:
        """Nodes that want the largest magnitude of all elements of ``name``, at once or after moves."""
        found = []
        for reader in self.readers.get(name, ()):
            if reader.op is Op.LARGEST and "dims" not in reader.attributes:
                found.append(reader)
            elif reader.op in PASSED:
                found += self._largest_readers(reader.name)
        return found

    def _counts_of_rows(self, node: Node) -> list[Node]:
        """Nodes that count over the last dimension what ``node`` rounds to integers by the scale 1; none of any other node."""
        if node.op is not Op.QUANTIZE or node.inputs[1] != 1.0:
            return []
        last = (len(node.shape) - 1,)
        return [r for r in self.readers.get(node.name, ()) if r.op is Op.COUNT and r.attributes["dims"] == last]

    def _set_ahead(self, tops: Sequence[Node], value: View) -> None:
        """``value`` is there before the nodes ``tops``, whose it is; it stays until all of them have taken it."""
        for top in tops:
            self.ahead[top.name] = value
            value.buffer.users += 1

    def _take_ahead(self, node: Node) -> View | None:
        """What `_set_ahead` has for ``node``."""
        value = self.ahead.pop(node.name, None)
        if value is not None:
            value.buffer.users -= 1
        return value

    def _reduced(self, node: Node) -> View:
        """The value of a SUM, COUNT, MAXIMUM or LARGEST."""
        value = self._take_ahead(node)
        if value is not None:
            return value
        if node.op is Op.SUM and (how := self._chain_sum(node)) is not None:
            return chain_sum(self.e, node.name, how, self._scalar(node.inputs[1]))
        view = self._view(node.inputs[0])
        if node.op is Op.LARGEST and "dims" not in node.attributes:
            return reductions.largest(self.e, node.name, view)
        bound = self._scalar(node.inputs[1]) if node.op is Op.SUM else None
        return reductions.reduce_rows(self.e, node.name, view, node.attributes["dims"], _REDUCE[node.op], bound, count=node.op is Op.COUNT)

    def _chain_sum(self, node: Node, chain: Chain | None = None) -> ChainSum | None:
        """How the sum ``node`` is made of a chain that is not stored, ``chain`` or what its operand is now; None where it is not."""
        assert isinstance(node.inputs[0], str)
        value = chain or self.values[node.inputs[0]]
        if not isinstance(value, Chain) or not isinstance(value.source, View):
            return None
        views, prepared = value.operands()
        own = [value.result(view) for view in views]
        more = {i: (steps, [value.result(view) for view in read]) for i, (steps, read) in prepared.items()}
        seen = [view for view in own if view is not None]
        before = {i: (steps, [view for view in read if view is not None]) for i, (steps, read) in more.items()}
        if None in own or any(None in read for _, read in more.values()):
            return None
        how = ChainSum(self.e, seen, value.steps, before, node.attributes["dims"])
        return how if how.fits else None

    def _made_again(self, node: Node, chain: Chain) -> bool:
        """Whether a chain is computed anew for each of its readers, sums and chains that go on with it, and not stored: where its operands
        have fewer bytes than it has."""
        own = self.readers.get(node.name, ())
        if node.name in self.results or not isinstance(chain.source, View) or chain.moves:
            return False
        sums = [r for r in own if r.op is Op.SUM and r.inputs[0] == node.name]
        moves = [r for r in own if r.op is Op.RESHAPE]
        if not all(r in sums or r in moves or (r.op in CHAINED and r.shape == node.shape) for r in own):
            return False
        if any(self._chain_sum(r, chain) is None for r in sums) or not all(self._summed(r, chain) for r in moves):
            return False
        sums += moves
        if len(own) == 1:
            return bool(sums)
        views, prepared = chain.operands()
        every = [*views, *(view for _, more in prepared.values() for view in more)]
        whole = [view for view in every if all(s or n == 1 for n, s in zip(view.shape, view.strides, strict=True))]
        return sum(view.size for view in whole) < (2 if chain.steps[-1].op is Op.BRAIN else 4)

    def _summed(self, node: Node, chain: Chain) -> bool:
        """Whether all readers of ``node``, a reshape of ``chain``, are sums that are made without it in memory."""
        if node.op is not Op.RESHAPE or node.name in self.results or not isinstance(chain.source, View):
            return False
        seen = chain.copy()
        seen.move(node)
        own = self.readers.get(node.name, ())
        return bool(own) and all(r.op is Op.SUM and r.inputs[0] == node.name and self._chain_sum(r, seen) is not None for r in own)


_REDUCE = {Op.SUM: Reduce.SUM_ALL, Op.COUNT: Reduce.SUM_ALL, Op.MAXIMUM: Reduce.TOP_ALL, Op.LARGEST: Reduce.MAX_ALL}
