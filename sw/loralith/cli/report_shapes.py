"""`loralith report shapes`: the last results of `loralith bench shapes` side by side, with published systems on the same products."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from loralith.cli.results import REPO
from loralith.compiler.matmul import array_cycles, best_fold
from loralith.errors import LoralithError
from loralith.shapes import models, peers
from loralith.spec.config import load_config

HELP = "utilisation of every array and rank that was run, and published systems beside it"
FOLDER = REPO / "docs" / "results" / "shapes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where `loralith bench shapes --output` wrote (default: docs/results/shapes)"
    )
    parser.add_argument("--with-scalesim", action="store_true", help="run SCALE-Sim on the smallest products, if it is installed")


PEERS = Path(__file__).resolve().parents[1] / "shapes" / "peers.json"
PICTURES = {
    "use": "Use of the array by layer and rank, beside an ideal fixed output-stationary array",
    "roofline": "Use of the array over multiply-accumulates per byte",
    "cycles": "Where the cycles went",
}


TRIED_MACS = 1 << 19
"""Products up to this size are given to SCALE-Sim itself with --with-scalesim: its traces of larger ones take hours."""


def _totals(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Other systems' cycles for the steps that were run: SCALE-Sim on the square arrays, RedMulE on its own."""
    rows = []
    for model, subset, rank in dict.fromkeys((run["model"], run["subset"], run["rank"]) for run in runs):
        layers = Counter(models.text_linears(model, rank))
        if subset == "all":
            layers.update(models.image_linears(model, rank))
        work = [(product, count) for linear, count in layers.items() for product in peers.products(linear)]
        macs = sum(product.macs * count for product, count in work)

        def row(system: str, array: str, dataflow: str, elements: int, cycles: int) -> dict[str, Any]:
            about = {"system": system, "array": array, "dataflow": dataflow, "model": model, "subset": subset, "rank": rank}  # noqa: B023
            return about | {"cycles": cycles, "utilization": macs / (cycles * elements)}  # noqa: B023

        same = [run for run in runs if (run["model"], run["subset"], run["rank"]) == (model, subset, rank)]
        for side in dict.fromkeys(run["rows"] for run in same if run["rows"] == run["cols"]):
            for dataflow in peers.SYSTEMS:
                cycles = sum(count * peers.scalesim_cycles(product, side, side, dataflow) for product, count in work)
                rows.append(row("SCALE-Sim", f"{side} x {side}", dataflow, side * side, cycles))
        cycles = sum(count * peers.redmule_cycles(product) for product, count in work)
        rows.append(row("RedMulE", "12 x 4", "FP16 engine", peers.REDMULE_ELEMENTS, cycles))
    return rows


def _products(runs: list[dict[str, Any]], scalesim: bool) -> dict[str, Any]:
    """Each product of the first square array's first run by itself: the array's steps here, and other systems' cycles."""
    run = next((run for run in runs if run["rows"] == run["cols"] and run["subset"] == "all"), None)
    if run is None:
        return {}
    side, model, rank = run["rows"], run["model"], run["rank"]
    config = load_config(run["config"])
    rows, tried = [], 0
    for linear in [*models.image_linears(model, rank), *dict.fromkeys(models.text_linears(model, rank))]:
        for product in peers.products(linear):
            M, N, K = product.M, product.N, product.K
            steps = min(array_cycles(a, b, K, best_fold(K, b, config), config) for a, b in ((M, N), (N, M)))
            cycles = {dataflow: peers.scalesim_cycles(product, side, side, dataflow) for dataflow in peers.SYSTEMS}
            for dataflow in peers.SYSTEMS if scalesim and product.macs <= TRIED_MACS else ():
                found = peers.run_scalesim(product, side, dataflow)
                if found != cycles[dataflow]:
                    raise LoralithError(f"SCALE-Sim says {found} cycles for {product}, {dataflow}; its closed form {cycles[dataflow]}")
                tried += 1
            sizes = {"layer": linear.name, "product": product.name, "M": M, "N": N, "K": K, "macs": product.macs}
            rows.append(sizes | {"steps": steps, "scalesim": cycles, "redmule": peers.redmule_cycles(product)})
    return {"side": side, "model": model, "rank": rank, "rows": rows, "scalesim_runs": tried}


def _peers(figures: dict[str, Any]) -> list[str]:
    """Other systems on the same products."""
    lines = [
        "## Other systems on the same products",
        "",
        "| system | array | dataflow | model | layers | rank | cycles | used |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['system']} | {row['array']} | {row['dataflow']} | {row['model']} | {row['subset']} | {row['rank']} | {row['cycles']:,} "
        f"| {row['utilization']:.2%} |"
        for row in figures["others"]
    ]
    lines += ["", *(f"- {name}, {about['version']}. {about['how']}" for name, about in figures["peers"]["systems"].items())]
    by_product = figures["by_product"]
    if by_product:
        elements = by_product["side"] ** 2
        lines += [
            "",
            f"### Product by product: {by_product['model']}, rank {by_product['rank']}, {by_product['side']} x {by_product['side']}",
            "",
            "Multiply-accumulates over (cycles x elements). *Steps*: those of this array at its best fold and side for the product, behind",
            "which the schedule hides everything else; SCALE-Sim and RedMulE count fill and drain of each product, and",
            "neither counts a bus.",
            "",
            "| layer | product | M | N | K | steps | OS | WS | IS | RedMulE |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in by_product["rows"]:
            used = [row["macs"] / (cycles * elements) for cycles in (row["steps"], *(row["scalesim"][d] for d in peers.SYSTEMS))]
            used.append(row["macs"] / (row["redmule"] * peers.REDMULE_ELEMENTS))
            sizes = " | ".join(str(row[name]) for name in ("layer", "product", "M", "N", "K"))
            lines.append(f"| {sizes} | {' | '.join(f'{share:.1%}' for share in used)} |")
        if by_product["scalesim_runs"]:
            lines += ["", f"SCALE-Sim itself was run {by_product['scalesim_runs']} times, on the smallest products, and said the same."]
    return lines


def command(args: argparse.Namespace) -> str:
    return "loralith report shapes" + " --with-scalesim" * args.with_scalesim


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
    about = json.loads(PEERS.read_text(encoding="utf-8"))
    return {"runs": runs, "peers": about, "others": _totals(runs), "by_product": _products(runs, args.with_scalesim)}


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
