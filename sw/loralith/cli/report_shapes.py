"""`loralith report shapes`: the last results of `loralith bench shapes` side by side, with published systems on the same products."""

import argparse
import json
from pathlib import Path
from typing import Any

from loralith.cli.results import REPO
from loralith.errors import LoralithError

HELP = "utilisation of every array and rank that was run, and published systems beside it"
FOLDER = REPO / "docs" / "results" / "shapes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where `loralith bench shapes --output` wrote (default: docs/results/shapes)"
    )


def command(args: argparse.Namespace) -> str:
    return "loralith report shapes"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Raises LoralithError for a folder without results."""
    paths = sorted(args.folder.glob("*.json"))
    if not paths:
        raise LoralithError(f"no results in {args.folder}; `loralith bench shapes --output {args.folder}/NAME` writes one")
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runs.sort(key=lambda run: (run["rows"] * run["cols"], run["model"], run["subset"], run["rank"]))
    return {"runs": runs}


def title(figures: dict[str, Any]) -> str:
    return "The array's use on published shapes"


def page(figures: dict[str, Any]) -> list[str]:
    lines = [
        "Useful multiply-accumulates over (cycles x elements), forward and backward, one image, INT8 results; memory answers after 100",
        "cycles and moves one bus word per cycle each way. *Fixed OS* is an ideal: output stationary without fold, swap, chain or fusion,",
        "its drain hidden, no fill, no bus. *Model off* is the largest error of the cycle model against the counters of a distinct shape.",
        "",
        "| array | model | layers | rank | MACs | cycles | used | fixed OS | speed-up | measured | model off | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in figures["runs"]:
        off = max((abs(layer["model_error"]) for layer in run["layers"] if layer["measured"]), default=None)
        lines.append(
            f"| {run['rows']} x {run['cols']} | {run['model']} | {run['subset']} | {run['rank']} | {run['macs']:,} | {run['cycles']:,} "
            f"| {run['utilization']:.2%} | {run['fixed_os_utilization']:.2%} | {run['speedup_over_fixed_os']:.3f} "
            f"| {run['measured_cycles_share']:.0%} | {'' if off is None else f'{off:.2%}'} | {run['commit']} |"
        )
    for run in figures["runs"]:
        lines += [
            "",
            f"## {run['rows']} x {run['cols']}, {run['model']}, {run['subset']}, rank {run['rank']}",
            "",
            f"`{run['command']}`, {run['date']}",
            "",
            "| layer | count | used | fixed OS | waits for load | for store | read MB | written MB | model off |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {layer['name']} | {layer['count']} | {layer['utilization']:.2%} | {layer['fixed_os_utilization']:.2%} "
            f"| {layer['wait_load']:.2%} | {layer['wait_store']:.2%} "
            f"| {layer['bytes_read'] / 1e6:,.0f} | {layer['bytes_written'] / 1e6:,.0f} | {layer['model_error']:+.2%} |"
            for layer in run["layers"]
        ]
    return lines
