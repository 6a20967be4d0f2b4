"""`loralith report energy`: energy of a training step's LoRA layers, in INT8 and in wider numbers, by cause."""

import argparse
from typing import Any

HELP = "energy of a training step's LoRA layers, by tiers"
ON_RTL = False

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


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--model", default="sd15", help="model whose adapted layers make the step (default: sd15)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16, 32], metavar="R", help="ranks (default: 4 8 16 32)")
    parser.add_argument("--node", action="append", help="node of the energy table, may be repeated (default: all)")


def command(args: argparse.Namespace) -> str:
    nodes = "".join(f" --node {node}" for node in args.node or ())
    return f"loralith report energy --config {args.config} --model {args.model} --ranks {' '.join(map(str, args.ranks))}{nodes}"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    from loralith import energy
    from loralith.spec.config import load_config

    config = load_config(args.config)
    if args.model not in energy.MODELS:
        raise energy.EnergyError(f"model must be one of {', '.join(energy.MODELS)}, not {args.model!r}")
    for rank in args.ranks:
        if not 1 <= rank <= 128:
            raise energy.EnergyError(f"a rank must be in 1..128, not {rank}")
    steps = []
    for rank in args.ranks:
        total = energy.Activity()
        for linear, count in energy.MODELS[args.model]:
            total += energy.activity(energy.layer_list(linear, rank, config), config) * count
        for node in args.node or energy.nodes():
            by_format = {f.name: energy.energy(total, config, node, f) for f in energy.formats(node)}
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
        "tier": energy.TIER,
        "model": args.model,
        "layers": sum(count for _, count in energy.MODELS[args.model]),
        "config": config.name,
        "sources": energy.table()["sources"],
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
