"""Memory of a training step of a model of any size, planned and not run: the step on the device by method, beside torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loralith.diffusion.published import Source
from loralith.mapping.planning.meta_models import meta_unet
from loralith.methods.options import TuneqdmOptions, ZoodipOptions
from loralith.progress import tell
from loralith.step.fused_attention import fused_attention
from loralith.training.planned_memory.method_plans import MethodPlan, hollowed_plan, lora_plan, scales_plan, token_plan
from loralith.training.planned_memory.torch_memory import checkpointed_elements, saved_elements

__all__ = ["memory_figures", "memory_page"]

MOMENTS = 2
"""AdamW's moments of each trained value."""
HOLLOW = "0.4"
"""The largest share of the parameters that Hollowed Net leaves out here."""

PAPERS = {
    "hollowed-net": "Hollowed Net: fine-tuning takes as much memory as inference.",
    "tuneqdm": "TuneQDM: weights of 4 bits.",
    "zoodip": "ZOODiP: up to 8.2 times less memory than textual inversion, with INT8 weights.",
}
"""What a method's paper says of memory."""


def memory_figures(source: Source, *, targets: tuple[str, ...], rank: int, batch: int) -> dict[str, Any]:
    """Bytes of a U-Net's step as JSON values: ``methods`` on the device, ``baselines`` in torch, each with weights, saved and peak bytes.

    Raises LoralithError for a configuration that cannot be built, or an operator that the step has no program for.
    """
    zoodip = ZoodipOptions().perturbations + 1
    makers: dict[str, Callable[[], MethodPlan]] = {
        "lora": lambda: lora_plan(source, targets=targets, rank=rank, batch=batch),
        "hollowed-net": lambda: hollowed_plan(source, targets=targets, rank=rank, batch=batch, hollow=HOLLOW),
        "tuneqdm": lambda: scales_plan(source, batch=batch, experts=TuneqdmOptions().experts),
        "zoodip": lambda: token_plan(source, evaluations=zoodip, weight_bits=4, one_pass=False),
        "zoodip-int8": lambda: token_plan(source, evaluations=zoodip, weight_bits=8, one_pass=True),
    }
    plans: dict[str, MethodPlan] = {}
    for name, make in makers.items():
        tell(f"memory: the step of {name}")
        plans[name] = make()
    methods = {name: plan.figures() for name, plan in plans.items()}
    lora = plans["lora"]
    inference = {
        "weight_bytes": lora.weight_bytes,
        "adapter_bytes": 0,
        "saved_bytes": 0,
        "peak_bytes": lora.plan.forward_peak,
        "recomputed_macs": 0,
    }
    stages = {"first": lora.plan.forward_peak, "second": methods["hollowed-net"]["peak_bytes"]}
    methods["hollowed-net"] |= {"peak_bytes": max(stages.values()), "stages": stages}
    tell("memory: torch's")
    baselines = {**_baselines(source, targets=targets, rank=rank, batch=batch), "int8_inference": inference}
    fp32 = baselines["lora_fp32_sdpa"]["saved_bytes"]
    for figures in (*methods.values(), *baselines.values()):
        figures["saved_ratio"] = figures["saved_bytes"] / fp32
    kinds: dict[str, int] = {}
    for name, size in lora.plan.saved.items():
        kind = lora.graph[name].source.rstrip("0123456789_")
        kinds[kind] = kinds.get(kind, 0) + size
    adapter_state = methods["lora"]["adapter_bytes"]
    return {
        "model": source.name,
        "rank": rank,
        "batch": batch,
        "targets": list(targets),
        "methods": methods,
        "baselines": baselines,
        "ratios": {
            "lora_saved_of_fp32": methods["lora"]["saved_ratio"],
            "textual_inversion_of_zoodip": baselines["textual_inversion_fp32"]["peak_bytes"] / methods["zoodip"]["peak_bytes"],
            "hollowed_net_of_inference": methods["hollowed-net"]["peak_bytes"] / (inference["peak_bytes"] + adapter_state),
        },
        "notes": {name: plan.note for name, plan in plans.items() if plan.note},
        "saved_by": dict(sorted(kinds.items(), key=lambda pair: -pair[1])),
    }


def _baselines(source: Source, *, targets: tuple[str, ...], rank: int, batch: int) -> dict[str, dict[str, Any]]:
    """LoRA in torch with fused attention, in FP32 also with gradient checkpointing, and textual inversion."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
        fused_attention(unet)
        target = torch.zeros_like(inputs["sample"])

        def loss(**changed: Tensor) -> Tensor:
            return functional.mse_loss(predict(**(inputs | changed)), target)

        saved = saved_elements(unet, loss)
        checkpointed = checkpointed_elements(unet, loss, (ResnetBlock2D, BasicTransformerBlock))
        trained = sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad)
        values = sum(parameter.numel() for parameter in unet.parameters())
        unet.requires_grad_(False)
        text = inputs["encoder_hidden_states"].clone().requires_grad_()
        inverted = saved_elements(unet, lambda: loss(encoder_hidden_states=text))
        width = text.shape[-1]

    def figures(bytes_each: int, weights: int, learned: int, kept: int) -> dict[str, Any]:
        row = {
            "weight_bytes": bytes_each * weights,
            "adapter_bytes": bytes_each * learned + 4 * MOMENTS * learned,  # the gradient, and the moments in FP32
            "saved_bytes": bytes_each * kept,
        }
        return row | {"peak_bytes": sum(row.values()), "recomputed_macs": 0}

    return {
        "lora_fp32_sdpa": figures(4, values, trained, saved),
        "lora_bf16_sdpa": figures(2, values, trained, saved),
        "lora_fp32_checkpointed": figures(4, values, trained, checkpointed),
        "textual_inversion_fp32": figures(4, values - trained, width, inverted),
    }


def memory_page(figures: dict[str, Any]) -> list[str]:
    """The same as Markdown."""
    keys = ("weight_bytes", "adapter_bytes", "saved_bytes", "peak_bytes")
    lines = [
        f"The U-Net of {figures['model']}, batch {figures['batch']}, LoRA of rank {figures['rank']} on {', '.join(figures['targets'])}. "
        "Planned from the step's graph ([step graph](../step_graph.md)), not run. MB are 10^6 bytes.",
        "",
        "| | weights | trained values, gradients, moments | saved for the backward pass | of FP32's | peak |",
        "|---|---|---|---|---|---|",
    ]
    for group, title in (("methods", "on the device, {}"), ("baselines", "{}")):
        for name, row in figures[group].items():
            cells = " | ".join(f"{row[key] / 1e6:,.0f} MB" for key in keys[:3])
            lines.append(f"| {title.format(name)} | {cells} | {row['saved_ratio']:.3f} | {row['peak_bytes'] / 1e6:,.0f} MB |")
    again, ratios, stages = figures["methods"]["lora"]["recomputed_macs"], figures["ratios"], figures["methods"]["hollowed-net"]["stages"]
    lines += [
        "",
        "| goal | planned |",
        "|---|---|",
        f"| LoRA saves at most 0.15 of what torch saves in FP32 with fused attention | {ratios['lora_saved_of_fp32']:.3f} |",
        f"| textual inversion in FP32 takes at least 8.2 times the peak of `zoodip` | {ratios['textual_inversion_of_zoodip']:.2f} |",
        "| `hollowed-net` takes at most 1.05 of the peak of INT8 inference and adapter state "
        f"| {ratios['hollowed_net_of_inference']:.3f} |",
        "",
        "Notes:",
        "",
        *(f"- `{name}`: {text}." for name, text in figures["notes"].items()),
        f"- `hollowed-net` has two stages: {stages['first'] / 1e6:,.0f} MB for boundary tensors by forward passes of the whole U-Net, "
        f"{stages['second'] / 1e6:,.0f} MB for training. Boundary tensors of other samples are outside of device memory.",
        f"- `lora` computes {again / 1e9:,.1f} G multiply-accumulates again in its backward pass: products whose result is at least four "
        "times as large as what they read, GEGLU's two halves. Scores, P and their gradients have no memory; they are made block by block, "
        "as often as they are read. The compiler does not do either yet: what it makes today keeps both in memory.",
        "- torch's rows have fused attention, and no memory for what an operator needs while it runs. `lora_fp32_checkpointed` keeps the "
        "inputs of each ResNet and transformer block, and what the largest one saves. `int8_inference` is the device's own forward pass. "
        "Text encoder and VAE are in no row.",
        f"- Published, measured on GPUs with activations in floating point, so not comparable byte for byte: {' '.join(PAPERS.values())}",
        "",
        "What is saved on the device for `lora`, by the operator that makes it:",
        "",
        "| operator | MB |",
        "|---|---|",
        *(f"| {kind} | {size / 1e6:,.1f} |" for kind, size in figures["saved_by"].items() if size >= 1e5),
    ]
    return lines
