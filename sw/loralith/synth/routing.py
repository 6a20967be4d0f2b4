"""Routes a placed seed, rips up and reroutes its late paths, and reads nextpnr's report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from loralith.placement import reroute, source_text, timing, wire_delays
from loralith.placement.names import designer

from .board import RESOURCES
from .netlist import Netlist
from .nextpnr import Run, nextpnr, part_words, read_delays, run_step, top_module
from .placer import placed
from .synth_error import SynthError
from .target import Target

__all__ = ["Arc", "Round", "Routing", "critical_path", "read_report", "route"]

_CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}

ROUNDS = 6
"""Most rounds of rip-up and reroute."""

_REROUTE = hashlib.sha256(source_text(reroute).encode()).hexdigest()[:4]
"""Hash of the pass between rounds: part of the names of later rounds' files."""
_CARRY_NS = 0.1
"""A logic arc faster than any LUT is two bits of a carry chain."""


@dataclass(frozen=True)
class Arc:
    """An arc of a path: `kind` as in nextpnr's report (clk-to-q, logic, routing, setup) or "carry", and its signal."""

    kind: str
    delay_ns: float
    signal: str


@dataclass(frozen=True)
class Round:
    """A round's clock and late end points; after the first round also how many units moved and wires were routed `again`."""

    fmax_mhz: float
    late_points: int
    moved: int = 0
    again: int = 0


@dataclass(frozen=True)
class Routing:
    """A placed and routed netlist.

    Attributes:
        seed: of the placement.
        fmax_mhz: by clock. worst_mhz: the slowest one. reported_mhz: the same in nextpnr's report, see `route`.
        used: each of `RESOURCES` as placed, the harness included.
        critical_path: of the slowest clock, from flip-flop to flip-flop.
        seconds: run time of nextpnr. tool: name and version.
        rounds: all rounds of routing. round: index of the best one, which this is. late: its late paths by modules.
        wires: slope and offset (ns) of routed wire delays against the placer's estimates in the first round (`wire_delays.fit_line`):
            measured counterparts of `relocate.ROUTED_SCALE` and `ROUTED_OFFSET_NS`.
        config: the file from which `ecppack` makes the bitstream.
    """

    seed: int
    fmax_mhz: dict[str, float]
    reported_mhz: float
    used: dict[str, int]
    critical_path: list[Arc]
    seconds: float
    tool: str
    rounds: list[Round] = field(default_factory=list)
    round: int = 0
    late: list[timing.LatePaths] = field(default_factory=list)
    wires: tuple[float, float] | None = None
    config: Path | None = None

    @property
    def worst_mhz(self) -> float:
        return min(self.fmax_mhz.values())


def route(target: Target, netlist: Netlist, seed: int) -> Routing:
    """The routing of `netlist` with `seed`, from the netlist's folder where it was made before.

    While paths are late and rounds gain, but `ROUNDS` times at most, cells of late paths are relocated, and their wires and detours ripped
    up and rerouted, with all other nets locked (`reroute.py`). A round that the router cannot finish ends them; those before it count.

    The clock is computed from the routed wire delays and the cell delays of the run that packed the design: for a packed netlist that it
    reads, nextpnr takes the slower half's delay for both halves of a carry chain. Raises SynthError and PlacementError.
    """
    start = placed(target, netlist, seed)
    command, seconds = nextpnr()[0], start.seconds
    words = [*part_words(target), "--no-pack", "--no-place", "--detailed-timing-report"]
    files = {"--json": ".placed", "--report": ".report.json", "--textcfg": ".config", "--sdf": ".routed.sdf", "--write": ".routed"}
    run = start
    found: list[tuple[Run, Round]] = []
    for number in range(ROUNDS + 1):
        before, change = run, lambda: None
        if number:
            run = replace(run, stem=start.stem.with_name(f"{start.stem.name}-{_REROUTE}-round{number}"))
            change = partial(_prepare_reroute, target, start, before, run)
        try:
            run = run_step(target, command, run, "routed", words, files, change)
        except SynthError as error:
            if not number:
                raise
            target.progress(f"reroute: round {number} found no routes, and the round before stays: {str(error).splitlines()[0]}")
            break
        seconds += run.seconds
        found.append((run, _round(target, start, run)))
        if number > 1:  # the first round's stays, for a later version to start from
            before.stem.with_suffix(".routed").unlink(missing_ok=True)
        target.progress(f"routed: {found[-1][1].fmax_mhz} MHz, {found[-1][1].late_points} late end points")
        if found[-1][1].late_points == 0 or (number and not _gained(found[-2][1], found[-1][1])):
            break
    rounds = [entry for _, entry in found]
    number = max(range(len(rounds)), key=lambda i: (rounds[i].fmax_mhz, -rounds[i].late_points))
    run = found[number][0]
    content = json.loads(run.stem.with_suffix(".report.json").read_text(encoding="utf-8"))
    routing = read_report(content, seed=seed, seconds=round(seconds, 1), tool=run.tool)
    kept = json.loads(run.stem.with_suffix(".routed.json").read_text(encoding="utf-8"))
    return replace(
        routing,
        fmax_mhz=dict.fromkeys(routing.fmax_mhz, rounds[number].fmax_mhz),
        critical_path=_merged([Arc(**arc) for arc in kept["path"]]),
        late=[timing.LatePaths(**group) for group in kept["late"]],
        rounds=rounds,
        round=number,
        wires=_wires(start, found[0][0]),
        config=run.stem.with_suffix(".config"),
    )


def _wires(start: Run, run: Run) -> tuple[float, float]:
    """`Routing.wires`, kept in .wires.json."""
    kept = run.stem.with_suffix(".wires.json")
    if not kept.is_file():
        line = wire_delays.fit_line(*(read_delays(one.stem.with_suffix(end)) for one, end in ((start, ".sdf"), (run, ".routed.sdf"))))
        kept.write_text(json.dumps(line), encoding="utf-8")
    slope, offset_ns = json.loads(kept.read_text(encoding="utf-8"))
    return slope, offset_ns


def _gained(before: Round, after: Round) -> bool:
    return (after.fmax_mhz, -after.late_points) > (before.fmax_mhz, -before.late_points)


def _round(target: Target, start: Run, run: Run) -> Round:
    """The result of a round, kept in .routed.json with the critical path and the late paths."""
    kept = run.stem.with_suffix(".routed.json")
    if not kept.is_file():
        delays = _routed_delays(start, run)
        found = timing.Timing(delays).report(1000 / target.frequency_mhz)
        content = found | {"late": [asdict(late) for late in found["late"]], "path": [asdict(arc) for arc in critical_path(delays)]}
        kept.write_text(json.dumps(content), encoding="utf-8")
    content = json.loads(kept.read_text(encoding="utf-8"))
    rerouted = run.stem.with_suffix(".reroute.json")
    changes = json.loads(rerouted.read_text(encoding="utf-8")) if rerouted.is_file() else {}
    return Round(fmax_mhz=content["expected_mhz"], late_points=content["late_points"], **changes)


def _prepare_reroute(target: Target, start: Run, before: Run, run: Run) -> None:
    """Writes the .placed of `run`: the routed netlist of the run `before`, with the routes of its late paths ripped up."""
    assert target.board.grid is not None, "boards of tools that place have one"
    routed = before.stem.with_suffix(".routed")
    content = json.loads(routed.read_text(encoding="utf-8"))
    done, again = reroute.rip_up(top_module(content), _routed_delays(start, before), target.board.grid, 1000 / target.frequency_mhz)
    target.progress(f"reroute: {done.moved} units moved, {again} wires ripped up")
    run.stem.with_suffix(".placed").write_text(json.dumps(content), encoding="utf-8")
    run.stem.with_suffix(".reroute.json").write_text(json.dumps({"moved": done.moved, "again": again}), encoding="utf-8")


def _routed_delays(start: Run, run: Run) -> timing.Delays:
    return read_delays(run.stem.with_suffix(".routed.sdf")).with_cells_of(read_delays(start.stem.with_suffix(".sdf")))


def critical_path(delays: timing.Delays) -> list[Arc]:
    """The critical path. Raises PlacementError where nothing is clocked."""
    arcs, end = timing.Timing(delays).critical_path()
    first = delays.source[arcs[0]] if arcs else end
    path = [Arc("clk-to-q", float(delays.clock_to_q[first]), designer(delays.pins[first][0]))]
    for arc in arcs:
        path.append(Arc("routing" if delays.is_wire[arc] else "logic", float(delays.ns[arc]), designer(delays.pins[delays.source[arc]][0])))
    return [*path, Arc("setup", float(delays.setup[end]), designer(delays.pins[end][0]))]


def read_report(report: dict[str, Any], seed: int, seconds: float, tool: str) -> Routing:
    """Reads nextpnr's `--report`. Raises SynthError for a design without a clock."""
    fmax = {designer(clock): round(entry["achieved"], 2) for clock, entry in report["fmax"].items()}
    if not fmax:
        raise SynthError("nextpnr's report names no clock: nothing in the design is clocked")
    slowest = min(report["fmax"], key=lambda clock: report["fmax"][clock]["achieved"])
    paths = [p for p in report["critical_paths"] if p["from"] == p["to"] and slowest in p["from"]]
    path = _merged([Arc(arc["type"], arc["delay"], _signal(arc)) for p in paths[:1] for arc in p["path"]])
    used = {resource: report["utilization"].get(_CELLS[resource], {"used": 0})["used"] for resource in RESOURCES}
    return Routing(seed=seed, fmax_mhz=fmax, reported_mhz=min(fmax.values()), used=used, critical_path=path, seconds=seconds, tool=tool)


def _merged(arcs: list[Arc]) -> list[Arc]:
    """The path without wires of zero delay, and with the arcs of a carry chain joined into one of kind `carry`."""
    path: list[Arc] = []
    for arc in arcs:
        if arc.kind == "routing" and arc.delay_ns == 0:
            continue
        if arc.kind == "logic" and arc.delay_ns < _CARRY_NS:
            if path and path[-1].kind == "carry":
                arc = Arc("carry", path.pop().delay_ns + arc.delay_ns, arc.signal)
            else:
                arc = Arc("carry", arc.delay_ns, arc.signal)
        path.append(arc)
    return [Arc(arc.kind, round(arc.delay_ns, 3), arc.signal) for arc in path]


def _signal(arc: dict[str, Any]) -> str:
    return designer(arc.get("net") or arc["to"]["cell"])
