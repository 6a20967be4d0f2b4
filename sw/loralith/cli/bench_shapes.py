"""`loralith bench shapes`: the array's use on the LoRA layers of Stable Diffusion, from the RTL's counters."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.files import named, write_json, write_text
from loralith.reports import result_files as results

HELP = "cycles and utilisation of SD-1.5's and SDXL's LoRA layers"
SUFFIXES = (".json", ".csv")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--model", choices=("sd15", "sdxl"), default="sd15", help="whose attention projections (default: sd15)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank (default: 4)")
    parser.add_argument("--subset", choices=("all", "kv"), default="all", help="all, or cross attention's k and v (default: all)")
    parser.add_argument(
        "--dataflow",
        choices=("flexible", "fixed-os"),
        default="flexible",
        help="fixed-os: an ideal output-stationary array without the freedoms, in closed form (default: flexible)",
    )
    parser.add_argument("--modelled", action="store_true", help="cycle model only, no RTL")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.csv too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.shapes.published_shapes import published_shapes

    on_rtl = not args.modelled and args.dataflow == "flexible"
    origin = results.provenance(_command(args), on_rtl=on_rtl)
    figures = published_shapes(args.config, args.model, args.rank, args.subset, args.dataflow, origin, on_rtl=on_rtl, say=output.log)
    if args.output:
        _write(args.output, figures)
    return figures


def _command(args: argparse.Namespace) -> str:
    words = ["loralith bench shapes", f"--config {args.config}", f"--model {args.model}", f"--rank {args.rank}", f"--subset {args.subset}"]
    words += [f"--dataflow {args.dataflow}"] * (args.dataflow != "flexible") + ["--modelled"] * args.modelled
    return " ".join(words)


def _write(stem: Path, figures: dict[str, Any]) -> None:
    import csv
    import io

    data, rows = named(stem, *SUFFIXES)
    write_json(figures, data, indent=1)
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for layer in figures["layers"] for name in layer)
    writer = csv.DictWriter(text, list(columns), restval="")
    writer.writeheader()
    writer.writerows(figures["layers"])
    write_text(text.getvalue(), rows)
    output.wrote(data, rows)


def show(figures: dict[str, Any]) -> None:
    """The table that people read."""
    rows = [
        [
            layer["name"],
            layer["count"],
            layer["rank"],
            f"{layer['macs']:,}",
            f"{layer.get('cycles', 0):,}",
            f"{layer['utilization']:.1%}",
            *(f"{layer[name]:.1%}" if name in layer else "" for name in ("fixed_os_utilization", "wait_load", "wait_store", "model_error")),
        ]
        for layer in figures["layers"]
    ]
    columns = ["layer", "x", "rank", "MACs", "cycles", "used", "fixed OS", "waits for load", "for store", "model error"]
    output.table(f"{figures['model']} {figures['subset']} on {figures['config']}, {figures['dataflow']}", columns, rows)
    print(
        f"{figures['macs']:,} MACs in {figures['cycles']:,} cycles: {figures['utilization']:.2%} of the array, "
        f"{figures['speedup_over_fixed_os']:.3f}x ideal fixed output stationary ({figures['fixed_os_utilization']:.2%}); "
        f"{figures['measured_cycles_share']:.0%} of the cycles measured on the RTL"
    )
