"""TuneQDM's step: forward, backward and AdamW on tables of scales by group of time steps; codes are frozen INT8."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from loralith.diffusion.objective import batch_loss, draw_step, step_batch
from loralith.diffusion.unet import load_model
from loralith.errors import LoralithError
from loralith.methods.tuneqdm.tuneqdm_method import TuneQDM
from loralith.spec.step import StepScheme
from loralith.step.capture import capture_step
from loralith.step.host import frozen_values, host_inputs, to_words
from loralith.step.lowering import lower
from loralith.step.optimizer import AdamW, moments_of
from loralith.step.scale_tables import EXPERTS, FIXED, RELATIVE, SCALES, Layout, expert_scalars, with_tables
from loralith.training.step_plans.plan import StepPlan

__all__ = ["ScalesPlan", "scaled_forward"]

KINDS = ("s_out", "s_in")


def scaled_forward(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of codes whose scales are those of each image: ``s_out`` [N, O], ``s_in`` [N, I]."""
    module: Any = layer
    if isinstance(layer, nn.Conv2d):
        u = x * module.s_in[:, :, None, None]
        y = functional.conv2d(u, module.weight, None, module.stride, module.padding, module.dilation) * module.s_out[:, :, None, None]
        return y if module.bias is None else y + module.bias[:, None, None]
    between = (slice(None), *[None] * (x.ndim - 2))
    y = functional.linear(x * module.s_in[between], module.weight) * module.s_out[between]
    return y if module.bias is None else y + module.bias


def _of_images(method: TuneQDM) -> UNet2DConditionModel:
    """A U-Net of the method's codes, with a parameter [N, size] for each layer's scales of each kind; what is trained has gradients."""
    unet = load_model(method.settings.model)[0].requires_grad_(False)
    images = method.settings.batch
    for name, tuned in method.layers.items():
        module: Any = unet.get_submodule(name)
        codes = torch.from_numpy(tuned.codes.centred.astype("float32")).reshape(module.weight.shape)
        module.weight = nn.Parameter(codes, requires_grad=False)
        for kind in KINDS:
            first = getattr(tuned, kind)[0]
            own = nn.Parameter(first.detach().expand(images, -1).clone(), requires_grad=first.requires_grad)
            module.register_parameter(kind, own)
        module.forward = MethodType(scaled_forward, module)
    return unet.eval()


class ScalesPlan(StepPlan):
    """Of a `TuneQDM` of 4 bits. Tables of scales and moments lie in device memory; the host writes the group of each image's time step."""

    def __init__(self, method: TuneQDM, seed: int, step: int, lr: float) -> None:
        if method.own.bits != 4:
            raise LoralithError(f"a whole step has codes of 4 bits, which fit INT8 less their zero point, not of {method.own.bits}")
        self.method, self.optimizer = method, AdamW(lr)
        self.experts = method.own.experts
        unet = _of_images(method)
        self.capture = capture_step(unet, lambda **batch: batch_loss(unet, **batch), self._batch(step))
        self.lowered = lower(self.capture, StepScheme(seed=seed))
        trained = set(self.capture.trained)
        sizes = {f"{name}.{kind}": len(getattr(tuned, kind)[0]) for name, tuned in method.layers.items() for kind in KINDS}
        self.trained, self.fixed = (
            Layout.of({name: size for name, size in sizes.items() if (name in trained) is whether}) for whether in (True, False)
        )
        self.graph = with_tables(self.lowered.graph, self.experts, self.trained, self.fixed, self.optimizer)
        values = frozen_values(self.capture, self.lowered.graph)
        rates = {id(group["params"][0]): group["lr"] for group in method.optimizer.param_groups}
        self.frozen = {name: value for name, value in values.items() if name in self.graph.nodes}
        self.frozen[RELATIVE] = to_words(self._table(self.trained, lambda parameter: torch.full_like(parameter, rates[id(parameter)])))
        self.states = {SCALES: self._table(self.trained, lambda parameter: to_words(parameter))}
        if self.fixed.places:
            self.states[FIXED] = self._table(self.fixed, lambda parameter: to_words(parameter))
        for moment, key in zip(moments_of(SCALES), ("exp_avg", "exp_avg_sq"), strict=True):
            self.states[moment] = self._table(self.trained, lambda parameter, key=key: self._kept(parameter, key))
        self._counts = {step - 1: self._updates()}

    def _kept(self, parameter: Tensor, key: str) -> Tensor:
        kept = self.method.optimizer.state[parameter]
        return kept[key] if kept else torch.zeros_like(parameter)

    def _updates(self) -> list[int]:
        """Of each group so far."""
        name = next(iter(self.trained.places))
        return [int(self._kept(self._parameter(name, expert), "step").max()) for expert in range(self.experts)]

    def _parameter(self, name: str, expert: int) -> nn.Parameter:
        layer, _, kind = name.rpartition(".")
        return getattr(self.method.layers[layer], kind)[expert]

    def _table(self, layout: Layout, value: Any) -> Tensor:
        """[experts, width] of ``value`` of each parameter."""
        rows = torch.zeros(self.experts, layout.width)
        for name, (first, past, times) in layout.places.items():
            for expert in range(self.experts):
                rows[expert, first:past] = value(self._parameter(name, expert)).detach().repeat_interleave(times)
        return rows

    def _batch(self, step: int) -> dict[str, Tensor]:
        method = self.method
        return step_batch(method.encoder, method.subject.images, method.settings, step, method.subject.captions)

    def _chosen(self, step: int) -> Tensor:
        """[N, experts]: 1 for the group of each image's time step."""
        settings, images = self.method.settings, self.method.subject.images
        draw = draw_step("finetune", settings.seed, step, batch=settings.batch, images=images, dropout=settings.dropout)
        return functional.one_hot(self.method.router.of(draw.timesteps), self.experts).float()

    def _count(self, step: int) -> list[int]:
        """Each group's updates, that of ``step`` included."""
        if step not in self._counts:
            there = self._chosen(step).amax(0).int().tolist()
            self._counts[step] = [n + more for n, more in zip(self._count(step - 1), there, strict=True)]
        return self._counts[step]

    def inputs(self, step: int) -> dict[str, Tensor]:
        chosen = self._chosen(step)
        scalars = expert_scalars(self.optimizer, self._count(step), (chosen.amax(0) > 0).tolist())
        given = host_inputs(self.capture, self.lowered, self._batch(step))
        return given | {EXPERTS: chosen} | {name: torch.tensor(value) for name, value in scalars.items()}

    def collect(self, states: Mapping[str, Tensor], steps: int) -> None:
        counts = self._count(steps - 1)
        for name, (first, past, times) in self.trained.places.items():
            own = slice(first, past, times)
            for expert, count in enumerate(counts):
                parameter = self._parameter(name, expert)
                parameter.copy_(states[SCALES][expert, own])
                if count:
                    one, two = (states[moment][expert, own].clone() for moment in moments_of(SCALES))
                    self.method.optimizer.state[parameter] = {"step": torch.tensor(float(count)), "exp_avg": one, "exp_avg_sq": two}
