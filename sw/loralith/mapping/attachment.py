"""A model's modules on a device, forward and backward. Optimizer and everything else stay in torch."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from loralith.compiler.regions import DoesNotFit
from loralith.device.base import Device
from loralith.device.status import Counters
from loralith.lora.attention import Scores, Values
from loralith.lora.frozen import Input, Output
from loralith.lora.health import Health
from loralith.lora.layer import Activation, DeviceLayer, Gradients, Saved
from loralith.lora.quantize import Float32, Int8, Quantized, finite32, quantize
from loralith.mapping.select import AttachError, Choice, select
from loralith.spec.scheme import FQT, Role, SchemeError

__all__ = ["Attachment", "Mapped", "Observer", "attach", "detach", "float32"]


def float32(tensor: Tensor) -> Float32:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


class Observer(Protocol):
    """Sees every pass of every layer, for verification. Arrays must not be changed. `index` is the layer's place in the attachment."""

    def layer(self, index: int, name: str, layer: DeviceLayer) -> None:
        """A LoRA layer was attached as number `index`."""
        ...

    def forward(self, index: int, x: Float32, a: Float32, b: Float32, step: int, call: int, record: bool, saved: Saved) -> None: ...

    def backward(self, index: int, saved: Saved, dy: Float32, a: Float32, record: bool, gradients: Gradients) -> None: ...

    def frozen(self, index: int, name: str, module: nn.Module, scheme: FQT) -> None:
        """A frozen linear layer or convolution, or attention, was attached."""
        ...

    def frozen_forward(self, index: int, x: Float32, step: int, call: int, output: Output) -> None: ...

    def frozen_backward(self, index: int, dy: Float32, shape: tuple[int, ...], step: int, call: int, result: Input) -> None: ...

    def scores(self, index: int, q: Float32, k: Float32, step: int, call: int, scores: Scores) -> None: ...

    def values(self, index: int, e: Float32, v: Float32, step: int, call: int, p: Int8, values: Values) -> None: ...

    def attention_backward(self, index: int, name: str, inputs: Mapping[str, Any], values: Values, step: int, call: int) -> None:
        """One of dV, dP, dQ and dK (`name`); `inputs` has what it is made from."""
        ...


class Mapped(ABC):
    """One module on the device. `calls` counts its passes in the present step.

    A kind implements `install`, `close` and what it needs of the rest; its autograd functions run their device work inside `use`.
    """

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        # Weak, or the model's modules and its attachment would keep each other alive.
        self.attachment, self.index, self.name, self.kind = attachment, index, choice.name, choice.kind
        self.calls = 0
        self.counters = Counters()

    @abstractmethod
    def install(self) -> None:
        """Makes the module run on the device."""

    @abstractmethod
    def remove(self) -> None:
        """Gives the module back to torch."""

    @abstractmethod
    def close(self) -> None:
        """Frees its device memory."""

    @abstractmethod
    def weight_bytes(self) -> tuple[int, int]:
        """Of frozen weights and their scales: (on the device, on the host)."""

    def originals(self) -> list[Tensor]:
        """FP32 weights that torch keeps while the module is mapped."""
        return []

    def state_dict(self) -> dict[str, object] | None:
        """What a resumed run needs of it, as JSON values; None where it has no state."""
        return None

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        raise NotImplementedError

    def call(self) -> int:
        """The number of the pass that starts now."""
        call, self.calls = self.calls, self.calls + 1
        return call

    @contextmanager
    def use(self) -> Iterator[None]:
        """Counts the device's work for this module, and names the module in errors."""
        device = self.attachment.device
        before = device.counters()
        try:
            yield
        except (SchemeError, DoesNotFit) as error:
            raise AttachError(f"{self.name}: {error}") from None
        finally:
            self.counters = self.counters.plus(device.counters().minus(before))


class Inputs:
    """INT8 X of tensors that several layers read, quantized and placed once: to_q, to_k and to_v of self-attention share one, the K and V
    of all cross attention another. An entry lives as long as its tensor, and on the device as long as a layer has saved it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._entries: dict[int, tuple[weakref.ref[Tensor], int, Activation]] = {}

    def find(self, x: Tensor) -> Activation:
        """X [T, I] of ``x`` [..., I], to nearest. The caller is not a holder."""
        key = id(x)
        entry = self._entries.get(key)
        if entry is not None and entry[0]() is x and entry[1] == x._version:
            return entry[2]
        self._drop(key)
        array = finite32(float32(x).reshape(-1, x.shape[-1]), "X")
        activation = Activation.place(self.device, Quantized(*quantize(array)))
        self._entries[key] = weakref.ref(x, lambda _: self._drop(key)), x._version, activation
        return activation

    def _drop(self, key: int) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry[2].release()

    def clear(self) -> None:
        for key in list(self._entries):
            self._drop(key)


@dataclass(frozen=True)
class Pending:
    """A forward pass that waits for its backward pass: bytes that it alone keeps on the device and on the host, and the shared X that it
    reads; `release` lets go of all."""

    layer: Mapped
    release: Callable[[], None]
    device_bytes: int
    host_bytes: int = 0
    activation: Activation | None = None


Maker = Callable[["Attachment", int, Choice], Mapped]


def makers() -> dict[str, Maker]:
    """What maps each kind of module."""
    from loralith.mapping.adapted import MappedLora
    from loralith.mapping.attention import MappedAttention
    from loralith.mapping.frozen import MappedConv, MappedLinear

    return {"lora": MappedLora, "linear": MappedLinear, "conv": MappedConv, "attention": MappedAttention}


def _kept(choice: Choice) -> Choice:
    return replace(choice, reason="the method keeps it in torch")


def _named(counters: Counters, names: tuple[str, ...]) -> dict[str, int]:
    return {name: int(getattr(counters, name)) for name in names}


_attached: weakref.WeakKeyDictionary[nn.Module, Attachment] = weakref.WeakKeyDictionary()


class Attachment:
    """The mapped modules of a model on a device, until `detach`. Made by `attach`.

    Warns with `health.TrainingWarning`, once for each layer and cause, of a layer that gets no gradient or a tensor that saturates.

    Attributes: ``layers``, LoRA layers first; ``unmapped``, what stays in torch, with the reasons; ``step``.
    """

    def __init__(
        self,
        model: nn.Module,
        device: Device,
        scheme: FQT,
        observer: Observer | None = None,
        modules: str = "lora",
        kinds: Mapping[str, Maker | None] | None = None,
    ) -> None:
        table: Mapping[str, Maker | None] = {**makers(), **(kinds or {})}
        choices = [_kept(choice) if table.get(choice.kind) is None and not choice.reason else choice for choice in select(model, modules)]
        mapped = [choice for choice in choices if not choice.reason]
        if modules == "lora" and not mapped:
            raise AttachError("the model has no LoRA layers; add them with peft.get_peft_model or the model's add_adapter")
        if not mapped:
            stay = "; ".join(f"{choice.name}: {choice.reason}" for choice in choices[:5]) or "it has no layer that multiplies"
            raise AttachError(f"nothing of the model can run on the device ({stay})")
        self.device, self.scheme, self.observer = device, scheme, observer
        self.unmapped = [choice for choice in choices if choice.reason]
        self.health = Health(scheme)
        self.step = 0
        self.inputs = Inputs(device)
        self._model = weakref.ref(model)
        self._before = device.counters()
        self.open: dict[int, Pending] = {}
        self._backward, self._most_saved = False, (0, 0)
        self.layers: list[Mapped] = []
        try:
            for index, choice in enumerate(mapped):
                maker = table[choice.kind]
                assert maker is not None
                self.layers.append(maker(self, index, choice))
        except BaseException:
            for layer in self.layers:
                layer.close()
            raise
        for layer in self.layers:
            layer.install()

    def shared(self, x: Tensor) -> Activation | None:
        """INT8 X on the device for all layers that read ``x``; None where the scheme gives each layer random numbers of its own."""
        return None if self.scheme.is_stochastic(Role.X) else self.inputs.find(x)

    def keep(self, saved: object, pending: Pending) -> None:
        """A forward pass waits for its backward pass; `taken` must come once, in the same step."""
        self.open[id(saved)] = pending

    def saved_bytes(self) -> dict[str, tuple[int, int]]:
        """What waits for a backward pass now, by kind of module: bytes (on the device, on the host). A shared X counts once."""
        sums: dict[str, tuple[int, int]] = {}
        counted: set[int] = set()
        for pending in self.open.values():
            device, host = sums.get(pending.layer.kind, (0, 0))
            x = pending.activation
            if x is not None and id(x) not in counted:
                counted.add(id(x))
                device += x.layout.nbytes
            sums[pending.layer.kind] = device + pending.device_bytes, host + pending.host_bytes
        return sums

    def memory(self) -> dict[str, str]:
        """Bytes by part, as texts, which do not add up over sessions: weights, what the latest step saved at most, scratch."""
        weights = [sum(part) for part in zip(*(layer.weight_bytes() for layer in self.layers), strict=True)] or [0, 0]
        return {
            "weights on the device": str(weights[0]),
            "their scales on the host": str(weights[1]),
            "saved on the device": str(self._most_saved[0]),
            "saved on the host": str(self._most_saved[1]),
            "scratch on the device": str(self.device.heap.scratch),
        }

    def taken(self, saved: object, layer: Mapped) -> None:
        """Its backward pass has come. Raises AttachError where it came already or the step is over."""
        if not self._backward:
            self._backward = True
            saved_now = self.saved_bytes().values()
            self._most_saved = sum(pair[0] for pair in saved_now), sum(pair[1] for pair in saved_now)
        if self.open.pop(id(saved), None) is None:
            raise AttachError(f"{layer.name}: this forward pass was released; backward must come once, in the same step")

    def _release_open(self) -> None:
        for pending in self.open.values():
            pending.release()
        self.open.clear()

    def step_begin(self, step: int) -> None:
        """Start of step `step` (0..2**32-1), which stochastic rounding draws from. Forward passes left without backward are dropped."""
        self.step, self._backward = step, False
        self._release_open()
        for layer in self.layers:
            layer.calls = 0

    def counters(self) -> dict[str, Any]:
        """Counts since the attachment was made: `cycles`, `macs`, `bytes_read`, `bytes_written`, `saturations`; `utilization`, useful
        MACs over cycles times processing elements; `cycle_unit`, what cycles are (see `Device`); `layers`, the same by layer; `memory`;
        those of `Observer`, where it has `counters`. A device without an array of its own has memory and the layers' kinds alone."""
        names = ("cycles", "macs", "bytes_read", "bytes_written") if self.device.cycle_unit else ()
        counts: dict[str, Any] = {}
        if self.device.cycle_unit:
            now = self.device.counters().minus(self._before)
            elements = self.device.config.processing_elements
            counts = {**_named(now, (*names, "saturations")), "cycle_unit": self.device.cycle_unit}
            counts["utilization"] = now.macs / (now.cycles * elements) if now.cycles else 0.0
            counts["processing_elements"] = float(elements)  # a figure: it does not add up over sessions
        counts["layers"] = {layer.name: {"kind": layer.kind, **_named(layer.counters, names)} for layer in self.layers}
        counts["memory"] = self.memory()
        own = getattr(self.observer, "counters", None)
        return counts | (own() if own else {})

    def state_dict(self) -> dict[str, Any]:
        """The history of delayed scales by layer name, as JSON values."""
        states = {layer.name: layer.state_dict() for layer in self.layers}
        return {name: state for name, state in states.items() if state is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over `state_dict`'s value; an equal model continues bit for bit. Raises AttachError for other layers."""
        names = list(self.state_dict())
        if sorted(state) != sorted(names):
            odd = sorted(set(state) ^ set(names))
            raise AttachError(f"the state is of other layers; these are in one and not in the other: {', '.join(odd[:5])}")
        for layer in self.layers:
            if layer.name in state:
                layer.load_state_dict(state[layer.name])

    def detach(self) -> None:
        """Gives the layers back to torch and frees the device's memory. Detaching twice is not an error."""
        self._release_open()
        self.inputs.clear()
        for layer in self.layers:
            layer.remove()
            layer.close()
        self.layers = []
        model = self._model()
        if model is not None:
            _attached.pop(model, None)


def attach(
    model: nn.Module,
    device: Device,
    scheme: FQT | None = None,
    *,
    observer: Observer | None = None,
    modules: str = "lora",
    kinds: Mapping[str, Maker | None] | None = None,
) -> Attachment:
    """Run a model's layers, forward and backward, on a device.

    Parameters: ``model``, whose LoRA layers (`peft.get_peft_model`, or diffusers' `add_adapter`) have frozen base weights; ``device`` from
    `loralith.open_device`; ``scheme``, by default `FQT()`; ``modules``, "lora" for the LoRA layers alone, or "all" for every frozen
    linear layer and convolution and the products of attention too (what stays in torch is in the result's ``unmapped``); ``kinds``,
    what maps a kind of module ("lora", "linear", "conv", "attention") in place of the usual class of `Mapped`, for other methods, or
    None for a kind that stays in torch.

    Raises AttachError, before anything is changed, for a model with nothing to map, one already attached, and LoRA settings that are not
    supported (bias, dropout, variants such as DoRA, several adapters, other than linear layers), naming the layer; later, from the
    forward and backward passes, for values that are not finite.
    """
    if model in _attached:
        raise AttachError("the model is attached already; detach it first")
    attachment = Attachment(model, device, scheme or FQT(), observer, modules, kinds)
    _attached[model] = attachment
    return attachment


def detach(model: nn.Module) -> None:
    """Undo `attach`. Raises AttachError for a model that is not attached."""
    if model not in _attached:
        raise AttachError("the model is not attached")
    _attached[model].detach()
