"""Memory of a training step of a model of any size, planned and not run: the step on the device beside torch's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loralith.diffusion.published import Source
from loralith.mapping.planning.meta_models import meta_unet
from loralith.spec.graph import Op
from loralith.spec.step import StepScheme
from loralith.step.capture import capture_step
from loralith.step.fused_attention import fused_attention
from loralith.step.lowering import lower
from loralith.step.operators import plain_attention, trace_step
from loralith.step.saved import plan_memory, tensor_bytes

__all__ = ["memory_figures", "memory_page"]

OPTIMIZER_WORDS = 2
"""AdamW's moments of each trained value."""


def memory_figures(source: Source, *, targets: tuple[str, ...], rank: int, batch: int) -> dict[str, Any]:
    """Bytes of a U-Net's step as JSON values: ``methods`` on the device, ``baselines`` in torch, each with weights, saved and peak bytes.

    Raises LoralithError for a configuration that cannot be built, or an operator that the step has no program for.
    """
    with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
        target = torch.zeros_like(inputs["sample"])

        def loss(noise: Tensor, **more: Tensor) -> Tensor:
            return functional.mse_loss(predict(**more), noise)

        fused_attention(unet)
        saved = sum(tensor.elements for tensor in trace_step(unet, lambda: loss(target, **inputs)).saved)
        values = sum(parameter.numel() for parameter in unet.parameters())
        trained = sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad)
        plain_attention(unet)
        graph = lower(capture_step(unet, loss, {"noise": target, **inputs}), StepScheme()).graph
    plan = plan_memory(graph)
    weights = sum(tensor_bytes(graph, node) for node in graph.of(Op.FROZEN))
    adapter = 4 * (1 + OPTIMIZER_WORDS) * sum(math.prod(node.shape) for node in graph.of(Op.STATE))
    extra = adapter - adapter // (1 + OPTIMIZER_WORDS)
    device = {"weight_bytes": weights, "adapter_bytes": adapter, "saved_bytes": plan.saved_bytes, "peak_bytes": plan.peak + extra}
    inference = {"weight_bytes": weights, "adapter_bytes": 0, "saved_bytes": 0, "peak_bytes": plan.forward_peak}

    def in_torch(bytes_each: int) -> dict[str, int]:
        optimizer = 4 * OPTIMIZER_WORDS * trained
        weight_bytes = bytes_each * values
        adapter_bytes = bytes_each * trained + optimizer  # the gradient, and the moments in FP32
        return {
            "weight_bytes": weight_bytes,
            "adapter_bytes": adapter_bytes,
            "saved_bytes": bytes_each * saved,
            "peak_bytes": weight_bytes + adapter_bytes + bytes_each * saved,
        }

    baselines = {"lora_fp32_sdpa": in_torch(4), "lora_bf16_sdpa": in_torch(2), "int8_inference": inference}
    fp32 = baselines["lora_fp32_sdpa"]["saved_bytes"]
    methods = {"lora": device}
    for figures in (*methods.values(), *baselines.values()):
        figures["saved_ratio"] = figures["saved_bytes"] / fp32  # type: ignore[assignment]
    kinds: dict[str, int] = {}
    for name, size in plan.saved.items():
        kind = graph[name].source.rstrip("0123456789_")
        kinds[kind] = kinds.get(kind, 0) + size
    top = dict(sorted(kinds.items(), key=lambda pair: -pair[1]))
    return {
        "model": source.name,
        "rank": rank,
        "batch": batch,
        "targets": list(targets),
        "methods": methods,
        "baselines": baselines,
        "saved_by": top,
    }


def memory_page(figures: dict[str, Any]) -> list[str]:
    """The same as Markdown."""
    keys = ("weight_bytes", "adapter_bytes", "saved_bytes", "peak_bytes")
    lines = [
        f"The U-Net of {figures['model']}, batch {figures['batch']}, LoRA of rank {figures['rank']} on {', '.join(figures['targets'])}. "
        "Planned from the step's graph ([step graph](../step_graph.md)), not run. MB are 10^6 bytes.",
        "",
        "| | weights | adapter, gradient, moments | saved for the backward pass | of FP32's | peak |",
        "|---|---|---|---|---|---|",
    ]
    for group, title in (("methods", "on the device, {}"), ("baselines", "{}")):
        for name, row in figures[group].items():
            cells = " | ".join(f"{row[key] / 1e6:,.0f} MB" for key in keys[:3])
            lines.append(f"| {title.format(name)} | {cells} | {row['saved_ratio']:.3f} | {row['peak_bytes'] / 1e6:,.0f} MB |")
    lines += [
        "",
        "`lora_fp32_sdpa` and `lora_bf16_sdpa` are torch with fused attention, without what an operator needs while it runs. "
        "`int8_inference` is the device's own forward pass. The device's peak contains dS as a whole "
        "tensor, which the hardware will spill block by block once its scale is known beforehand.",
        "",
        "What is saved on the device, by the operator that makes it:",
        "",
        "| operator | MB |",
        "|---|---|",
        *(f"| {kind} | {size / 1e6:,.1f} |" for kind, size in figures["saved_by"].items() if size >= 1e5),
    ]
    return lines
