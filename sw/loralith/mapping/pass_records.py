"""Which pass of a layer is which, and what a pass keeps on the device: as long as torch may go back through it, and no longer."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from loralith.device.device import Device
from loralith.lora.layer import Activation
from loralith.mapping.originals import in_memory_order

if TYPE_CHECKING:
    from loralith.mapping.mapped import Mapped

__all__ = ["Numbers", "Passes", "Pending", "Place", "fingerprint", "recomputing", "training"]

SAMPLE, RUNS = 1024, 4
REMEMBERED = 1024


def fingerprint(tensor: Tensor, *, runs: bool = False) -> int:
    """A hash of up to `SAMPLE` elements, evenly spaced: equal for equal values, and after a change of most of them another.

    ``runs``: they lie together in `RUNS` places, for a tensor whose pages are read from a file.
    """
    flat = (in_memory_order(tensor.detach())[0] if runs else tensor.detach()).reshape(-1)
    if runs and flat.numel() > SAMPLE:
        length = SAMPLE // RUNS
        part = torch.cat([flat[start : start + length] for start in range(0, flat.numel() - length, flat.numel() // RUNS)])
    else:
        part = flat[:: flat.numel() // SAMPLE | 1].contiguous()
    return hash((tuple(tensor.shape), part.view(torch.uint8).cpu().numpy().tobytes()))


def recomputing() -> bool:
    """Whether autograd is at work on this thread: a forward pass now is one that checkpointing repeats."""
    return torch._C._current_graph_task_id() != -1


def training() -> bool:
    """Whether a backward pass may come through a forward pass now: gradients are enabled, or a reentrant checkpoint has disabled them."""
    if torch.is_grad_enabled():
        return True
    frame, code = sys._getframe(), CheckpointFunction.forward.__code__
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


@dataclass(frozen=True)
class Place:
    """Step and call of a pass, which its random numbers come from. ``repeated``: it repeats the pass that ``notes`` were written in; a
    layer with state writes there what a repetition must know."""

    step: int
    call: int
    repeated: bool
    notes: dict[str, Any]


class Numbers:
    """Numbers the passes of one layer within a step."""

    def __init__(self) -> None:
        self.calls = 0
        self._seen: dict[int, Place] = {}

    def begin(self) -> None:
        """A step begins."""
        self.calls = 0
        self._seen.clear()

    def place(self, x: Tensor, step: int) -> Place:
        """Of the pass over ``x`` that starts now. A repeated one has the place of the first, and so its bits."""
        key = fingerprint(x)
        if recomputing() and key in self._seen:
            first = self._seen[key]
            return Place(first.step, first.call, True, first.notes)
        place = self._seen[key] = Place(step, self.calls, False, {})
        self.calls += 1
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return place


@dataclass(frozen=True)
class Pending:
    """A forward pass that waits for its backward pass: bytes that it alone keeps on the device and on the host, and the shared X that it
    reads; `release` lets go of all, and must not hold a module."""

    layer: Mapped
    release: Callable[[], None]
    device_bytes: int
    host_bytes: int = 0
    activation: Activation | None = None


_number = itertools.count()


class Passes:
    """Forward passes that torch may still go back through.

    Each has a token, a tensor that its autograd node saves. Torch frees it as it frees every saved tensor: after the backward pass unless
    the graph is retained, with the graph where no backward pass comes, and at once where checkpointing will do the pass again. Then the
    device's memory is freed too.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._open: dict[int, tuple[Any, Pending]] = {}

    def register(self, saved: Any, pending: Pending) -> Tensor:
        """The token of a pass whose backward pass needs ``saved``."""
        number = next(_number)
        # The storage of the token, which its copies for checkpointing share, holds this array.
        content = np.array([number])
        self._open[number] = saved, pending
        weakref.finalize(content, self._gone, number).atexit = False
        return torch.from_numpy(content)

    def find(self, token: Tensor) -> Any:
        """What was registered with ``token``; None after `release`."""
        found = self._open.get(int(token))
        return None if found is None else found[0]

    def pending(self) -> list[Pending]:
        """Of all passes that are kept."""
        return [pending for _, pending in list(self._open.values())]

    def _gone(self, number: int) -> None:
        found = self._open.pop(number, None)
        if found is not None:
            self.device.defer(found[1].release)

    def release(self) -> None:
        """Frees what all of them keep; there is no way back through them any more."""
        for number in list(self._open):
            self._gone(number)
        self.device.run_deferred()
