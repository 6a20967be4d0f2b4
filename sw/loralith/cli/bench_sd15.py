"""`loralith bench sd15`: every LoRA linear of Stable Diffusion 1.5, forward and backward, one after the other on the RTL."""

import argparse
import time
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.reports import result_files as results

HELP = "the LoRA layers of an SD-1.5 step, all 128 linears, every result checked"
TITLE = "The LoRA layers of an SD-1.5 step"
SUFFIXES = (".json", ".md")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank (default: 4)")
    parser.add_argument("--rtl", action="store_true", help="run on the RTL, minutes of it; without it only the cycle model's figures")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N linears that read the image, and no text")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Linears that read the image are lists of their own, those of the text one list. Lists that have run are not run again."""
    import loralith
    from loralith.compiler.schedules.training_step import step_macs
    from loralith.shapes import models, run
    from loralith.spec.config import load_config

    config = load_config(args.config)
    image, text = models.step_linears("sd15", args.rank)[: args.first], models.text_linears("sd15", args.rank)
    rows: list[dict[str, Any]] = []

    def add(name: str, linears: list[Any], cycles: int, macs: int, modelled: int) -> None:
        assert macs == step_macs(linears)
        used = macs / (cycles * config.processing_elements)
        rows.append({"name": name, "macs": macs, "cycles": cycles, "utilization": used, "model_error": modelled / cycles - 1})

    if not args.rtl:
        for linear in image:
            once = run.modelled(linear, 1, config).cycles
            add(linear.name, [linear], once, linear.macs, once)
        if not args.first:
            found = run.modelled_text(text, config)
            add("text", text, found.cycles, found.macs, found.modelled)
    else:
        from loralith.device.native.build import build, cache_folder

        hardware, cache = build(config).parent.name, cache_folder().parent / "sd15"
        started = time.monotonic()
        with loralith.open_device("verilator", config=args.config, memory_bytes=1 << 29) as device:
            for i, linear in enumerate(image):
                counters, modelled = run.run_once(linear, i, device, hardware, cache)
                add(linear.name, [linear], counters["cycles"], counters["macs"], modelled)
                spent = time.monotonic() - started
                output.log(f"{i + 1}/{len(image)}  {linear.name}  {rows[-1]['utilization']:.1%} used  {spent:.0f} s")
            if not args.first:
                found = run.measure_text(text, device, hardware, cache, output.log)
                add("text", text, found.cycles, found.macs, found.modelled)
    cycles, macs = sum(row["cycles"] for row in rows), sum(row["macs"] for row in rows)
    command = f"loralith bench sd15 --config {args.config} --rank {args.rank}" + " --rtl" * args.rtl
    figures = {
        **results.made(command + (f" --first {args.first}" if args.first else ""), on_rtl=args.rtl),
        "config": config.name,
        "rank": args.rank,
        "on_rtl": args.rtl,
        "linears": len(image) + (0 if args.first else len(text)),
        "macs": macs,
        "cycles": cycles,
        "utilization": macs / (cycles * config.processing_elements),
        "layers": rows,
    }
    if args.output:
        page = [_sentence(figures), "", "| linear | MACs | cycles | used | model off |", "|---|---|---|---|---|"]
        page += [
            f"| {row['name']} | {row['macs']:,} | {row['cycles']:,} | {row['utilization']:.2%} | {row['model_error']:+.2%} |"
            for row in rows
        ]
        results.write(args.output, TITLE, figures["command"], figures, page, on_rtl=args.rtl)
    return figures


def _sentence(figures: dict[str, Any]) -> str:
    where = "on the RTL, every result equal to the products' definition" if figures["on_rtl"] else "by the cycle model"
    return (
        f"{figures['linears']} linears, rank {figures['rank']}, {figures['config']}: {figures['macs']:,} MACs in {figures['cycles']:,} "
        f"cycles, {figures['utilization']:.2%} of the array, {where}. {_share(figures)}Each linear that reads the image is a list of "
        "its own, its first load and last store in the open."
    )


def _share(figures: dict[str, Any]) -> str:
    """How much of a training step the linears are, where all of them were run."""
    from loralith.shapes.models import BESIDE_LORA, step_linears, text_linears

    if figures["linears"] < len(step_linears("sd15", figures["rank"])) + len(text_linears("sd15", figures["rank"])):
        return ""
    share = figures["macs"] / (figures["macs"] + BESIDE_LORA["sd15"])
    return f"They are {share:.0%} of the multiply-accumulates of a training step, whose other layers are not in these figures. "


def show(figures: dict[str, Any]) -> None:
    """The table that people read."""
    columns = ["linear", "MACs", "cycles", "used", "model off"]
    rows = [
        [row["name"], f"{row['macs']:,}", f"{row['cycles']:,}", f"{row['utilization']:.1%}", f"{row['model_error']:+.1%}"]
        for row in figures["layers"]
    ]
    output.table(f"SD-1.5 on {figures['config']}, rank {figures['rank']}", columns, rows)
    print(_sentence(figures))
