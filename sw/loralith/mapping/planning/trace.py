"""A training step of a model as shapes: what each module multiplies, found by running the model on torch's meta device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from loralith.formats.unet_config import Source
from loralith.mapping.kinds.function_attention import put_attention
from loralith.mapping.kinds.linears_and_convolutions import window_of
from loralith.mapping.planning.attribution import Counted, count_products
from loralith.mapping.planning.meta_models import meta_model
from loralith.mapping.select import ONLY_LORA, Choice, select

__all__ = ["TracedGemm", "Step", "Trace", "trace", "trace_model"]


@dataclass(frozen=True)
class TracedGemm:
    """One product of a step: M x N results of sums over K, ``count`` times. ``backward``: belongs to the backward pass."""

    name: str
    M: int
    N: int
    K: int
    count: int = 1
    backward: bool = False

    @property
    def macs(self) -> int:
        return self.count * self.M * self.N * self.K


@dataclass(frozen=True)
class Step:
    """One pass of one module through a training step; of kind "other" all passes of one that stays in torch, or what a mapped one
    multiplies there.

    ``sizes``: T, I, O of a layer (and r of a LoRA layer, groups of a convolution with several, I then of one of them), n, Tq, Tk, d of
    attention, MACs forward and backward of another. ``dx``: its
    input has a gradient; for attention ``gradients`` names those of Q, K and V that have one. ``reads``: number of the tensor that a layer
    reads, the same for layers that read the same. ``input_elements``: of X, before a convolution's windows overlap. ``operators``: torch's
    names of those of kind "other". ``reached``: a gradient comes back; where none does (the text of a last block) the step ends there.
    """

    choice: Choice
    sizes: dict[str, int]
    dx: bool
    gradients: str
    reads: int
    input_elements: int
    operators: tuple[str, ...] = ()
    reached: bool = True

    @property
    def products(self) -> list[TracedGemm]:
        """All that the step multiplies."""
        return [product for product in self._products() if self.reached or not product.backward]

    def _products(self) -> list[TracedGemm]:
        s = self.sizes
        if self.choice.kind == "attention":
            n, Tq, Tk, d = s["n"], s["Tq"], s["Tk"], s["d"]
            found = [TracedGemm("S", Tq, Tk, d, n), TracedGemm("O", Tq, d, Tk, n)]
            if "V" in self.gradients:
                found.append(TracedGemm("dV", Tk, d, Tq, n, True))
            if "Q" in self.gradients or "K" in self.gradients:
                found.append(TracedGemm("dP", Tq, Tk, d, n, True))
            if "Q" in self.gradients:
                found.append(TracedGemm("dQ", Tq, d, Tk, n, True))
            if "K" in self.gradients:
                found.append(TracedGemm("dK", Tk, d, Tq, n, True))
            return found
        if self.choice.kind == "other":
            names = {"forward": s["forward"], "backward": s["backward"]}
            return [TracedGemm(name, macs, 1, 1, backward=name == "backward") for name, macs in names.items() if macs]
        T, I, O = s["T"], s["I"], s["O"]
        groups = s.get("groups", 1)
        found = [TracedGemm("Y", T, O // groups, I, groups)]
        if self.dx:
            found.append(TracedGemm("dX", T, I, O // groups, groups, backward=True))
        if "r" in s:
            r = s["r"]
            found += [TracedGemm("H", T, r, I), TracedGemm("HB", T, O, r)]
            found += [TracedGemm(name, *shape, backward=True) for name, shape in (("dH", (T, r, O)), ("dB", (O, r, T)), ("dA", (r, I, T)))]
            if self.dx:
                found.append(TracedGemm("dHA", T, I, r, backward=True))
        return found

    @property
    def macs(self) -> int:
        return sum(product.macs for product in self.products)


@dataclass(frozen=True)
class Trace:
    """Every pass of every module that multiplies, and the step's MACs as torch counts them: the sum over ``steps``."""

    steps: list[Step]
    macs: int
    parameters: int


class _Recorder:
    def __init__(self, choices: list[Choice]) -> None:
        self.taken: list[Step] = []
        self.reached: set[int] = set()
        self.seen: list[Tensor] = []  # kept, so that ids stay unique
        self.undo: list[Callable[[], None]] = []
        for choice in choices:
            if choice.kind == "attention":
                if not choice.reason or choice.reason == ONLY_LORA:
                    self._attention(choice)
            elif choice.kind != "other" and (not choice.reason or choice.reason == ONLY_LORA):
                handle = choice.module.register_forward_hook(self._layer(choice))
                self.undo.append(handle.remove)

    def _take(self, step: Step, output: Tensor) -> None:
        number = len(self.taken)
        self.taken.append(step)
        if output.requires_grad:
            output.register_hook(lambda _: self.reached.add(number))

    @property
    def steps(self) -> list[Step]:
        """After the backward pass."""
        unreached = {"reached": False, "dx": False, "gradients": ""}
        return [step if number in self.reached else replace(step, **unreached) for number, step in enumerate(self.taken)]

    def _reads(self, x: Tensor) -> int:
        for number, tensor in enumerate(self.seen):
            if tensor is x:
                return number
        self.seen.append(x)
        return len(self.seen) - 1

    def _layer(self, choice: Choice) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            x = inputs[0]
            groups = 1
            if choice.kind in ("conv", "windows"):
                window = window_of(module)
                groups = window.groups
                T, O = output.shape[0] * math.prod(output.shape[2:]), output.shape[1]
                sizes = {"T": T, "I": x.shape[1] // groups * math.prod(window.kernel), "O": O}
                sizes |= {"groups": groups} if groups > 1 else {}
            else:
                sizes = {"T": x.numel() // x.shape[-1], "I": x.shape[-1], "O": output.shape[-1]}
            if isinstance(module, LoraLinear):
                sizes["r"] = next(iter(module.r.values()))
            self._take(Step(choice, sizes, x.requires_grad, "", self._reads(x), x.numel()), output)

        return hook

    def _attention(self, choice: Choice) -> None:
        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
            sizes = {"n": len(q), "Tq": q.shape[1], "Tk": k.shape[1], "d": q.shape[2]}
            gradients = "".join(name for name, tensor in zip("QKV", (q, k, v), strict=True) if tensor.requires_grad)
            scores = q @ k.mT * scale
            output = (scores if mask is None else scores + mask).softmax(dim=-1) @ v
            self._take(Step(choice, sizes, bool(gradients), gradients, -1, 0), output)
            return output

        self.undo.append(put_attention(choice.module, choice.name, attend))


def trace(model: nn.Module, loss: Callable[[], Tensor], modules: str) -> Trace:
    """Runs one training step of ``model``, whose loss is ``loss()``, on whatever device it is on, and notes what it multiplies."""
    choices = select(model, modules)
    recorder = _Recorder(choices)
    try:
        counted, macs = count_products(model, loss)
    finally:
        for undo in recorder.undo:
            undo()
        for parameter in model.parameters():
            parameter.grad = None
    parameters = sum(p.numel() for p in model.parameters())
    steps = recorder.steps
    return Trace(steps + _others(model, choices, steps, counted), macs, parameters)


def _others(model: nn.Module, choices: list[Choice], steps: list[Step], counted: dict[str, Counted]) -> list[Step]:
    """What no step of ``steps`` has multiplied, by the innermost chosen module that it belongs to, or else by the module itself."""
    chosen = {choice.name: choice for choice in choices}
    rest: dict[str, Counted] = {}
    for name, own in counted.items():
        owner = name
        while owner not in chosen and owner:
            owner = owner.rpartition(".")[0]
        sums = rest.setdefault(owner if owner in chosen else name, Counted())
        sums.forward, sums.backward = sums.forward + own.forward, sums.backward + own.backward
        sums.operators += tuple(operator for operator in own.operators if operator not in sums.operators)
    for step in steps:
        backward = sum(product.macs for product in step.products if product.backward)
        rest[step.choice.name].forward -= step.macs - backward
        rest[step.choice.name].backward -= backward
    found = []
    for name, sums in rest.items():
        if not sums.forward and not sums.backward:
            continue
        module = model.get_submodule(name)
        choice = chosen.get(name)
        why = f"nothing maps what {type(module).__name__} multiplies beside its modules" if choice is None else choice.reason
        why = why or "torch multiplies it beside what the device does"
        sizes = {"forward": sums.forward, "backward": sums.backward}
        found.append(Step(Choice(name, module, "other", why), sizes, bool(sums.backward), "", -1, 0, sums.operators))
    return found


def trace_model(source: Source, *, targets: tuple[str, ...], rank: int, batch: int, modules: str = "all") -> Trace:
    """A step of a U-Net or a transformer that is never made: its tensors have shapes alone (torch's meta device).

    Raises LoralithError for a configuration that diffusers cannot build or run.
    """
    with meta_model(source, targets=targets, rank=rank, batch=batch) as (model, predict):
        return trace(model, lambda: predict().sum(), modules)
