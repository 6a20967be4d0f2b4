"""`loralith explain`: the schedule of a LoRA layer, why it was chosen, and what limits it; a timeline for Perfetto."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.files import check_output, write_json


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("explain", help="a layer's schedule, the runners-up, and what limits it")
    parser.add_argument(
        "--layer",
        default="4096,320,320,4",
        metavar="T,I,O,R",
        help="tokens, inputs, outputs and rank (default: 4096,320,320,4)",
    )
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--no-dx", action="store_true", help="nothing before the layer is trained")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write the modelled timeline as Chrome trace JSON, which Perfetto opens")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from loralith.compiler.schedules.training_step import Linear
    from loralith.shapes.layer_schedule import layer_schedule, trace_events
    from loralith.spec.config import load_config

    T, I, O, rank = _sizes(args.layer)
    config = load_config(args.config)
    if args.trace:
        check_output(args.trace, output.config_files(args))
    figures, timeline = layer_schedule(Linear("layer", T, I, O, rank, not args.no_dx), config)
    if args.trace:
        write_json(trace_events(timeline), args.trace, indent=None)
        output.wrote(args.trace)
        figures["trace"] = str(args.trace)
    if args.json:
        output.emit_json(figures)
    else:
        _print(figures)
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    """T, I, O and R. Raises LoralithError."""
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4:
        raise LoralithError(f"--layer takes four numbers T,I,O,R, such as 4096,320,320,4, not {text!r}")
    if min(sizes) < 1:
        raise LoralithError(f"T, I, O and R must be at least 1, not {text}")
    return sizes


def _print(figures: dict[str, Any]) -> None:
    for name, plans in figures["passes"].items():
        columns = list(plans[0])
        rows = [
            ["chosen" if i == 0 else f"{plan['cycles_per_token'] / plans[0]['cycles_per_token'] - 1:+.2%}", *plan.values()]
            for i, plan in enumerate(plans)
        ]
        output.table(f"{name}: blocks of m tokens, n columns, k of the reduction; blocks kept on chip", ["", *columns], rows)
    print(
        f"{figures['macs']:,} MACs in {figures['modelled_cycles']:,} cycles (modelled): {figures['utilization']:.2%} of the array; "
        f"ideal fixed output stationary: {figures['fixed_os_cycles']:,} cycles"
    )
    print(f"limited by {figures['limit']}")
