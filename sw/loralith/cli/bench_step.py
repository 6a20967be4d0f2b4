"""`loralith bench step`: commands and cycles of a whole training step on the device, by kind of operator, from its compiled list or from
lists of its distinct blocks."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.reports import result_files as results

if TYPE_CHECKING:
    from loralith.spec.config import Config
    from loralith.step.by_block import PieceRunner

HELP = "a whole training step: commands and cycles of each unit by kind of operator, by the cycle model"
TITLE = "A training step"
SUFFIXES = (".json", ".md")
PUBLISHED = ("sd15", "sdxl")
"""Models whose step is too long for one list."""
COLUMNS = ("commands", "elements", "macs", "load", "store", "array", "vector")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="small", help="small (the project's own), sd15, sdxl, or a folder with config.json (default: small)"
    )
    parser.add_argument("--config", default="base", help="preset or JSON file, with vector lanes (default: base)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank (default: 4)")
    parser.add_argument("--targets", default="all", help="projections with an adapter: all, kv, or names with commas (default: all)")
    parser.add_argument("--batch", type=int, default=1, help="images per step (default: 1)")
    parser.add_argument(
        "--by-block", action="store_true", help="compile each distinct block of the step as its own list; always so for sd15 and sdxl"
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=0,
        metavar="N",
        help="of a block with more than N commands compile and model parts of its long kernels, and go on in a line (default: all of it)",
    )
    parser.add_argument("--state", type=Path, metavar="FILE", help="blocks that are done; a call with the same file goes on from it")
    parser.add_argument(
        "--rtl",
        type=float,
        metavar="SECONDS",
        help="run distinct blocks on the Verilated RTL, the shortest first, for so long; results and cycles are compared (default: none)",
    )
    parser.add_argument(
        "--memory",
        choices=("even", "sdr16"),
        default="even",
        help="of the cycle model: a bus word per cycle, or the ULX3S's 16-bit SDRAM with its controller at 80 MHz (default: even)",
    )
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.cli import output
    from loralith.compiler.memories import Sdr16
    from loralith.diffusion.published import find_model
    from loralith.errors import LoralithError
    from loralith.methods.settings import choose_targets
    from loralith.spec.config import load_config
    from loralith.spec.sdram import BEAT_BYTES as SDR16_BUS_BYTES
    from loralith.step.step_report import page
    from loralith.step.step_work import step_work

    if args.sample < 0:
        raise LoralithError(f"--sample must be at least 0, not {args.sample}")
    for name in ("rank", "batch"):
        if getattr(args, name) < 1:
            raise LoralithError(f"{name} must be at least 1, not {getattr(args, name)}")
    config = load_config(args.config)
    if not config.vector_lanes:
        raise LoralithError(f"a step on the device needs vector lanes; the configuration {config.name} has none")
    source = find_model(args.model)
    by_block = args.by_block or args.model in PUBLISHED
    if not by_block and (args.state or args.output or args.sample or args.rtl is not None):
        raise LoralithError("--state, --sample, --rtl and --output belong to a step that is compiled by block; add --by-block")
    if by_block and args.memory != "even":
        raise LoralithError("--memory belongs to a step that is compiled as one list; leave it out, or --by-block")
    if args.memory == "sdr16" and config.bus_bytes != SDR16_BUS_BYTES:
        raise LoralithError(f"the memory sdr16 has a bus of {SDR16_BUS_BYTES} bytes, that of {config.name} has {config.bus_bytes}")
    if args.rtl is not None and not args.rtl > 0:
        raise LoralithError(f"--rtl must be more than 0 seconds, not {args.rtl:g}")
    results.check(args.output, output.config_files(args))
    output.show_progress()
    with output.plain_warnings():
        targets = choose_targets(args.targets)
        figures = step_work(
            source,
            config,
            targets=targets,
            rank=args.rank,
            batch=args.batch,
            by_block=by_block,
            state=args.state,
            sample=args.sample,
            run=None if args.rtl is None else _runner(config, args.rtl),
            memory=Sdr16() if args.memory == "sdr16" else None,
        )
    figures["memory"] = args.memory
    if args.output:
        title = f"{TITLE} of {figures['model']}"
        results.write(args.output, title, _command(args), figures, page(figures), on_rtl=args.rtl is not None)
    return figures


def _runner(config: Config, seconds: float) -> PieceRunner:
    """Runs pieces on the RTL until ``seconds`` have passed since the first one."""
    from loralith.step.piece_runs import run_piece

    began: list[float] = []

    def run(text: str) -> tuple[int, int] | None:
        began.append(time.monotonic())
        if began[-1] - began[0] > seconds:
            return None
        found = run_piece(text, config, "verilator", verify=False)
        return found.cycles, found.elements

    return run


def _command(args: argparse.Namespace) -> str:
    words = ["loralith bench step", f"--model {args.model}", f"--config {args.config}", f"--rank {args.rank}"]
    words += [f"--targets {args.targets}"] * (args.targets != "all") + [f"--batch {args.batch}"] * (args.batch != 1)
    words += ["--by-block"] * args.by_block + [f"--sample {args.sample}"] * bool(args.sample)
    return " ".join(words if args.rtl is None else [*words, f"--rtl {args.rtl:g}"])


def show(figures: dict[str, Any]) -> None:
    from loralith.cli import output

    rows = [[kind, *(costs[name] for name in COLUMNS)] for kind, costs in figures["kinds"].items()]
    rows.append(["all", *(figures[name] for name in COLUMNS)])
    title = f"a step of {figures['model']}, batch {figures['batch']}, on {figures['config']} with {figures['lanes']} lanes"
    output.table(f"{title}: cycles of each unit", ["kind", *COLUMNS], rows)
    kinds = list(figures["kinds"])
    waits = [
        [unit, idle["working"], *(idle["tokens"].get(kind, 0) for kind in kinds), idle["list"], idle["end"]]
        for unit, idle in figures["waits"].items()
    ]
    columns = ["unit", "works", *(f"tokens: {kind}" for kind in kinds), "list", "after"]
    output.table("what each unit does in the modelled cycles: works, waits for tokens of a command of a kind, for the list", columns, waits)
    rest = ("list_bytes", "memory_bytes", "modelled_cycles", "cycles_at_least", "cycles_one_by_one", "utilization_at_most")
    rest += (
        "utilization_modelled",
        "cycles",
        "utilization",
        "measured_cycles_share",
        "measured_pieces",
        "measured_cycles",
        "model_error",
        "pieces",
    )
    rest += ("distinct_pieces",)
    output.table("the list", ["figure", "value"], [[name, figures[name]] for name in rest if name in figures])
