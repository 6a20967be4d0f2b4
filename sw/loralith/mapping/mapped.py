"""One module of a model on a device, whatever its kind."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from loralith.compiler.storage.regions import DoesNotFit
from loralith.device.device_errors import OutOfMemory
from loralith.device.run_status import Counters
from loralith.mapping.forward import DeviceForward, OpaqueForward
from loralith.mapping.pass_records import Numbers, Place
from loralith.mapping.select import AttachError, Choice
from loralith.spec.scheme import SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["Mapped", "first_order"]


def _traceable(name: str) -> None:
    """Raises AttachError under a transform of torch.func and in torch.jit.trace, which look for torch's operations."""
    if torch._C._are_functorch_transforms_active() or torch.jit.is_tracing():
        raise AttachError(f"{name}: torch.func and torch.jit.trace do not see what the device computes; detach the model")


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For the backward pass of an autograd function whose context has the `Mapped` as ``layer``: AttachError where torch would go through
    the gradients once more, since what they depend on is not in its graph."""

    @wraps(backward)
    def first(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise AttachError(f"{ctx.layer.name}: gradients of gradients are not computed; leave out create_graph=True")
        return backward(ctx, *gradients)

    return first


class Resource(Protocol):
    """Device memory of one module; holds no module."""

    def close(self) -> None: ...


class Mapped(ABC):
    """One module on the device.

    A kind calls `own` once its device memory is taken, and implements `run`, which is the module's forward function while it is mapped, and
    what it needs of the rest. `run` takes a `place` for each pass; device work, forward and backward, is done inside `use`.
    """

    module: Any

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        self.attachment, self.index, self.name, self.kind = attachment, index, choice.name, choice.kind
        self.module = choice.module
        self.numbers = Numbers()
        self.counters = Counters()
        self._taken: Callable[[], object] = lambda: None
        self._free: Callable[[], object] = lambda: None

    def own(self, resource: Resource) -> None:
        """The device memory of the module: freed by `close`, or when nothing holds the module any more."""
        taken = weakref.finalize(self, self.attachment.device.defer, resource.close)
        taken.atexit = False
        self._taken, self._free = taken.detach, resource.close

    @property
    def calls(self) -> int:
        """Passes in the present step."""
        return self.numbers.calls

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward function on the device."""

    def install(self) -> None:
        """Makes the module run on the device."""
        self.forward_function: DeviceForward = OpaqueForward(self.module, self.run)
        self.forward_function.install()

    def remove(self) -> None:
        """Gives the module back to torch."""
        self.forward_function.remove()

    def close(self) -> None:
        """Frees its device memory."""
        if self._taken() is not None:
            self._free()

    @abstractmethod
    def weight_bytes(self) -> tuple[int, int]:
        """Of frozen weights and their scales: (on the device, on the host)."""

    def originals(self) -> list[Tensor]:
        """FP32 weights that torch keeps while the module is mapped."""
        return []

    def moved(self) -> None:  # noqa: B027 - most kinds have none
        """Its originals lie in a file now, with the same values."""

    def state_dict(self) -> dict[str, object] | None:
        """What a resumed run needs of it, as JSON values; None where it has no state."""
        return None

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        raise NotImplementedError

    def place(self, x: Tensor) -> Place:
        """Of the pass over ``x`` that starts now. Not to be called inside an autograd function, which has no gradients enabled."""
        _traceable(self.name)
        self.attachment.passing()
        return self.numbers.place(x, self.attachment.step)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Has the device alone, counts its work for this module, and names the module in errors."""
        device = self.attachment.device
        with device.lock:
            before = device.counters()
            try:
                yield
            except (SchemeError, DoesNotFit) as error:
                raise AttachError(f"{self.name}: {error}") from None
            except OutOfMemory as error:
                raise OutOfMemory(f"{self.name}: {error}") from None
            finally:
                self.counters = self.counters.plus(device.counters().minus(before))
