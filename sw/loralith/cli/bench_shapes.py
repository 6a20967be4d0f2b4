"""`loralith bench shapes`: the array's use on the LoRA layers of Stable Diffusion, from the RTL's counters."""

import argparse
from collections import Counter
from collections.abc import Callable
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
    import loralith
    from loralith.shapes import models, run
    from loralith.spec.config import load_config

    if args.rank < 1:
        raise argparse.ArgumentTypeError(f"--rank must be at least 1, not {args.rank}")
    config = load_config(args.config)
    image = models.image_linears(args.model, args.rank) if args.subset == "all" else {}
    text = models.text_linears(args.model, args.rank)
    found: list[Any]
    if args.modelled or args.dataflow == "fixed-os":
        found = [run.modelled(linear, count, config) for linear, count in image.items()]
        found += _text(text, lambda: run.modelled_text(text, config), lambda linear, count: run.modelled(linear, count, config))
    else:
        from loralith.device.native.build import build, cache_folder

        hardware, cache = build(config).parent.name, cache_folder().parent / "shapes"
        with loralith.open_device("verilator", config=args.config, memory_bytes=1 << 29) as device:

            def one(linear: Any, count: int) -> Any:
                return run.measure(linear, count, device, hardware, cache, output.log)

            found = [one(linear, count) for linear, count in image.items()]
            found += _text(text, lambda: run.measure_text(text, device, hardware, cache, output.log), one)
    figures = {
        "config": config.name,
        "rows": config.rows,
        "cols": config.cols,
        "bus_bytes": config.bus_bytes,
        "model": args.model,
        "rank": args.rank,
        "subset": args.subset,
        "dataflow": args.dataflow,
    }
    figures = results.made(_command(args), on_rtl=not args.modelled and args.dataflow == "flexible") | figures
    figures |= run.total(found, config)
    if args.dataflow == "fixed-os":
        figures = _fixed(figures)
    if args.output:
        _write(args.output, figures)
    return figures


def _text(text: list[Any], together: Callable[[], Any], alone: Callable[[Any, int], Any]) -> list[Any]:
    """The linears that read the text: in one list where that fits, else each shape by itself."""
    from loralith.compiler.storage.regions import DoesNotFit

    try:
        return [together()]
    except DoesNotFit:
        return [alone(linear, count) for linear, count in Counter(text).items()]


def _command(args: argparse.Namespace) -> str:
    words = ["loralith bench shapes", f"--config {args.config}", f"--model {args.model}", f"--rank {args.rank}", f"--subset {args.subset}"]
    words += [f"--dataflow {args.dataflow}"] * (args.dataflow != "flexible") + ["--modelled"] * args.modelled
    return " ".join(words)


def _fixed(figures: dict[str, Any]) -> dict[str, Any]:
    """The closed form's figures in the place of the machine's."""
    layers = [
        {name: layer[name] for name in ("name", "count", "tokens", "inputs", "outputs", "rank", "dx", "macs")}
        | {"utilization": layer["fixed_os_utilization"], "measured": False}
        for layer in figures["layers"]
    ]
    return figures | {
        "cycles": figures["fixed_os_cycles"],
        "utilization": figures["fixed_os_utilization"],
        "measured_cycles_share": 0.0,
        "speedup_over_fixed_os": 1.0,
        "layers": layers,
    }


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
    columns = ["layer", "x", "rank", "MACs", "cycles", "used", "fixed OS", "waits for load", "for store", "model off"]
    output.table(f"{figures['model']} {figures['subset']} on {figures['config']}, {figures['dataflow']}", columns, rows)
    print(
        f"{figures['macs']:,} MACs in {figures['cycles']:,} cycles: {figures['utilization']:.2%} of the array, "
        f"{figures['speedup_over_fixed_os']:.3f}x ideal fixed output stationary ({figures['fixed_os_utilization']:.2%}); "
        f"{figures['measured_cycles_share']:.0%} of the cycles measured on the RTL"
    )
