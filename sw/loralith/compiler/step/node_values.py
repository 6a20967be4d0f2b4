"""What a compilation has of each node: a tensor in device memory, or a chain that is not computed yet; and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from loralith.compiler.step.chains import Scalar
from loralith.compiler.step.elementwise import as_scalar, new_tensor
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.padded_images import kernel_layout
from loralith.compiler.step.pending import Chain
from loralith.compiler.step.views import Buffer, View
from loralith.errors import LoralithError
from loralith.spec.commands import VectorFormat
from loralith.spec.graph import Graph, Kind, Node

__all__ = ["NodeValues"]


class NodeValues:
    """Values by node. ``remaining_reads``: reads of each that are to come, of which an output is one; ``pinned``: buffers that stay."""

    def __init__(self, graph: Graph, e: Emitter) -> None:
        self.graph, self.e = graph, e
        self.values: dict[str, tuple[View, ...] | Chain] = {}
        self.tensors: dict[str, tuple[View, ...]] = {}
        self.kernels: dict[str, tuple[Buffer, tuple[int, ...]]] = {}
        self.pinned: set[Buffer] = set()
        self.remaining_reads = Counter(name for node in graph.nodes.values() for name in node.inputs if isinstance(name, str))
        self.remaining_reads.update(graph.outputs.values())
        self.bus = e.config.bus_bytes

    def _realize(self, name: str, chain: Chain) -> View:
        """The value of a chain as a tensor."""
        raise NotImplementedError

    def _source(self, node: Node) -> None:
        e, shape = self.e, node.shape
        if node.kind is Kind.INT8 and len(shape) == 4:
            layout = kernel_layout(self.bus, shape)
            size = layout[0] * layout[1] * layout[2] * layout[3]
            buffer = e.buffer(node.name, VectorFormat.INT8, size, shape[1], layout[3])
            self.kernels[node.name] = (buffer, layout)
            self.pinned.add(buffer)
            return
        if node.kind is Kind.INT8:
            view = new_tensor(e, node.name, VectorFormat.INT8, shape, range(len(shape)), len(shape) - 1)
        else:
            view = new_tensor(e, node.name, VectorFormat.FP32, shape, range(len(shape)))
        self.pinned.add(view.buffer)
        self._keep(node.name, (view,))

    def _keep(self, name: str, views: Sequence[View]) -> None:
        """``name`` has its value; its buffers live as long as a value of them is needed."""
        self.values[name] = self.tensors[name] = tuple(views)
        for view in views:
            view.buffer.users += 1
        if not self.remaining_reads[name]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        value = self.values.pop(name)
        if isinstance(value, Chain):
            self._read_done(value.reads)
        else:
            for view in value:
                view.buffer.users -= 1
                if not view.buffer.users and view.buffer not in self.pinned:
                    self.e.release(view.buffer)

    def _read_done(self, names: Sequence[str]) -> None:
        """Nodes that were read."""
        for name in names:
            self.remaining_reads[name] -= 1
            if not self.remaining_reads[name] and name in self.values:
                self._drop(name)

    def _taken(self, name: str) -> Chain:
        """The chain of a node for one who goes on with it: its own for the last one, a copy for those before."""
        chain = self.values[name]
        assert isinstance(chain, Chain)
        self.remaining_reads[name] -= 1
        if not self.remaining_reads[name]:
            del self.values[name]
            return chain
        self.remaining_reads.update(chain.reads)
        return chain.copy()

    def _views(self, name: str | float) -> tuple[View, ...]:
        """The tensor of a node, computed if it was deferred."""
        assert isinstance(name, str)
        value = self.values[name]
        if isinstance(value, Chain):
            view = self._realize(name, value)
            self._keep(name, (view,))
            self._read_done(value.reads)
            return (view,)
        return value

    def _view(self, name: str | float) -> View:
        views = self._views(name)
        if len(views) != 1:
            raise LoralithError(f"{name} is an integer of two bytes, which only convolutions and moves read")
        return views[0]

    def _scalar(self, name: str | float) -> Scalar:
        """A scalar node, or a number."""
        if not isinstance(name, str):
            return Scalar(float(name), self.e.number(float(name)))
        found = as_scalar(self._view(name), self.bus)
        if found is None:
            raise LoralithError(f"{name} is no word at the beginning of a bus word")
        return Scalar(name, found.address)
