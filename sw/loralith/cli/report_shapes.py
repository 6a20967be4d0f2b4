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


PEERS = Path(__file__).resolve().parents[1] / "shapes" / "peers.json"
PICTURES = {
    "use": "Use of the array by layer and rank, beside an ideal fixed output-stationary array",
    "roofline": "Use of the array over multiply-accumulates per byte",
    "cycles": "Where the cycles went",
}


def _peers(figures: dict[str, Any]) -> list[str]:
    """Other systems on the same products, where an array and rank of ours has a counterpart."""
    peers = figures["peers"]
    wanted = {("sd15", run["subset"], run["rank"]) for run in figures["runs"]}
    lines = [
        "## Other systems on the same products",
        "",
        "| system | array | dataflow | layers | rank | cycles | used |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['system']} | {row['array']} | {row['dataflow']} | {row['subset']} | {row['rank']} | {row['cycles']:,} "
        f"| {row['utilization']:.2%} |"
        for row in peers["results"]
        if ("sd15", row["subset"], row["rank"]) in wanted
    ]
    lines += ["", *(f"- {name}, {about['version']}. {about['how']}" for name, about in peers["systems"].items())]
    return lines


def command(args: argparse.Namespace) -> str:
    return "loralith report shapes"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Raises LoralithError for a folder without results."""
    paths = sorted(args.folder.glob("*.json"))
    if not paths:
        raise LoralithError(f"no results in {args.folder}; `loralith bench shapes --output {args.folder}/NAME` writes one")
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runs.sort(key=lambda run: (run["rows"] * run["cols"], run["model"], run["subset"], run["rank"]))
    if args.output:
        from loralith.shapes import plots

        args.output.parent.mkdir(parents=True, exist_ok=True)
        for name, figure in (("use", plots.heat_map(runs)), ("roofline", plots.roofline(runs)), ("cycles", plots.stalls(runs))):
            args.output.with_name(f"{args.output.name}-{name}.png").write_bytes(plots.png(figure))
    return {"runs": runs, "peers": json.loads(PEERS.read_text(encoding="utf-8"))}


def title(figures: dict[str, Any]) -> str:
    return "The array's use on published shapes"


def page(figures: dict[str, Any]) -> list[str]:
    lines = [
        "Useful multiply-accumulates over (cycles x elements), forward and backward, one image, INT8 results; memory answers after 100",
        "cycles and moves one bus word per cycle each way. *Fixed OS* is an ideal: output stationary without fold, swap, chain or fusion,",
        "its drain hidden, no fill, no bus. *WS*: weight stationary in closed form, the better operand of each product staying.",
        "*Model off* is the largest error of the cycle model against the counters of a distinct shape.",
        "",
        "| array | model | layers | rank | MACs | cycles | used | fixed OS | speed-up | WS | measured | model off | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in figures["runs"]:
        off = max((abs(layer["model_error"]) for layer in run["layers"] if layer["measured"]), default=None)
        lines.append(
            f"| {run['rows']} x {run['cols']} | {run['model']} | {run['subset']} | {run['rank']} | {run['macs']:,} | {run['cycles']:,} "
            f"| {run['utilization']:.2%} | {run['fixed_os_utilization']:.2%} | {run['speedup_over_fixed_os']:.3f} "
            f"| {run['weight_stationary_utilization']:.2%} "
            f"| {run['measured_cycles_share']:.0%} | {'' if off is None else f'{off:.2%}'} | {run['commit']} |"
        )
    lines += ["", *(f"![{text}](shapes-{name}.png)" for name, text in PICTURES.items()), "", *_peers(figures)]
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
