"""`loralith bench placement`: the predicted clock with all placement passes, and with each one left out."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.reports import result_files as results

HELP = "what each placement pass gains: the predicted clock with all of them and without each"
TITLE = "What each placement pass gains"
SUFFIXES = (".json", ".md")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", default="ulx3s-85f", help="a folder of constraints/ (default: ulx3s-85f)")
    parser.add_argument("--part", choices=("smoke", "compute", "all"), default="smoke", help="as of `loralith synth` (default: smoke)")
    parser.add_argument("--config", help="preset or JSON file (default: the board's; of no account for smoke)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="first placement seed (default: 1)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="how many seeds (default: 2)")
    parser.add_argument("--frequency", type=float, metavar="MHZ", help="target clock (default: the board's)")
    parser.add_argument("--timeout", type=float, default=120, metavar="MINUTES", help="for one call of a tool (default: 120)")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too, after every placement")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Minutes to hours; finished placements are kept in build/synth/, and a second call goes on from them."""
    from loralith import synth
    from loralith.synth.pass_gains import measure_passes, page

    if args.seeds < 1 or args.timeout <= 0:
        raise synth.SynthError(f"--seeds and --timeout must be above 0, not {args.seeds} and {args.timeout:g}")
    target = synth.part_target(
        args.board, args.part, args.config, frequency_mhz=args.frequency or 0, timeout=60 * args.timeout, progress=output.log
    )
    command = f"loralith bench placement --board {args.board} --part {args.part} --seed {args.seed} --seeds {args.seeds}"
    command += f" --config {args.config}" if args.config else ""
    command += f" --frequency {args.frequency:g}" if args.frequency else ""

    def keep(figures: dict[str, Any]) -> None:
        if args.output:
            results.write(args.output, TITLE, command, figures, page(figures))

    return measure_passes(target, range(args.seed, args.seed + args.seeds), keep=keep)


def show(figures: dict[str, Any]) -> None:
    from loralith.synth.pass_gains import page

    print("\n".join(page(figures)))
