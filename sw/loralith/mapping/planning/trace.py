"""A training step of a model as shapes: what each module multiplies, found by running the model on torch's meta device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from loralith.errors import LoralithError
from loralith.formats.unet_config import Source
from loralith.mapping.kinds.frozen_modules import window_of
from loralith.mapping.kinds.function_attention import put_attention
from loralith.mapping.select import ONLY_LORA, Choice, select

__all__ = ["Product", "Step", "Trace", "trace", "trace_model"]


@dataclass(frozen=True)
class Product:
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
    """One pass of one module through a training step.

    ``sizes``: T, I, O of a layer (and r of a LoRA layer), n, Tq, Tk, d of attention. ``dx``: its input has a gradient; for attention
    ``gradients`` names those of Q, K and V that have one. ``reads``: number of the tensor that a layer reads, the same for layers that
    read the same. ``input_elements``: of X, before a convolution's windows overlap.
    """

    choice: Choice
    sizes: dict[str, int]
    dx: bool
    gradients: str
    reads: int
    input_elements: int

    @property
    def products(self) -> list[Product]:
        s = self.sizes
        if self.choice.kind == "attention":
            n, Tq, Tk, d = s["n"], s["Tq"], s["Tk"], s["d"]
            found = [Product("S", Tq, Tk, d, n), Product("O", Tq, d, Tk, n)]
            if "V" in self.gradients:
                found.append(Product("dV", Tk, d, Tq, n, True))
            if "Q" in self.gradients or "K" in self.gradients:
                found.append(Product("dP", Tq, Tk, d, n, True))
            if "Q" in self.gradients:
                found.append(Product("dQ", Tq, d, Tk, n, True))
            if "K" in self.gradients:
                found.append(Product("dK", Tk, d, Tq, n, True))
            return found
        T, I, O = s["T"], s["I"], s["O"]
        found = [Product("Y", T, O, I)]
        if self.dx:
            found.append(Product("dX", T, I, O, backward=True))
        if "r" in s:
            r = s["r"]
            found += [Product("H", T, r, I), Product("HB", T, O, r)]
            found += [Product(name, *shape, backward=True) for name, shape in (("dH", (T, r, O)), ("dB", (O, r, T)), ("dA", (r, I, T)))]
            if self.dx:
                found.append(Product("dHA", T, I, r, backward=True))
        return found

    @property
    def macs(self) -> int:
        return sum(product.macs for product in self.products)


@dataclass(frozen=True)
class Trace:
    """Every pass of every module that multiplies, and the step's MACs as torch counts them, those outside such modules included."""

    steps: list[Step]
    macs: int
    parameters: int


class _Recorder:
    def __init__(self, choices: list[Choice]) -> None:
        self.steps: list[Step] = []
        self.seen: list[Tensor] = []  # kept, so that ids stay unique
        self.undo: list[Callable[[], None]] = []
        for choice in choices:
            if choice.kind == "attention":
                if not choice.reason or choice.reason == ONLY_LORA:
                    self._attention(choice)
            elif choice.kind != "other":
                handle = choice.module.register_forward_hook(self._layer(choice))
                self.undo.append(handle.remove)

    def _reads(self, x: Tensor) -> int:
        for number, tensor in enumerate(self.seen):
            if tensor is x:
                return number
        self.seen.append(x)
        return len(self.seen) - 1

    def _layer(self, choice: Choice) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            x = inputs[0]
            if choice.kind == "conv":
                window = window_of(module)  # type: ignore[arg-type]
                T, O = output.shape[0] * math.prod(output.shape[2:]), output.shape[1]
                sizes = {"T": T, "I": x.shape[1] * math.prod(window.kernel), "O": O}
            else:
                sizes = {"T": x.numel() // x.shape[-1], "I": x.shape[-1], "O": output.shape[-1]}
            if isinstance(module, LoraLinear):
                sizes["r"] = next(iter(module.r.values()))
            self.steps.append(Step(choice, sizes, x.requires_grad, "", self._reads(x), x.numel()))

        return hook

    def _attention(self, choice: Choice) -> None:
        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
            sizes = {"n": len(q), "Tq": q.shape[1], "Tk": k.shape[1], "d": q.shape[2]}
            gradients = "".join(name for name, tensor in zip("QKV", (q, k, v), strict=True) if tensor.requires_grad)
            self.steps.append(Step(choice, sizes, bool(gradients), gradients, -1, 0))
            scores = q @ k.mT * scale
            return (scores if mask is None else scores + mask).softmax(dim=-1) @ v

        self.undo.append(put_attention(choice.module, choice.name, attend))


def trace(model: nn.Module, loss: Callable[[], Tensor], modules: str) -> Trace:
    """Runs one training step of ``model``, whose loss is ``loss()``, on whatever device it is on, and notes what it multiplies."""
    recorder = _Recorder(select(model, modules))
    try:
        with FlopCounterMode(display=False) as counter:
            loss().backward()
    finally:
        for undo in recorder.undo:
            undo()
        for parameter in model.parameters():
            parameter.grad = None
    parameters = sum(p.numel() for p in model.parameters())
    return Trace(recorder.steps, counter.get_total_flops() // 2, parameters)


def trace_model(source: Source, *, targets: tuple[str, ...], rank: int, batch: int, modules: str = "all") -> Trace:
    """A step of a U-Net that is never made: its tensors have shapes alone (torch's meta device).

    Raises LoralithError for a configuration that diffusers cannot build or run.
    """
    with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
        return trace(unet, lambda: predict(**inputs).sum(), modules)


@contextmanager
def meta_unet(
    source: Source, *, targets: tuple[str, ...], rank: int, batch: int
) -> Iterator[tuple[nn.Module, dict[str, Tensor], Callable[..., Tensor]]]:
    """A U-Net with LoRA on torch's meta device, a batch by the names of its arguments, and a function from those to the prediction.

    Raises LoralithError for a configuration that diffusers cannot build or run, from within it too.
    """
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model

    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel(**source.config)
            unet.requires_grad_(False)
            inject_adapter_in_model(LoraConfig(r=rank, target_modules=list(targets)), unet)
            config: Any = unet.config
            size = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
            sample = torch.zeros(batch, config.in_channels, size, size)
            text = torch.zeros(batch, source.prompt, _width(config.cross_attention_dim))
            time = torch.zeros(batch, dtype=torch.int64)
            inputs = {"sample": sample, "timestep": time, "encoder_hidden_states": text}
            if config.addition_embed_type == "text_time":
                pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
                inputs |= {"text_embeds": torch.zeros(batch, pooled), "time_ids": torch.zeros(batch, 6)}

            def predict(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **added: Tensor) -> Tensor:
                return unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added or None).sample

            yield unet, inputs, predict
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise LoralithError(f"the U-Net of {source.name} cannot be built: {error}") from error


def _width(value: Any) -> int:
    if not isinstance(value, int):
        raise LoralithError(f"cross_attention_dim must be one width for all blocks, not {value!r}")
    return value
