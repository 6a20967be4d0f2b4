"""What `--verify` does: every attached layer's integers and floats, compared bit for bit with the torch reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from loralith.errors import LoralithError
from loralith.lora.attention import Scores, Values
from loralith.lora.frozen import Input, Output
from loralith.lora.layer import DeviceLayer, Gradients, Saved
from loralith.lora.quantize import Float32, Int8
from loralith.lora.trained import TrainedGradients, TrainedPass
from loralith.mapping.base_files import file_weight
from loralith.mapping.quantized_bases import float_weight
from loralith.mapping.select import CONVOLUTIONS
from loralith.spec.graph import Graph, Op
from loralith.spec.scheme import FQT
from loralith.step.program import StepProgram
from loralith.verif.fqt import Forward, LoraLayer
from loralith.verif.golden_compare import Difference, compare
from loralith.verif.graph import interpret
from loralith.verif.torch_frozen import Attention, FrozenConv, FrozenLinear, Result, Trained, places
from loralith.verif.torch_quantize import QuantizedWeight

__all__ = ["GraphObserver", "ReferenceObserver", "VerificationError", "interpreted"]


class VerificationError(LoralithError):
    """The device and the reference differ; the message names the first place: step, layer, tensor, index, both values."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(f"the device differs from the reference: {difference}")
        self.difference = difference


def _image(rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Sums [N * places, O] as an image [N, O, ...] of ``shape``."""
    return np.ascontiguousarray(np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1))


class ReferenceObserver:
    """An observer for `loralith.attach` that runs `verif`'s layers beside the device's and stops at the first difference."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.layers: dict[int, LoraLayer] = {}
        self.device_layers: dict[int, DeviceLayer] = {}
        self.open: WeakKeyDictionary[Saved, Forward] = WeakKeyDictionary()
        self.compared = 0
        self.products: dict[int, FrozenLinear | Attention | Trained] = {}

    def layer(self, index: int, name: str, layer: DeviceLayer) -> None:
        numerics = layer.numerics
        weight = QuantizedWeight(torch.from_numpy(numerics.weight.q), torch.from_numpy(numerics.weight.scale))
        self.names[index], self.device_layers[index] = name, layer
        reference = LoraLayer(weight, numerics.alpha, numerics.scheme, index)
        if index in self.layers:  # with another W
            reference.history = self.layers[index].history
        self.layers[index] = reference

    def _state(self, index: int, name: str) -> None:
        """A resumed run's device layers start from a checkpoint's history; so must the reference, once."""
        reference, numerics = self.layers[index], self.device_layers[index].numerics
        if not reference.history[name] and len(numerics.history[name]) > 1:
            # The device has recorded this pass already; what came before is the checkpoint's.
            reference.history[name] = list(numerics.history[name][:-1])

    def _compare(self, index: int, step: int, expected: dict[str, Any], actual: dict[str, Any]) -> None:
        difference = compare(expected, actual, step=step, layer=self.names[index])
        if difference is not None:
            raise VerificationError(difference)
        self.compared += sum(value.numel() for value in expected.values())

    def forward(self, index: int, x: Float32, a: Float32, b: Float32, step: int, call: int, record: bool, saved: Saved) -> None:
        self._state(index, "H")
        tensors = (torch.from_numpy(value) for value in (x, a, b))
        forward = self.layers[index].forward(*tensors, step=step, call=call, alpha=saved.plan.operands.alpha, record=record)
        expected = {"X": forward.xq, "A": forward.aq, "B": forward.bq, "Y accumulators": forward.y_acc, "Y": forward.y}
        operands = saved.plan.operands
        self._compare(
            index, step, expected, dict(zip(expected, (operands.xq, operands.aq, operands.bq, saved.y_acc, saved.y), strict=True))
        )
        if record:
            self.open[saved] = forward

    def backward(self, index: int, saved: Saved, dy: Float32, a: Float32, record: bool, gradients: Gradients) -> None:
        self._state(index, "dH")
        forward = self.open[saved]
        want = self.layers[index].backward(
            forward, torch.from_numpy(dy), torch.from_numpy(a), need_dx=gradients.dx is not None, record=record
        )
        expected = {
            "dY": want.dyq,
            "dB accumulators": want.db_acc.to(torch.int32),
            "dA accumulators": want.da_acc.T.contiguous().to(torch.int32),
            "dB": want.db,
            "dA": want.da,
        }
        actual = dict(
            zip(
                expected,
                (gradients.plan.operands.dyq, gradients.db_acc, gradients.da_acc, gradients.db, gradients.da),
                strict=True,
            )
        )
        if want.dx is not None and want.dx_acc is not None:
            expected |= {"dX accumulators": want.dx_acc, "dX": want.dx}
            actual |= {"dX accumulators": gradients.dx_acc, "dX": gradients.dx}
        self._compare(index, forward.step, expected, actual)

    # Frozen layers and attention.

    def frozen(self, index: int, name: str, module: nn.Module, scheme: FQT) -> None:
        self.names[index] = name
        if isinstance(module, nn.Linear):
            linear = self.products[index] = FrozenLinear(float_weight(module).detach(), scheme, index)
            given = file_weight(module.weight, scheme)
            if given is not None:  # of a file, whose integers are not made from torch's values
                linear.weight = QuantizedWeight(torch.from_numpy(given.q), torch.from_numpy(given.scale))
        elif isinstance(module, CONVOLUTIONS):
            self.products[index] = FrozenConv(module, scheme, index)
        else:
            self.products[index] = Attention(scheme, index)

    def _product(self, index: int, step: int, names: tuple[str, str], want: Result, operand: Int8, acc: Any, value: Float32) -> None:
        """Compares a product; ``names`` of its new operand and of its result."""
        tensors = (names[0], f"{names[1]} accumulators", names[1])
        expected = dict(zip(tensors, (want.operand, want.acc, want.value), strict=True))
        self._compare(index, step, expected, dict(zip(tensors, (operand, acc.astype(np.int64), value), strict=True)))

    def frozen_forward(self, index: int, x: Float32, step: int, call: int, output: Output) -> None:
        layer = self.products[index]
        assert isinstance(layer, FrozenLinear)
        want = layer.forward(torch.from_numpy(x), step=step, call=call)
        acc = output.acc
        if isinstance(layer, FrozenConv):  # the device's rows are places of the window
            acc = _image(acc, want.acc.shape)
        self._product(index, step, ("X", "Y"), want, output.xq, acc, output.y)

    def frozen_backward(self, index: int, dy: Float32, shape: tuple[int, ...], step: int, call: int, result: Input) -> None:
        layer = self.products[index]
        assert isinstance(layer, FrozenLinear)
        want = layer.backward(torch.from_numpy(dy), shape, step=step, call=call)
        self._product(index, step, ("dY", "dX"), want, result.dyq, result.acc, result.dx)

    def trained(self, index: int, name: str, layer: nn.Module, scheme: FQT) -> None:
        self.names[index] = name
        self.products[index] = Trained(scheme, index, places(layer) if isinstance(layer, CONVOLUTIONS) else None)

    def _trained(self, index: int) -> Trained:
        layer = self.products[index]
        assert isinstance(layer, Trained)
        return layer

    def trained_forward(self, index: int, x: Float32, w: Float32, one: TrainedPass) -> None:
        weight, want = self._trained(index).forward(torch.from_numpy(x), torch.from_numpy(w), step=one.step, call=one.call)
        assert one.xq is not None
        assert one.wq is not None
        assert one.acc is not None
        assert one.y is not None
        acc = one.acc
        if want.acc.ndim > 2:  # the device's rows are places of the window
            acc = _image(acc, want.acc.shape)
        self._compare(index, one.step, {"W": weight}, {"W": one.wq.reshape(weight.shape)})
        self._product(index, one.step, ("X", "Y"), want, one.xq, acc, one.y)

    def trained_backward(self, index: int, dy: Float32, step: int, call: int, result: TrainedGradients) -> None:
        for name, acc, value in (("dX", result.dx_acc, result.dx), ("dW", result.dw_acc, result.dw)):
            if acc is not None and value is not None:
                want = self._trained(index).backward(name, torch.from_numpy(dy), step=step, call=call)
                self._product(index, step, (f"dY for {name}", name), want, result.dyq, acc.reshape(value.shape), value)

    def _attention(self, index: int) -> Attention:
        layer = self.products[index]
        assert isinstance(layer, Attention)
        return layer

    def scores(self, index: int, q: Float32, k: Float32, step: int, call: int, scores: Scores) -> None:
        key, want = self._attention(index).scores(torch.from_numpy(q), torch.from_numpy(k), step=step, call=call)
        self._compare(index, step, {"K": key}, {"K": scores.kq})
        self._product(index, step, ("Q", "S"), want, scores.qq, scores.acc, scores.s)

    def values(self, index: int, e: Float32, v: Float32, step: int, call: int, p: Int8, values: Values) -> None:
        probabilities, want = self._attention(index).values(torch.from_numpy(e), torch.from_numpy(v), step=step, call=call)
        self._compare(index, step, {"P": probabilities}, {"P": p})
        self._product(index, step, ("V", "O"), want, values.operand, values.acc, values.value)

    def attention_backward(self, index: int, name: str, inputs: Mapping[str, Any], values: Values, step: int, call: int) -> None:
        ((source, gradient),) = inputs.items()
        want = self._attention(index).backward(name, torch.from_numpy(gradient), step=step, call=call)
        self._product(index, step, (f"{source} for {name}", name), want, values.operand, values.acc, values.value)

    def counters(self) -> dict[str, Any]:
        """`bit_exact`, and how many elements were compared."""
        return {"bit_exact": True, "elements_compared": self.compared}


def interpreted(graph: Graph, given: Mapping[str, torch.Tensor], seed: int, what: str) -> torch.Tensor:
    """What a step graph names ``what``, of its first step, by interpretation."""
    name = graph.outputs[what]
    return next(value for node, value in interpret(graph, given, seed, 0) if node.name == name)


class GraphObserver:
    """An observer for `StepTraining` that interprets the step graph beside the device and stops at the first tensor that differs."""

    def __init__(self) -> None:
        self.compared = 0

    def submission(
        self, program: StepProgram, given: Sequence[Mapping[str, torch.Tensor]], seed: int, step: int, losses: Sequence[float]
    ) -> None:
        """Compares every loss and, of the last step, every tensor. Raises VerificationError that names operator, tensor, index and step."""
        states = {node.name: given[0][node.name] for node in program.graph.of(Op.STATE)}
        for number, (values, loss) in enumerate(zip(given, losses, strict=True)):
            found = dict(self._step(program, {**values, **states}, seed, step + number, number == len(given) - 1))
            self._equal(program, program.graph.outputs["loss"], found["loss"], np.float32(loss), step + number)
            states |= {what.removeprefix("state."): value for what, value in found.items() if what.startswith("state.")}

    def _step(
        self, program: StepProgram, given: Mapping[str, torch.Tensor], seed: int, step: int, held: bool
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The step's outputs by the graph's names for them; ``held``: what device memory holds is of this step and is compared."""
        outputs: dict[str, list[str]] = {}
        for what, name in program.graph.outputs.items():
            outputs.setdefault(name, []).append(what)
        for node, value in interpret(program.graph, given, seed, step):
            if node.op is Op.STATE:
                continue
            if held:
                actual = program.tensor(node.name)
                if actual is not None:
                    self._equal(program, node.name, value, actual, step)
            for what in outputs.get(node.name, ()):
                if held and what.startswith("state."):
                    self._equal(program, node.name, value, program.state(what.removeprefix("state.")), step)
                yield what, value

    def _equal(self, program: StepProgram, name: str, value: torch.Tensor, actual: Any, step: int) -> None:
        node = program.graph[name]
        kind = torch.float64 if value.dtype is torch.float64 else torch.float32
        # The device has one zero; torch's may be negative.
        found = {name: torch.from_numpy(np.asarray(actual)).to(kind).reshape(value.shape)}
        difference = compare({name: value + 0.0}, found, step=step, layer=f"{node.op} of {node.source or 'the host'}")
        if difference is not None:
            raise VerificationError(difference)
        self.compared += value.numel()

    def counters(self) -> dict[str, Any]:
        """`bit_exact`, and how many elements were compared."""
        return {"bit_exact": True, "elements_compared": self.compared}
