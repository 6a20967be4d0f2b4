"""How much memory a training step takes, measured where it is allocated.

On the host: torch's tensors, each storage once, as operations make them and as autograd saves them. On the device: its heap. A part is
given for the device and for the host; what a method keeps is measured the same way, whatever the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from loralith.mapping.attachment import Attachment
from loralith.mapping.kinds.function_attention import put_attention
from loralith.mapping.select import Choice, select

__all__ = ["PARTS", "Account", "measure"]

PARTS = {
    "weights": "what the step reads, INT8 with scales where a layer is mapped; on the host norms, biases, embeddings, the adapter",
    "originals": "FP32 weights of mapped layers, which torch keeps to give back and nothing reads",
    "saved": "tensors that wait for the backward pass, at the end of the forward pass",
    "gradients": "gradients of trained parameters",
    "optimizer": "the optimizer's state",
    "scratch": "the most that was allocated beside all this at any time of the step; on the host torch's tensors alone",
}


@dataclass
class Account:
    """Bytes of one step: ``parts`` by name, each [device, host]; ``saved`` by who saved it, the kinds of mapped modules and "rest"."""

    parts: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in PARTS})
    saved: dict[str, list[int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(sum(pair) for name, pair in self.parts.items() if name != "originals")

    @property
    def saved_by_modules(self) -> int:
        """What the modules saved that are mapped, or would be."""
        return sum(sum(pair) for name, pair in self.saved.items() if name != "rest")

    def figures(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("device", "host")
        parts = {part: dict(zip(names, pair, strict=True)) for part, pair in self.parts.items()}
        saved = {who: dict(zip(names, pair, strict=True)) for who, pair in sorted(self.saved.items())}
        return {"parts": parts, "saved": saved, "saved_by_modules": self.saved_by_modules, "total": self.total}


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _nbytes(tensors: list[Tensor]) -> int:
    """Of distinct storages."""
    return sum({_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


class _Live(TorchDispatchMode):
    """The most bytes of storages that operations made within it and that live at the same time. ``kept``: those that are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, StorageWeakRef] = {}
        self.most = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self._live[_key(tensor)] = StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes()
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        # A storage may have the key of one that is gone.
        self.kept = {key: storage for key, storage in self.kept.items() if not storage.expired()}
        self.most = max(self.most, sum(nbytes for key, (_, nbytes) in self._live.items() if key not in self.kept))
        return result


class _Saved:
    """What autograd saves, each storage once, by who saved it first."""

    def __init__(self, ignored: set[int], live: _Live) -> None:
        self.ignored, self.live = ignored, live
        self.who: list[str] = ["rest"]
        self.found: dict[int, tuple[str, int, StorageWeakRef]] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        key = _key(tensor)
        known = self.found.get(key)
        if key not in self.ignored and (known is None or known[2].expired() or known[0] == "rest"):
            self.found[key] = self.who[-1], tensor.untyped_storage().nbytes(), StorageWeakRef(tensor.untyped_storage())
            self.live.kept[key] = self.found[key][2]
        return tensor

    @contextmanager
    def by(self, who: str) -> Iterator[None]:
        self.who.append(who)
        try:
            yield
        finally:
            self.who.pop()

    def waiting(self) -> dict[str, int]:
        """Bytes that are still there."""
        sums: dict[str, int] = {}
        for who, nbytes, storage in self.found.values():
            if not storage.expired():
                sums[who] = sums.get(who, 0) + nbytes
        return sums


@contextmanager
def _attributed(choices: list[Choice], saved: _Saved) -> Iterator[None]:
    """Within it, what a module saves is put down to its kind; attention's products are torch's own, as one function."""
    undo: list[Callable[[], None]] = []
    for choice in choices:
        module: Any = choice.module
        if choice.kind == "attention" and not choice.reason:

            def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
                with saved.by("attention"):
                    start = torch.empty(1) if mask is None else mask
                    scores = torch.baddbmm(start, q, k.mT, beta=0 if mask is None else 1, alpha=scale)
                    return torch.bmm(scores.softmax(dim=-1), v)

            undo.append(put_attention(module, choice.name, attend))
        elif choice.kind not in ("other", "attention"):

            def forward(*args: Any, kind: str = choice.kind, inner: Callable[..., Any] = module.forward, **kwargs: Any) -> Any:
                with saved.by(kind):
                    return inner(*args, **kwargs)

            module.forward = forward
            undo.append(lambda module=module: delattr(module, "forward"))
    try:
        yield
    finally:
        for give_back in undo:
            give_back()


def measure(
    model: nn.Module,
    loss: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    attachment: Attachment | None = None,
) -> Account:
    """One whole step of ``model``, attached already where there is an attachment; ``loss()`` is its forward pass, whose value
    needs no gradient where the method has no backward pass and leaves the gradients itself.

    Run a step before it, so that the optimizer has its state and the device's lists are made.
    """
    account = Account()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters = [*model.parameters(), *model.buffers(), *trained]
    for parameter in trained:
        parameter.grad = None
    live = _Live()
    saved = _Saved({_key(tensor) for tensor in parameters}, live)
    heap = attachment.device.heap if attachment else None
    with ExitStack() as stack:
        if attachment is None:
            stack.enter_context(_attributed(select(model, "all"), saved))
        else:
            attachment.device.run_deferred()
        if heap is not None:
            heap.scratch = 0
        stack.enter_context(live)
        with saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            value = loss()
        account.saved = {who: [0, nbytes] for who, nbytes in saved.waiting().items()}
        for kind, (device, host) in (attachment.saved_bytes() if attachment else {}).items():
            before = account.saved.get(kind, [0, 0])
            account.saved[kind] = [before[0] + device, before[1] + host]
        if value.requires_grad:
            value.backward()
        account.parts["scratch"][1] = live.most
        optimizer.step()
    account.parts["saved"] = [sum(pair[place] for pair in account.saved.values()) for place in (0, 1)]
    account.parts["gradients"][1] = _nbytes([p.grad for p in trained if p.grad is not None])
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    account.parts["optimizer"][1] = _nbytes(state)
    originals: list[Tensor] = []
    if attachment is not None and heap is not None:
        weights = [layer.weight_bytes() for layer in attachment.layers]
        account.parts["weights"] = [sum(pair[place] for pair in weights) for place in (0, 1)]
        originals = [tensor for layer in attachment.layers for tensor in layer.originals()]
        account.parts["scratch"][0] = heap.scratch
    account.parts["originals"][1] = _nbytes(originals)
    account.parts["weights"][1] += _nbytes(parameters) - account.parts["originals"][1]
    return account
