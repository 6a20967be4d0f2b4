"""`loralith explain`: the schedule of a LoRA layer, why it was chosen, and what limits it; a timeline for Perfetto."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from loralith.cli import output
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
    from loralith.compiler.cycles import model
    from loralith.compiler.schedules.training_step import Linear, compile_step, place
    from loralith.errors import LoralithError
    from loralith.shapes.measured_run import fixed_os_cycles
    from loralith.spec.config import load_config

    try:
        T, I, O, r = (int(word) for word in args.layer.split(","))
    except ValueError:
        raise LoralithError(f"--layer takes four numbers T,I,O,R, such as 4096,320,320,4, not {args.layer!r}") from None
    if min(T, I, O, r) < 1:
        raise LoralithError(f"T, I, O and R must be at least 1, not {args.layer}")
    config = load_config(args.config)
    if args.trace:
        check_output(args.trace, output.config_files(args))
    linear = Linear("layer", T, I, O, r, not args.no_dx)
    tensors, _ = place(linear, 0, config)
    commands = compile_step([(linear, tensors)], config)
    timeline = model(commands, config)
    elements = config.rows * config.cols
    figures: dict[str, Any] = {
        "config": config.name,
        "layer": {"tokens": T, "inputs": I, "outputs": O, "rank": r, "dx": linear.dx},
        "macs": linear.macs,
        "commands": len(commands),
        "modelled_cycles": timeline.cycles,
        "utilization": linear.macs / (timeline.cycles * elements),
        "array_steps": timeline.busy / timeline.cycles,
        "read_channel": timeline.read_words / timeline.cycles,
        "write_channel": timeline.write_words / timeline.cycles,
        "fixed_os_cycles": fixed_os_cycles(linear, config),
        "passes": {name: _pass(linear, backward, config) for name, backward in (("forward", False), ("backward", True))},
    }
    figures["limit"] = _limit(figures)
    if args.trace:
        _write_trace(args.trace, timeline)
        figures["trace"] = str(args.trace)
    if args.json:
        output.emit_json(figures)
    else:
        _print(figures)
    return 0


def _pass(linear: Any, backward: bool, config: Any) -> list[dict[str, Any]]:
    """The plans that were tried, the chosen one first."""
    from loralith.compiler.schedules.training_step import parts_for, tried_plans

    rows = tried_plans(replace(linear, name=""), backward, config, parts_for(linear.rank)[0])
    return [{**vars(plan), "cycles_per_token": round(cycles, 2)} for cycles, plan in rows[:6]]


def _limit(figures: dict[str, Any]) -> str:
    """In words: what stands between this schedule and the whole array."""
    shares = {"array": figures["array_steps"], "read channel": figures["read_channel"], "write channel": figures["write_channel"]}
    name = max(shares, key=lambda key: shares[key])
    if name == "array":
        lost = figures["array_steps"] - figures["utilization"]
        waits = 1 - figures["array_steps"]
        return f"the array: {waits:.1%} of the cycles it waits, and {lost:.1%} are steps on padding of tokens, columns and rank"
    return f"the {name}, in use in {shares[name]:.1%} of the cycles"


def _write_trace(path: Path, timeline: Any) -> None:
    """Complete events on one track per unit; a microsecond stands for a cycle."""
    names = {"LOAD": 1, "COMPUTE": 2, "STORE": 3}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name.lower()}} for name, tid in names.items()
    ]
    for activity in timeline.activities:
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": names[activity.opcode.name],
                "ts": activity.start,
                "dur": max(activity.end - activity.start, 1),
                "name": activity.note or activity.opcode.name.lower(),
                "args": {"command": activity.command, "ready but for tokens": activity.ready},
            }
        )
    write_json({"traceEvents": events, "displayTimeUnit": "ms"}, path, indent=None)
    output.wrote(path)


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
