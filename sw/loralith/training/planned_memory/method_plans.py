"""Step graphs of the four methods on a U-Net of any size, whose tensors have shapes alone: for planning memory, not for running."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from loralith.diffusion.published import Source
from loralith.mapping.planning.meta_models import meta_unet
from loralith.methods.hollow.hollowed_unet import hollowed, tapped
from loralith.methods.hollow.parts import choose
from loralith.spec.graph import Graph, Op
from loralith.spec.step import StepScheme
from loralith.step.capture import capture_forward, capture_step
from loralith.step.lowering import lower
from loralith.step.operators import plain_attention
from loralith.step.saved import Plan, plan_memory, tensor_bytes
from loralith.training.step_plans.scales import scaled_forward

__all__ = ["MethodPlan", "hollowed_plan", "lora_plan", "scales_plan", "token_plan"]

MOMENTS = 2
"""AdamW's moments of each trained value."""


@dataclass(frozen=True)
class MethodPlan:
    """Bytes of one method's step.

    Attributes: graph; plan; weight_bytes; trained, values that are trained; adapter_bytes: of these with gradient and moments, and what
        else a method keeps from step to step; note: what is particular to the method, for the page.
    """

    graph: Graph
    plan: Plan
    weight_bytes: int
    trained: int
    adapter_bytes: int
    note: str = ""

    @property
    def recomputed_macs(self) -> int:
        """Of the products that are computed again so that less is kept."""
        return sum(math.prod(self.graph[name].shape) * self.graph[self.graph[name].inputs[0]].shape[-1] for name in self.plan.recomputed)  # type: ignore[index]

    def figures(self) -> dict[str, Any]:
        """JSON values. The plan's peak has the trained values themselves; gradients and moments are added."""
        return {
            "weight_bytes": self.weight_bytes,
            "adapter_bytes": self.adapter_bytes,
            "saved_bytes": self.plan.saved_bytes,
            "peak_bytes": self.plan.peak + self.adapter_bytes - 4 * self.trained,
            "recomputed_macs": self.recomputed_macs,
        }


def _planned(graph: Graph, *, moments: int = MOMENTS, word_bytes: int = 2, extra: int = 0, note: str = "") -> MethodPlan:
    trained = sum(math.prod(node.shape) for node in graph.of(Op.STATE))
    weights = sum(tensor_bytes(graph, node) for node in graph.of(Op.FROZEN))
    return MethodPlan(graph, plan_memory(graph, word_bytes), weights, trained, 4 * trained * (1 + moments) + extra, note)


def _mse(predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda noise, **batch: functional.mse_loss(predict(**batch), noise)


def lora_plan(source: Source, *, targets: tuple[str, ...], rank: int, batch: int) -> MethodPlan:
    """LoRA. Raises LoralithError for a U-Net that cannot be built, and for an operator that the step has no program for."""
    with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
        plain_attention(unet)
        target = torch.zeros_like(inputs["sample"])
        return _planned(lower(capture_step(unet, _mse(predict), {"noise": target, **inputs}), StepScheme()).graph)


def hollowed_plan(source: Source, *, targets: tuple[str, ...], rank: int, batch: int, hollow: str) -> MethodPlan:
    """Hollowed Net's second stage: LoRA without the part ``hollow`` (`methods.hollow.parts.choose`), whose boundary tensor is an input.

    Raises as `lora_plan`, and SettingsError for a part that cannot be left out.
    """
    with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
        assert isinstance(unet, UNet2DConditionModel)
        plain_attention(unet)
        part = choose(unet, hollow)
        with tapped(unet, part) as found:
            predict(**inputs)
        value = torch.zeros_like(found[0])
        boundary = hollowed(unet, part)

        def loss(noise: Tensor, boundary_value: Tensor, **more: Tensor) -> Tensor:
            boundary.value = boundary_value
            return functional.mse_loss(predict(**more), noise)

        given = {"noise": torch.zeros_like(inputs["sample"]), "boundary_value": value, **inputs}
        graph = lower(capture_step(unet, loss, given), StepScheme()).graph
    note = f"{', '.join(part.names)} left out, {part.share:.1%} of the parameters; a boundary tensor has {4 * value.numel():,} bytes"
    return _planned(graph, note=note)


def scales_plan(source: Source, *, batch: int, experts: int) -> MethodPlan:
    """TuneQDM: 4-bit codes, scales of output channels trained, those of input channels fixed, in tables of ``experts`` groups."""
    with meta_unet(source, targets=("to_q",), rank=1, batch=batch) as (unet, inputs, predict):
        plain_attention(unet)
        _without_adapters(unet)
        sizes = 0
        for module in unet.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                sizes += _with_scales(module, batch)
        target = torch.zeros_like(inputs["sample"])
        graph = lower(capture_step(unet, _mse(predict), {"noise": target, **inputs}), StepScheme()).graph
    rows = sum(math.prod(node.shape) for node in graph.of(Op.STATE))
    tables = 4 * experts * sizes * (1 + MOMENTS)
    plan, less = plan_memory(graph), _packed(graph)
    packed = Plan(plan.saved, plan.recomputed, plan.resident - less, plan.peak - less, plan.forward_peak - less)
    weights = sum(tensor_bytes(graph, node) for node in graph.of(Op.FROZEN)) - less
    note = f"codes of 4 bits, two to a byte; tables of {experts} groups of time steps"
    return MethodPlan(graph, packed, weights, rows, 4 * rows + tables, note)


def token_plan(source: Source, *, evaluations: int, weight_bits: int, one_pass: bool) -> MethodPlan:
    """ZOODiP: the forward passes of a token of the text encoder's width and of ``evaluations`` - 1 perturbed ones, as rows of one pass or
    (``one_pass`` False) one after the other.

    Words of 4 bytes lie between operators, and each operand is two INT8 tensors. ``weight_bits``: 8, or 4 with two to a byte.
    """
    rows = evaluations if one_pass else 1
    with meta_unet(source, targets=("to_q",), rank=1, batch=1) as (unet, inputs, predict):
        plain_attention(unet)
        _without_adapters(unet)
        text, prediction = inputs["encoder_hidden_states"], math.prod(inputs["sample"].shape)
        with torch.device("meta"):
            token = nn.Parameter(torch.zeros(text.shape[-1]))
            more = {"offsets": torch.zeros(rows, text.shape[-1]), "mask": torch.zeros(1, text.shape[1], 1)}

        def predictions(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, mask: Tensor, offsets: Tensor) -> Tensor:
            tokens = (token + offsets)[:, None, None]
            prompts = (tokens * mask[None] + encoder_hidden_states[None]).reshape(-1, *encoder_hidden_states.shape[1:])

            def each(x: Tensor) -> Tensor:
                return x[None].expand(len(tokens), *x.shape).clone().reshape(-1, *x.shape[1:])

            return predict(sample=each(sample), timestep=each(timestep), encoder_hidden_states=prompts)

        capture = capture_forward(unet, {"token": token}, predictions, {**inputs, **more})
        # bfloat16 marks what lies between two operators. Here it is a word of 4 bytes.
        graph = lower(capture, StepScheme(storage="bf16", operand_words=2)).graph
    graph.set_output("loss", graph.outputs["prediction"])
    plan = plan_memory(graph, word_bytes=4)
    width, predicted = text.shape[-1], 4 * (evaluations - rows) * prediction
    less = _packed(graph) if weight_bits == 4 else 0
    weights = sum(tensor_bytes(graph, node) for node in graph.of(Op.FROZEN)) - less
    peak = plan.forward_peak - less + predicted
    note = f"{evaluations} evaluations {'in one pass' if one_pass else 'one after the other'}, weights of {weight_bits} bits"
    # The token, its estimate of a gradient, two moments.
    return MethodPlan(graph, Plan({}, (), plan.resident - less, peak, peak), weights, width, 4 * width * (2 + MOMENTS), note)


def _packed(graph: Graph) -> int:
    """Bytes that frozen integers take less with 4 bits than with 8."""
    return sum(math.prod(node.shape) for node in graph.of(Op.FROZEN) if node.name.endswith(".q")) // 2


def _without_adapters(unet: nn.Module) -> None:
    """Puts each layer with LoRA back to the layer itself."""
    from peft.tuners.lora import LoraLayer

    for name, module in [*unet.named_modules()]:
        if isinstance(module, LoraLayer):
            parent, _, own = name.rpartition(".")
            setattr(unet.get_submodule(parent), own, module.get_base_layer())


def _with_scales(module: nn.Linear | nn.Conv2d, batch: int) -> int:
    """Gives a layer scales of each image's group, s_out [N, O] trained and s_in [N, I] fixed; the number of both for one group."""
    outputs, inputs = module.weight.shape[:2]
    with torch.device("meta"):
        module.register_parameter("s_out", nn.Parameter(torch.zeros(batch, outputs)))
        module.register_parameter("s_in", nn.Parameter(torch.zeros(batch, inputs), requires_grad=False))
    module.forward = MethodType(scaled_forward, module)  # type: ignore[method-assign]
    return outputs + inputs
