"""The results of `loralith bench shapes` side by side, with published systems on the same products, as a report."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import FileError, named, read_json, write_bytes
from loralith.progress import tell
from loralith.reports.result_files import rtl_text
from loralith.reports.rtl_hash import rtl_hash
from loralith.shapes import peers, plots, published_systems
from loralith.shapes.published_models import BESIDE_LORA

__all__ = ["PICTURES", "figures", "page", "pictures", "read_again", "title"]


PICTURES = {
    "use": "Use of the array by layer and rank, beside an ideal fixed output-stationary array",
    "roofline": "Use of the array over multiply-accumulates per byte",
    "cycles": "Where the cycles went",
}


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
            used.append(row["macs"] / (row["redmule"] * math.prod(peers.REDMULE_ARRAY)))
            sizes = " | ".join(str(row[name]) for name in ("layer", "product", "M", "N", "K"))
            lines.append(f"| {sizes} | {' | '.join(f'{share:.1%}' for share in used)} |")
        if by_product["scalesim_runs"]:
            lines += ["", f"SCALE-Sim itself was run {by_product['scalesim_runs']} times, on the smallest products, and said the same."]
    return lines


def pictures(stem: Path) -> dict[str, Path]:
    """The files of `PICTURES` that `--output STEM` writes beside STEM.json and STEM.md."""
    page = named(stem, ".json", ".md")[1]
    return {name: page.with_name(f"{page.stem}-{name}.png") for name in PICTURES}


def figures(folder: Path, output: Path | None, *, scalesim: bool) -> dict[str, Any]:
    """Of the results in ``folder``, with pictures beside ``output``.

    Raises LoralithError for a folder without results, and for a file in it that is none."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise LoralithError(f"no results in {folder}; `loralith bench shapes --output {folder}/NAME` writes one")
    runs = [_run(path) for path in paths]
    runs.sort(key=lambda run: (run["rows"] * run["cols"], run["model"], run["subset"], run["rank"]))
    if output:
        files = pictures(output)
        for name, figure in (("use", plots.heat_map(runs)), ("roofline", plots.roofline(runs)), ("cycles", plots.stalls(runs))):
            write_bytes(plots.png(figure), files[name])
            tell(f"wrote {files[name]}")
    by_product = published_systems.by_product(runs, scalesim=scalesim)
    return {"rtl": rtl_hash(), "runs": runs, "peers": peers.sources(), "others": published_systems.totals(runs), "by_product": by_product}


RUN = ("rows", "cols", "model", "subset", "rank", "macs", "cycles", "utilization", "fixed_os_utilization", "speedup_over_fixed_os")
RUN += ("weight_stationary_utilization", "measured_cycles_share", "layers", "commit", "command", "date")
LAYER = ("name", "count", "utilization", "measured", "model_error", "wait_load", "wait_store", "bytes_read", "bytes_written", "dx")
"""What a result and its layers must have; a fixed dataflow's closed form has no waits and is no result of this report."""


def _run(path: Path) -> dict[str, Any]:
    """A result of `loralith bench shapes`. Raises LoralithError."""
    try:
        run = read_json(path)
    except FileError as error:
        raise LoralithError(str(error)) from None
    missing = [name for name in RUN if not isinstance(run, dict) or name not in run]
    if not missing and isinstance(run["layers"], list):
        missing = [f"layers.{name}" for layer in run["layers"] for name in LAYER if not isinstance(layer, dict) or name not in layer]
    if missing:
        raise LoralithError(f"{path} is no result of `loralith bench shapes`: it has no {missing[0]}; give the folder of its outputs")
    return run


def title(figures: dict[str, Any]) -> str:
    return "The array's use on published shapes"


def _share_of_a_step(runs: list[dict[str, Any]]) -> list[str]:
    """How little of a training step these layers are."""
    shares = {run["model"]: run["macs"] / (run["macs"] + BESIDE_LORA[run["model"]]) for run in reversed(runs) if run["subset"] == "all"}
    ranks = {run["model"]: run["rank"] for run in reversed(runs) if run["subset"] == "all"}
    words = [f"{share:.0%} of {model}'s at rank {ranks[model]}" for model, share in sorted(shares.items())]
    return [
        "These are LoRA layers alone, a step's as one list. Of the multiply-accumulates of a training step (`loralith plan`) they are",
        f"{' and '.join(words) or 'a part'}; convolutions, attention's products and other linear layers are not on this page.",
    ]


def _rtl_of(run: dict[str, Any]) -> str:
    """A run of the cycle model alone has none."""
    return rtl_text(run) if "rtl" in run else ""


def _rtl(figures: dict[str, Any]) -> list[str]:
    """How many rows are of which RTL."""
    counts = Counter(_rtl_of(run) for run in figures["runs"] if "rtl" in run)
    told = [f"{count} of `{rtl}`" for rtl, count in counts.most_common() if rtl != "unknown"]
    told += [f"{counts['unknown']} of RTL with changes that were not committed"] * bool(counts["unknown"])
    same = counts[figures["rtl"]]
    others = "" if same == len(figures["runs"]) else " The others are older: their cycles may have changed since."
    return [
        f"The last column is the RTL of a row: {', '.join(told) or 'none was run on RTL'}.",
        f"The RTL beside this page is `{figures['rtl']}`, of which {same or 'none'} of the rows are.{others}",
    ]


def page(figures: dict[str, Any]) -> list[str]:
    lines = [
        "Useful multiply-accumulates over (cycles x elements), forward and backward, one image, INT8 results; memory answers after 100",
        "cycles and moves one bus word per cycle each way. *Fixed OS* is an ideal: output stationary without fold, swap, chain or fusion,",
        "its drain hidden, no fill, no bus. *WS*: weight stationary in closed form, the better operand of each product staying.",
        "*Model error* is the largest error of the cycle model against the counters of a distinct shape.",
        "",
        *_share_of_a_step(figures["runs"]),
        "",
        *_rtl(figures),
        "",
        "| array | model | layers | rank | MACs | cycles | used | fixed OS | speed-up | WS | measured | model error | commit | RTL |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in figures["runs"]:
        off = max((abs(layer["model_error"]) for layer in run["layers"] if layer["measured"]), default=None)
        lines.append(
            f"| {run['rows']} x {run['cols']} | {run['model']} | {run['subset']} | {run['rank']} | {run['macs']:,} | {run['cycles']:,} "
            f"| {run['utilization']:.2%} | {run['fixed_os_utilization']:.2%} | {run['speedup_over_fixed_os']:.3f} "
            f"| {run['weight_stationary_utilization']:.2%} "
            f"| {run['measured_cycles_share']:.0%} | {'' if off is None else f'{off:.2%}'} | {run['commit']} | {_rtl_of(run)} |"
        )
    lines += ["", *(f"![{text}](shapes-{name}.png)" for name, text in PICTURES.items()), "", *_peers(figures)]
    for run in figures["runs"]:
        lines += [
            "",
            f"## {run['rows']} x {run['cols']}, {run['model']}, {run['subset']}, rank {run['rank']}",
            "",
            f"`{run['command']}`, {run['date']}",
            "",
            "| layer | count | used | fixed OS | waits for load | for store | read MB | written MB | model error |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {layer['name']} | {layer['count']} | {layer['utilization']:.2%} | {layer['fixed_os_utilization']:.2%} "
            f"| {layer['wait_load']:.2%} | {layer['wait_store']:.2%} "
            f"| {layer['bytes_read'] / 1e6:,.0f} | {layer['bytes_written'] / 1e6:,.0f} | {layer['model_error']:+.2%} |"
            for layer in run["layers"]
        ]
        if run["subset"] == "all":
            again, read = read_again(run), sum(layer["bytes_read"] for layer in run["layers"])
            lines += [
                "",
                "Q, K and V of self attention read X each for itself, forward and for dA: one list for the three would read"
                f" {again / 1e6:,.0f} MB less of {read / 1e6:,.0f} MB ({again / read:.1%}), and take as many cycles of the array.",
            ]
    return lines


OF_A_BLOCK = 6
"""Linears of a transformer block that read the image: self attention's Q, K, V and output, cross attention's Q and output."""


def read_again(run: dict[str, Any]) -> int:
    """Bytes of X that self attention's K and V read after Q, in a pass forward and in a gradient."""
    image = [layer for layer in run["layers"] if layer["dx"]]
    return sum(2 * 2 * layer["count"] // OF_A_BLOCK * layer["tokens"] * layer["inputs"] for layer in image)
