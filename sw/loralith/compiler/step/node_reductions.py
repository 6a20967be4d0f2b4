"""A node's reduction: over its tensor in device memory, or taken ahead, where the tensor was made."""

from __future__ import annotations

from collections.abc import Sequence

from loralith.compiler.step import reductions
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.node_values import NodeValues
from loralith.compiler.step.pending import PASSED, readers_of
from loralith.compiler.step.views import View
from loralith.spec.graph import Graph, Node, Op
from loralith.spec.vector.program import Reduce

__all__ = ["NodeReductions"]


class NodeReductions(NodeValues):
    """``readers``: who reads each node. ``ahead``: values of reductions that are there before their nodes."""

    def __init__(self, graph: Graph, e: Emitter) -> None:
        super().__init__(graph, e)
        self.readers = readers_of(graph)
        self.ahead: dict[str, View] = {}

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
        view = self._view(node.inputs[0])
        if node.op is Op.LARGEST and "dims" not in node.attributes:
            return reductions.largest(self.e, node.name, view)
        bound = self._scalar(node.inputs[1]) if node.op is Op.SUM else None
        return reductions.reduce_rows(self.e, node.name, view, node.attributes["dims"], _REDUCE[node.op], bound, count=node.op is Op.COUNT)


_REDUCE = {Op.SUM: Reduce.SUM_ALL, Op.COUNT: Reduce.SUM_ALL, Op.MAXIMUM: Reduce.TOP_ALL, Op.LARGEST: Reduce.MAX_ALL}
