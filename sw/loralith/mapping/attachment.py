"""A model's modules on a device, forward and backward. Optimizer and everything else stay in torch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from loralith.device.device import Device
from loralith.device.device_errors import OutOfMemory
from loralith.device.run_status import Counters
from loralith.lora.attention import Scores, Values
from loralith.lora.frozen import Input, Output
from loralith.lora.health import Health
from loralith.lora.layer import Activation, DeviceLayer, Gradients, Saved
from loralith.lora.quantize import Float32, Int8
from loralith.lora.trained import TrainedGradients, TrainedPass
from loralith.mapping.forward import is_mapped
from loralith.mapping.inputs import Inputs
from loralith.mapping.mapped import Mapped
from loralith.mapping.originals import Originals
from loralith.mapping.pass_records import Passes, Pending, recomputing, training
from loralith.mapping.select import AttachError, Choice
from loralith.spec.scheme import FQT, Role

__all__ = ["ATTACHED", "Attachment", "Maker", "Observer", "attachment_of"]


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

    def trained(self, index: int, name: str, layer: nn.Module, scheme: FQT) -> None:
        """A trained linear layer or convolution was attached, or an adapter of a W computed from its parameters, whose shapes are
        ``layer``'s."""
        ...

    def trained_forward(self, index: int, x: Float32, w: Float32, one: TrainedPass) -> None: ...

    def trained_backward(self, index: int, dy: Float32, step: int, call: int, result: TrainedGradients) -> None: ...

    def scores(self, index: int, q: Float32, k: Float32, step: int, call: int, scores: Scores) -> None: ...

    def values(self, index: int, e: Float32, v: Float32, step: int, call: int, p: Int8, values: Values) -> None: ...

    def attention_backward(self, index: int, name: str, inputs: Mapping[str, Any], values: Values, step: int, call: int) -> None:
        """One of dV, dP, dQ and dK (`name`); `inputs` has what it is made from."""
        ...


Maker = Callable[["Attachment", int, Choice], Mapped]


def _named(counters: Counters, names: tuple[str, ...]) -> dict[str, int]:
    return {name: int(getattr(counters, name)) for name in names}


def _weights(choices: list[Choice], bits: int) -> int:
    """Bytes of the frozen weights of modules to be mapped, about."""
    modules = [getattr(choice.module, "base_layer", choice.module) for choice in choices]
    weights = [getattr(module, "weight", None) for module in modules]
    return sum(weight.numel() for weight in weights if isinstance(weight, Tensor)) * bits // 8


# Weak on both sides: a model may itself be one of the modules that its attachment holds.
ATTACHED: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Attachment]] = weakref.WeakKeyDictionary()


def attachment_of(model: nn.Module) -> Attachment | None:
    found = ATTACHED.get(model)
    return found() if found else None


class Attachment:
    """The mapped modules of a model on a device, until `detach`. `loralith.mapping.attach_model.attach` makes it.

    Warns with `health.TrainingWarning`, once for each layer and cause, of a layer that gets no gradient or a tensor that saturates.

    ``step`` numbers training steps, for stochastic rounding. It advances by itself, with the first forward pass under grad after a backward
    pass, until `step_begin` is called: from then on it is the caller's.

    Attributes: ``layers``, LoRA layers first; ``unmapped``, what stays in torch, with the reasons; ``step``.
    """

    def __init__(
        self,
        model: nn.Module,
        device: Device,
        scheme: FQT,
        observer: Observer | None,
        modules: str,
        choices: list[Choice],
        table: Mapping[str, Maker | None],
        folder: Path | None = None,
    ) -> None:
        mapped = [choice for choice in choices if not choice.reason]
        if modules == "lora" and not any(choice.kind == "lora" for choice in choices):
            raise AttachError("the model has no LoRA layers; add them with peft.get_peft_model or the model's add_adapter")
        if not mapped:
            stay = "; ".join(f"{choice.name}: {choice.reason}" for choice in choices[:5]) or "it has no layer that multiplies"
            raise AttachError(f"nothing of the model can run on the device ({stay})")
        for choice in mapped:
            if is_mapped(choice.module):
                raise AttachError(f"{choice.name or 'the model'} is attached already, as a part of another model; detach that first")
        self.device, self.scheme, self.observer = device, scheme, observer
        self.unmapped = [choice for choice in choices if choice.reason]
        self.health = Health(scheme)
        self.step = 0
        self.inputs = Inputs(device, scheme.rotation)
        self._model = weakref.ref(model)
        self._before = device.counters()
        self.passes = Passes(device)
        self._returned, self._explicit, self._most_saved = False, False, (0, 0)
        self.layers: list[Mapped] = []
        self.originals: Originals | None = None
        try:
            for index, choice in enumerate(mapped):
                maker = table[choice.kind]
                assert maker is not None
                self.layers.append(maker(self, index, choice))
            if folder is not None:
                self.originals = self._into_file(folder)
        except OutOfMemory:
            for layer in self.layers:
                layer.close()
            needed = _weights(mapped, scheme.weight_bits)
            raise OutOfMemory(
                f"the frozen weights of {len(mapped)} layers take {needed} bytes, and device memory has {device.memory_bytes}: "
                f"open the device with memory_bytes={1 << (2 * needed).bit_length()} or more, or map fewer layers"
            ) from None
        except BaseException:
            for layer in self.layers:
                layer.close()
            raise
        for layer in self.layers:
            layer.install()

    def _into_file(self, folder: Path) -> Originals:
        named = [(layer.name, weight) for layer in self.layers for weight in layer.originals()]
        found = Originals([weight for _, weight in named], [name for name, _ in named], folder)
        for layer in self.layers:
            layer.moved()
        return found

    def shared(self, x: Tensor) -> Activation | None:
        """INT8 X on the device for all layers that read ``x``; None where the scheme gives each layer random numbers of its own."""
        return None if self.scheme.is_stochastic(Role.X) else self.inputs.find(x)

    def passing(self) -> None:
        """A forward pass starts: the first of a step, where it is one of training and a backward pass has come."""
        if self._returned and not self._explicit and not recomputing() and training():
            self._begin((self.step + 1) % (1 << 32))

    def returning(self) -> None:
        """A backward pass through some layer starts."""
        if not self._returned:
            self._returned = True
            saved_now = self.saved_bytes().values()
            self._most_saved = sum(pair[0] for pair in saved_now), sum(pair[1] for pair in saved_now)

    def saved(self, token: Tensor, layer: Mapped) -> Any:
        """What the forward pass with this token saved for the backward pass that starts now. Raises AttachError after `detach`."""
        self.returning()
        found = self.passes.find(token)
        if found is None:
            raise AttachError(f"{layer.name}: what this forward pass saved is gone; backward must come before the model is detached")
        return found

    @property
    def open(self) -> list[Pending]:
        """Forward passes that torch may still go back through."""
        self.device.run_deferred()
        return self.passes.pending()

    def saved_bytes(self) -> dict[str, tuple[int, int]]:
        """What waits for a backward pass now, by kind of module: bytes (on the device, on the host). A shared X counts once."""
        sums: dict[str, tuple[int, int]] = {}
        counted: set[int] = set()
        for pending in self.open:
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

    def _begin(self, step: int) -> None:
        with self.device.lock:
            self.step, self._returned = step, False
            for layer in self.layers:
                layer.numbers.begin()
            self.inputs.trim()

    def step_begin(self, step: int) -> None:
        """Start of step `step` (0..2**32-1), which stochastic rounding draws from. From now on only this method begins a step; a plain
        loop, whose steps count from 0, needs none."""
        if not 0 <= step < 1 << 32:
            raise AttachError(f"step must be in 0..2**32-1, not {step}")
        self._explicit = True
        self._begin(step)

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
        """Gives the layers back to torch, with their weights in memory, and frees the device's memory. Detaching twice is not an error."""
        self.passes.release()
        self.inputs.clear()
        if self.originals is not None:
            self.originals.back()
            self.originals = None
        for layer in self.layers:
            layer.remove()
            layer.close()
        self.layers = []
        model = self._model()
        if model is not None and attachment_of(model) is self:
            del ATTACHED[model]
