"""Which module of a model each product of a training step belongs to, counted by torch's own counter."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Counted", "count_products"]


@dataclass
class Counted:
    """Multiply-accumulates of a module's own operators, its children's not among them; ``operators`` in the order of their first run."""

    forward: int = 0
    backward: int = 0
    operators: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        return self.forward + self.backward


class _Attribution(TorchDispatchMode):
    """Puts what ``counter`` counts down to modules.

    In the forward pass to the innermost module that runs. In the backward pass to the one that ran when autograd made the node: nodes are
    numbered in the order in which they are made. (Torch's account by module is wrong after modules whose inputs have no gradient.)
    """

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counter = counter
        self.running: list[str] = [""]
        self.numbers: list[int] = [0]
        self.owners: list[str] = [""]
        self.found: dict[str, Counted] = defaultdict(Counted)

    def enter(self, name: str) -> None:
        self.running.append(name)
        self._note()

    def leave(self) -> None:
        self.running.pop()
        self._note()

    def _note(self) -> None:
        """Nodes from now on belong to the module that runs now."""
        self.numbers.append(torch._C._autograd._get_sequence_nr())  # pyright: ignore[reportAttributeAccessIssue]
        self.owners.append(self.running[-1])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        macs = (self.counter.get_total_flops() - before) // 2
        if macs:
            node = torch._C._current_autograd_node()
            owner = self.running[-1] if node is None else self.owners[bisect.bisect_right(self.numbers, node._sequence_nr()) - 1]
            counted, name = self.found[owner], func.overloadpacket.__name__
            if node is None:
                counted.forward += macs
            else:
                counted.backward += macs
            if name not in counted.operators:
                counted.operators += (name,)
        return result


def count_products(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[dict[str, Counted], int]:
    """Runs ``loss()`` and its backward pass: the products by the names of ``model``'s modules, "" for itself, and the MACs of them all."""
    handles = []
    with FlopCounterMode(display=False) as counter, _Attribution(counter) as attribution:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: attribution.enter(name), prepend=True))
            handles.append(module.register_forward_hook(lambda *_: attribution.leave(), always_call=True))
        try:
            loss().backward()
        finally:
            for handle in handles:
                handle.remove()
    return dict(attribution.found), counter.get_total_flops() // 2
