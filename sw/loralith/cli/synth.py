"""`loralith synth`: emit, synthesize, place and route; prints utilization, clock and critical path."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.files import named, write_json, write_text
from loralith.reports import result_files as results
from loralith.reports.rtl_hash import rtl_hash


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("synth", help="synthesize, place and route for an FPGA board")
    parser.add_argument("--board", default="ulx3s-85f", help="a folder of constraints/ (default: ulx3s-85f)")
    parser.add_argument("--config", help="preset or JSON file (default: the board's)")
    parser.add_argument(
        "--part",
        choices=("smoke", "array", "compute", "all", "soc", "soc-shell"),
        default="all",
        help="the elements alone, the compute unit, or all (default); smoke: the compute unit of a small 8 x 8 configuration;"
        " soc: the board's whole system, to a bitstream; soc-shell: the same without the accelerator",
    )
    stop = parser.add_mutually_exclusive_group()
    stop.add_argument("--synth-only", action="store_true", help="stop before placement: counts, no clock")
    stop.add_argument("--place-only", action="store_true", help="stop before routing: predicted clock and late paths")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="first placement seed (default: 1)")
    parser.add_argument(
        "--seeds",
        type=int,
        default=4,
        metavar="N",
        help="most seeds to place, until one has no late path by the predicted delays (default: 4)",
    )
    parser.add_argument("--frequency", type=float, metavar="MHZ", help="target clock (default: the board's)")
    parser.add_argument("--timeout", type=float, default=120, metavar="MINUTES", help="for one call of a tool (default: 120)")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md (default: in build/synth/)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 1 when the part is too full or the clock too slow; 2, by SynthError, when there is no result at all."""
    from loralith import synth

    if args.seeds < 1 or args.timeout <= 0:
        raise synth.SynthError(f"--seeds and --timeout must be above 0, not {args.seeds} and {args.timeout:g}")
    target = synth.part_target(
        args.board, args.part, args.config, frequency_mhz=args.frequency or 0, timeout=60 * args.timeout, progress=output.log
    )
    stem = args.output or target.folder / target.label
    results.check(stem, output.config_files(args))
    context = {"commit": results.commit("hw", "gen"), "command": _command(args), "rtl": rtl_hash()}
    netlist = synth.synthesize(target)
    routings: list[synth.Routing] = []
    placements: list[synth.Placement] = []
    figures = _write(stem, synth.summary(target, netlist, routings, placements, **context))
    if target.part == "soc-shell":
        figures = _system(stem, figures, None if args.synth_only else synth.shell_bitstream(target, netlist, args.seed))
    elif not args.synth_only and synth.FLOWS[target.board.tool].places:
        for seed in range(args.seed, args.seed + args.seeds):
            placements.append(synth.place(target, netlist, seed))
            figures = _write(stem, synth.summary(target, netlist, routings, placements, **context))
            if placements[-1].late_points == 0:
                break
        if not args.place_only:
            routings.append(synth.route(target, netlist, synth.best_placement(placements).seed))
            figures = _write(stem, synth.summary(target, netlist, routings, placements, **context))
    if target.part == "soc":
        figures = _system(stem, figures, synth.bitstream(target, routings[0]) if routings else None)
    output.wrote(*named(stem, ".json", ".md"))
    if args.json:
        output.emit_json(figures)
    else:
        _print(figures)
    return 0 if figures["fits"] and figures["meets"] is not False and not figures["latches"] else 1


def _write(stem: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """After every step, so that an interrupted run leaves what it had."""
    from loralith.synth import markdown

    data, page = named(stem, ".json", ".md")
    write_json(figures, data, indent=1)
    write_text(markdown(figures), page)
    return figures


def _system(stem: Path, figures: dict[str, Any], made: Any) -> dict[str, Any]:
    """The figures with those of the system: its LUTs beside the accelerator, the bitstream's path and nextpnr's clock."""
    beside = sum(counts["lut"] for name, counts in figures["modules"].items() if ".accelerator" not in name)
    figures = {**figures, "lut_beside_accelerator": beside, "bitstream": None}
    if made is not None:
        here = Path.cwd()
        path = made.path.relative_to(here) if made.path.is_relative_to(here) else made.path
        figures |= {"bitstream": str(path), "tools": [*figures["tools"], made.tool], "clocks_mhz": {"slowest": made.fmax_mhz}}
        figures |= {"meets": made.fmax_mhz >= made.constraint_mhz, "placed_cells": made.used}
        figures["reported_mhz"] = figures["reported_mhz"] or made.fmax_mhz
    write_json(figures, named(stem, ".json")[0], indent=1)
    return figures


def _print(figures: dict[str, Any]) -> None:
    rows = [[r, figures[r], figures["available"][r], f"{figures['share'][r]:.1%}"] for r in ("lut", "ff", "dsp", "bram")]
    output.table(f"{figures['config']['name']} ({figures['part']}) on {figures['part_number']}", ["resource", "used", "of", "share"], rows)
    modules = [[name, *counts.values()] for name, counts in list(figures["modules"].items())[:20]]
    output.table("largest modules", ["module", "lut", "ff", "dsp", "bram"], modules)
    if figures["fmax_mhz"] is not None:
        path = [[arc["kind"], f"{arc['delay_ns']:.2f}", arc["signal"]] for arc in figures["critical_path"]]
        output.table("critical path", ["step", "ns", "signal"], path)
        print(f"fmax {figures['fmax_mhz']:.1f} MHz (target {figures['target_mhz']:g}), peak {figures['peak_gmacs']:.2f} GMAC/s")
    if placed := figures["placed"]:
        rows = [[late[n] for n in ("source", "sink", "pin", "count", "slack_ns", "wires_ns", "logic_ns")] for late in placed["late"][:20]]
        output.table("late after placement", ["from", "to", "pin", "end points", "slack ns", "wires ns", "logic ns"], rows)
        print(
            f"{placed['expected_mhz']:.1f} MHz predicted after placement (target {figures['target_mhz']:g});"
            f" {placed['late_points']:,} of {placed['end_points']:,} end points late; wire length {placed['wire_tiles']:,} tiles"
        )
    if figures["estimate"]:
        print(f"an estimate by Yosys: {figures['tools'][0]}; docs/fpga.md has Vivado's commands")
    if "bitstream" in figures:
        beside = figures["lut_beside_accelerator"]
        print(f"{beside:,} LUTs beside the accelerator, {beside / figures['available']['lut']:.1%} of the part")
        clock = (
            ""
            if figures["reported_mhz"] is None
            else f", {figures['reported_mhz']:.1f} MHz in nextpnr's report (target {figures['target_mhz']:g})"
        )
        print(f"bitstream: {figures['bitstream'] or 'not made'}{clock}")
    print(f"fits: {'yes' if figures['fits'] else 'no'}; {figures['limit']}")


def _command(args: argparse.Namespace) -> str:
    """What repeats the run."""
    words = ["loralith synth", f"--board {args.board}", f"--part {args.part}"]
    if args.config and args.part != "smoke":
        words.append(f"--config {args.config}")
    if args.synth_only:
        words.append("--synth-only")
    else:
        words += ["--place-only"] * args.place_only + [f"--seed {args.seed}", f"--seeds {args.seeds}"]
    if args.frequency:
        words.append(f"--frequency {args.frequency:g}")
    return " ".join(words)
