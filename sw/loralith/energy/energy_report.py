"""Energy of a training step's LoRA layers, in INT8 and in wider numbers, by cause, as a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loralith.spec.config import load_config

from .activity import MODELS, Activity, activity, layer_list
from .estimate import TIER, EnergyError, energy, formats, nodes, table

__all__ = ["figures", "page", "title"]


CAUSES = ("arithmetic", "post_processing", "on_chip", "dram")


PUBLISHED = 5.50
"""CDM-QTA's energy efficiency over its baseline, at most, as its abstract has it."""


_FORMATS = (
    "`int8` is this machine. The others are a machine with the same dataflow, command lists and tiles whose numbers are wider: operands of"
    " 2 or 4 bytes, sums in FP32, results of 2 or 4 bytes, at the same energy per 64 bits of a memory. Flip-flops, wires, clock, control"
    " and leakage have no published entry and are left out on both sides."
)


_COMPARABLE = (
    "Comparable: the work (forward and backward of LoRA layers) and INT8 against wider numbers. Not comparable: its baseline is another"
    " array with another dataflow, its energy a layout tool's at its node and clock, and ours has neither clock tree nor leakage."
)


def figures(config_name: str, model: str, ranks: Sequence[int], chosen: Sequence[str] | None) -> dict[str, Any]:
    """Of a training step of ``model`` at each rank, by node of ``chosen`` (all where None). Raises EnergyError and ConfigError."""
    config = load_config(config_name)
    if model not in MODELS:
        raise EnergyError(f"model must be one of {', '.join(MODELS)}, not {model!r}")
    for rank in ranks:
        if not 1 <= rank <= 128:
            raise EnergyError(f"a rank must be in 1..128, not {rank}")
    steps = []
    for rank in ranks:
        total = Activity()
        for linear, count in MODELS[model]:
            total += activity(layer_list(linear, rank, config), config) * count
        for node in chosen or nodes():
            by_format = {f.name: energy(total, config, node, f) for f in formats(node)}
            int8 = by_format["int8"]
            steps.append(
                {
                    "rank": rank,
                    "node": node,
                    "macs": total.macs,
                    "dram_bytes": total.dram,
                    "joules": by_format,
                    "ratio": {name: values["total"] / int8["total"] for name, values in by_format.items()},
                    "ratio_without_dram": {
                        name: (values["total"] - values["dram"]) / (int8["total"] - int8["dram"]) for name, values in by_format.items()
                    },
                }
            )
    return {
        "tier": TIER,
        "model": model,
        "layers": sum(count for _, count in MODELS[model]),
        "config": config.name,
        "sources": table()["sources"],
        "published_ratio": PUBLISHED,
        "steps": steps,
    }


def title(figures: dict[str, Any]) -> str:
    return f"Energy of a training step: {figures['model']} on {figures['config']}"


def page(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"Forward and backward of the {figures['layers']} adapted layers at batch 1; the host's and the other layers' work is not in it.",
        "",
        f"**{figures['tier'][0].upper()}{figures['tier'][1:]}.** Counts come from the compiler's command lists, energies from:",
        "",
        *(f"- {source}" for source in figures["sources"].values()),
        "",
        _FORMATS,
        "",
        "Millijoules a step:",
        "",
        "| rank | node | numbers | multiply-accumulate | post-processing | on-chip memories | without DRAM | DRAM | all |"
        " ratio without DRAM | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for step in figures["steps"]:
        for name, joules in step["joules"].items():
            cells = [f"{1e3 * joules[cause]:.2f}" for cause in CAUSES[:3]]
            cells += [f"{1e3 * (joules['total'] - joules['dram']):.2f}", f"{1e3 * joules['dram']:.1f}", f"{1e3 * joules['total']:.1f}"]
            cells += [f"{step['ratio_without_dram'][name]:.2f}", f"{step['ratio'][name]:.2f}"]
            lines.append(f"| {step['rank']} | {step['node']} | {name} | {' | '.join(cells)} |")
    lines += ["", f"CDM-QTA publishes {figures['published_ratio']:.2f}x over its baseline, from a synthesized design. {_COMPARABLE}"]
    return lines
