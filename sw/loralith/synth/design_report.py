"""The figures as a JSON-ready object, and as a page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from .board import RESOURCES
from .flow import FLOWS
from .netlist import Netlist
from .placer import Placement
from .routing import Arc, Routing
from .target import Target

__all__ = ["MOST_OF_THE_PART", "best_placement", "markdown", "summary"]

MOST_OF_THE_PART = 0.9
"""A fuller part routes badly: `fits` is false."""
LATE_SHOWN = 40
"""Lines of the page's table of late paths."""


_ESTIMATE = "**An estimate by Yosys.** The part's own tool packs otherwise; nothing was placed or routed."


def best_placement(placements: Sequence[Placement]) -> Placement:
    """The placement to route: the one with the fewest late end points, ties by wire length."""
    return min(placements, key=lambda placement: (placement.late_points, placement.wire_tiles))


def summary(
    target: Target,
    netlist: Netlist,
    routings: Sequence[Routing] = (),
    placements: Sequence[Placement] = (),
    *,
    commit: str = "",
    command: str = "",
    rtl: str = "",
) -> dict[str, Any]:
    """JSON-ready. `lut`, `ff`, `dsp` and `bram` are as placed, or as synthesized without a routing; the harness counts.

    `estimate`: Yosys's counts for a part that another tool places and routes. `fits`: no resource over `MOST_OF_THE_PART` of the part,
    except multipliers, of which all may be used. `fmax_mhz`, `meets` and the critical path are the best seed's, and null without a routing.
    `placed`: of `placements` the one that was routed, or else the `best_placement`; null without one. `wire_tiles` and `expected_mhz`: of
    all, by seed.
    `rounds`: of the best seed's routing; `late_routed`: what is late in the best one.
    """
    flow = FLOWS[target.board.tool]
    best = max(routings, key=lambda r: r.worst_mhz, default=None)
    routed = [placement for placement in placements if best and placement.seed == best.seed]
    placed = best_placement(routed or placements) if placements else None
    used = best.used if best else netlist.total
    available = target.board.available
    share = {r: used[r] / available[r] for r in RESOURCES}
    fits = all(share[r] <= (1 if r == "dsp" else MOST_OF_THE_PART) for r in RESOURCES)
    fmax = best.worst_mhz if best else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit,
        "rtl": rtl,
        "command": command,
        "tools": [netlist.tool, *([either.tool] if (either := best or placed) else [])],
        "board": target.board.name,
        "part_number": f"{target.board.part}-{target.board.speed}{target.board.package}",
        "config": target.config.as_dict(),
        "part": target.part,
        "estimate": not flow.places,
        "units": flow.units,
        "fits": fits,
        "fmax_mhz": fmax,
        "target_mhz": target.frequency_mhz,
        "meets": None if fmax is None else fmax >= target.frequency_mhz,
        **{r: used[r] for r in RESOURCES},
        "available": dict(available),
        "share": {r: round(share[r], 4) for r in RESOURCES},
        "latches": netlist.latches,
        "peak_gmacs": None if fmax is None else round(target.peak_macs * fmax / 1000, 3),
        "limit": _limit(share, best, flow.units),
        "reported_mhz": best.reported_mhz if best else None,
        "clocks_mhz": best.fmax_mhz if best else {},
        "rounds": [asdict(entry) for entry in best.rounds] if best else [],
        "late_routed": [asdict(entry) for entry in best.late] if best else [],
        "wires": best.wires if best else None,
        "seeds": {str(r.seed): {"fmax_mhz": r.worst_mhz, "seconds": r.seconds} for r in routings},
        "critical_path": [{"kind": a.kind, "delay_ns": a.delay_ns, "signal": a.signal} for a in best.critical_path] if best else [],
        "placed": asdict(placed) if placed else None,
        "wire_tiles": {str(p.seed): p.wire_tiles for p in placements},
        "expected_mhz": {str(p.seed): p.expected_mhz for p in placements},
        "synthesis_seconds": netlist.seconds,
        "modules": netlist.modules,
        "cells": netlist.cells,
    }


def _limit(share: dict[str, float], best: Routing | None, units: dict[str, str]) -> str:
    fullest = max(RESOURCES, key=lambda r: share[r])
    area = f"area: {units[fullest]}, {share[fullest]:.0%} of the part"
    if best is None or not best.critical_path:
        return area
    path = best.critical_path
    whole = sum(arc.delay_ns for arc in path)
    wires = sum(arc.delay_ns for arc in path if arc.kind == "routing")
    return f"{area}; clock: {path[0].signal} to {path[-1].signal}, {whole:.2f} ns, {wires / whole:.0%} of it wires"


def markdown(figures: dict[str, Any]) -> str:
    """A page of `summary`'s figures."""
    config = figures["config"]
    lines = [
        f"# {config['name']} ({figures['part']}) on {figures['board']}",
        "",
        f"{config['rows']} x {config['cols']} elements on {figures['part_number']}. {figures['date']},"
        f" commit {figures['commit'] or 'unknown'}, RTL {figures['rtl'] or 'unknown'}, {', '.join(figures['tools'])}.",
        *(
            ["", "**An estimate by Yosys.** The part's own tool packs otherwise; nothing was placed or routed."]
            if figures["estimate"]
            else []
        ),
        "",
        "```",
        figures["command"],
        "```",
        "",
        "| figure | value | of the part |",
        "|---|---|---|",
        *(f"| {figures['units'][r]} | {figures[r]:,} | {figures['share'][r]:.1%} of {figures['available'][r]:,} |" for r in RESOURCES),
        f"| latches | {figures['latches']} | |",
    ]
    if figures["fmax_mhz"] is None:
        lines.append(f"| fmax | {'not estimated' if figures['estimate'] else 'not placed and routed'} | |")
    else:
        seeds = ", ".join(f"seed {seed}: {entry['fmax_mhz']:.1f}" for seed, entry in figures["seeds"].items())
        lines += [
            f"| fmax | {figures['fmax_mhz']:.1f} MHz ({seeds}) | target {figures['target_mhz']:g} MHz |",
            f"| in nextpnr's own report | {figures['reported_mhz']:.1f} MHz | the slower half's delay for both halves of a carry chain |",
            f"| peak | {figures['peak_gmacs']:.2f} GMAC/s | |",
        ]
    if figures["rounds"]:
        late = sum(group["count"] for group in figures["late_routed"])
        lines.append(f"| late end points after routing | {late:,} | target {figures['target_mhz']:g} MHz |")
    if figures["wires"]:
        slope, offset_ns = figures["wires"]
        lines.append(f"| routed wire delay, fitted | {slope:.2f} x the placer's estimate + {offset_ns:.2f} ns | |")
    placed = figures["placed"]
    if placed:
        lines += [
            f"| predicted after placement, seed {placed['seed']} | {placed['expected_mhz']:.1f} MHz | {_others(figures, placed['seed'])} |",
            f"| predicted before relocation of {placed['moved']:,} units | {placed['before_mhz']:.1f} MHz | |",
            f"| late end points after placement | {placed['late_points']:,} of {placed['end_points']:,}"
            f" | target {figures['target_mhz']:g} MHz |",
            f"| wire length, half perimeters | {_by_seed(figures['wire_tiles'])} | |",
        ]
    lines += ["", f"What limits: {figures['limit']}.", "", "## Modules", "", "Without their submodules, as synthesized.", ""]
    lines += ["| module | LUT | flip-flops | multipliers | block RAMs |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {c['lut']:,} | {c['ff']:,} | {c['dsp']} | {c['bram']} |" for name, c in figures["modules"].items() if any(c.values())
    ]
    if figures["critical_path"]:
        path = [Arc(**arc) for arc in figures["critical_path"]]
        lines += ["", "## Critical path", "", "| step | ns | signal |", "|---|---|---|"]
        lines += [f"| {arc.kind} | {arc.delay_ns:.2f} | {arc.signal} |" for arc in path]
    if figures["rounds"]:
        lines += [
            "",
            "## Rounds of routing",
            "",
            "The first routes all nets; each later one rips up and reroutes late paths.",
            "",
        ]
        lines += ["| round | MHz | late end points | units moved | wires rerouted |", "|---|---|---|---|---|"]
        lines += [
            f"| {number} | {entry['fmax_mhz']:.1f} | {entry['late_points']:,} | {entry['moved']:,} | {entry['again']:,} |"
            for number, entry in enumerate(figures["rounds"])
        ]
    if figures["late_routed"]:
        lines += ["", "## Late after routing", "", "By module; the worst path of each.", "", *_late(figures["late_routed"])]
    if placed and placed["late"]:
        lines += ["", "## Late after placement", "", "By module, with predicted wire delays; the worst path of each."]
        lines += ["", *_late(placed["late"])]
    return "\n".join(lines) + "\n"


def _by_seed(tiles: dict[str, int]) -> str:
    return ", ".join(f"seed {seed}: {length:,} tiles" for seed, length in tiles.items())


def _others(figures: dict[str, Any], seed: int) -> str:
    return ", ".join(f"seed {other}: {mhz:.1f}" for other, mhz in figures["expected_mhz"].items() if other != str(seed))


def _late(groups: list[dict[str, Any]]) -> list[str]:
    lines = ["| from | to | pin | end points | slack ns | wires ns | logic ns | wires |", "|---|---|---|---|---|---|---|---|"]
    return lines + [
        f"| {late['source']} | {late['sink']} | {late['pin']} | {late['count']:,} | {late['slack_ns']:.2f} | {late['wires_ns']:.2f} "
        f"| {late['logic_ns']:.2f} | {late['wires']} |"
        for late in groups[:LATE_SHOWN]
    ]
