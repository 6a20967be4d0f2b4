"""Place one seed without routing it, and what clock nextpnr then expects: minutes, where routing takes hours.

nextpnr writes every cell's delay, and of every wire the delay that it expects, as SDF; the paths through them are found here.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from .error import SynthError
from .netlist import Netlist
from .routing import designer, placed
from .target import Target

__all__ = ["LatePaths", "Placement", "place", "read_sdf", "wire_length"]

Pin = tuple[str, str]
"""Cell and port."""


@dataclass(frozen=True)
class LatePaths:
    """Those from one module to another's ports of one kind: how many end points, and the latest one's parts in ns."""

    source: str
    sink: str
    pin: str
    count: int
    slack_ns: float
    wires_ns: float
    logic_ns: float
    wires: int


@dataclass(frozen=True)
class Placement:
    """A placed netlist by the delays that its placer expects.

    Attributes:
        expected_mhz: of the longest path between two clocked pins.
        end_points, late_points: clocked inputs; those that the period aimed at is too short for.
        late: by modules, the most points first.
        wire_tiles: half perimeters of all nets, in tiles: what the router has to find room for.
        seconds: time that nextpnr took. tool: name and version.
    """

    seed: int
    expected_mhz: float
    end_points: int
    late_points: int
    late: list[LatePaths]
    wire_tiles: int
    seconds: float
    tool: str


def place(target: Target, netlist: Netlist, seed: int) -> Placement:
    """The placement of `netlist` with `seed`, from the netlist's folder where the same was made before. Raises SynthError."""
    run = placed(target, netlist, seed)
    kept = run.stem.with_suffix(".late.json")
    if not kept.is_file():
        with run.stem.with_suffix(".sdf").open(encoding="utf-8") as file:
            found = read_sdf(file, 1000 / target.frequency_mhz)
        kept.write_text(json.dumps(found | {"late": [asdict(late) for late in found["late"]]}), encoding="utf-8")
    content = json.loads(kept.read_text(encoding="utf-8"))
    content["late"] = [LatePaths(**late) for late in content["late"]]
    wires = wire_length(run.stem.with_suffix(".placed.log").read_text(encoding="utf-8", errors="replace"))
    return Placement(seed=seed, seconds=run.seconds, tool=run.tool, wire_tiles=wires, **content)


def wire_length(log: str) -> int:
    """The last wire length of a placer's log. Raises SynthError where there is none."""
    found = re.findall(r"wirelen = (\d+)", log)
    if not found:
        raise SynthError("nextpnr's log has no wire length; `pip install 'loralith[fpga]'` installs the version that is known to tell it")
    return int(found[-1])


def read_sdf(lines: Iterable[str], period_ns: float) -> dict:
    """The figures of a `Placement` from nextpnr's SDF, one statement per line, slowest values.

    Raises SynthError where nothing is clocked.
    """
    arcs: dict[Pin, list[tuple[Pin, float, bool]]] = defaultdict(list)  # (to, ns, is a wire)
    arrival: dict[Pin, float] = {}  # of clocked outputs; then of all
    setup: dict[Pin, float] = {}
    cell = ""
    for line in lines:
        text = line.strip()
        if text.startswith("(INSTANCE"):
            cell = _plain(text[9:-1].strip())
        elif match := re.match(r"\(IOPATH (?:\((?:posedge|negedge) (\S+)\)|(\S+)) (\S+) \(([^)]*)\)", text):
            clock, source, sink, delay = match.groups()
            if clock or source.startswith(("CLK", "WCK")):
                arrival[cell, sink] = _ns(delay)
            else:
                arcs[cell, source].append(((cell, sink), _ns(delay), False))
        elif match := re.match(r"\(SETUPHOLD \((?:posedge|negedge) (\S+)\) \((?:posedge|negedge) \S+\) \(([^)]*)\)", text):
            setup[cell, match[1]] = _ns(match[2])
        elif match := re.match(r"\(INTERCONNECT (\S+) (\S+) \(([^)]*)\)", text):
            arcs[_pin(match[1])].append((_pin(match[2]), _ns(match[3]), True))
    before: dict[Pin, tuple[Pin, float, bool]] = {}
    missing = Counter(sink for several in arcs.values() for sink, _, _ in several)
    ready = deque(pin for pin in {*arcs, *arrival} if not missing[pin])
    while ready:
        pin = ready.popleft()
        for sink, delay, wire in arcs.get(pin, ()):
            if pin in arrival and arrival[pin] + delay > arrival.get(sink, -1.0):
                arrival[sink] = arrival[pin] + delay
                before[sink] = (pin, delay, wire)
            missing[sink] -= 1
            if not missing[sink]:
                ready.append(sink)
    slacks = sorted((period_ns - time - arrival[pin], pin) for pin, time in setup.items() if pin in arrival)
    if not slacks:
        raise SynthError("nextpnr's SDF has no path between clocked pins")
    late: dict[tuple[str, str, str], list[LatePaths]] = defaultdict(list)
    for slack, pin in slacks:
        if slack >= 0:
            break
        steps, at = [], pin
        while at in before:
            at, delay, wire = before[at]
            steps.append((delay, wire))
        key = (_module(at[0]), _module(pin[0]), re.sub(r"\d+", "", pin[1]))
        wires = [delay for delay, wire in steps if wire]
        logic = sum(delay for delay, wire in steps if not wire)
        late[key].append(LatePaths(*key, 0, round(slack, 3), round(sum(wires), 3), round(logic, 3), len(wires)))
    groups = [replace(paths[0], count=len(paths)) for paths in late.values()]
    return {
        "expected_mhz": round(1000 / (period_ns - slacks[0][0]), 2),
        "end_points": len(slacks),
        "late_points": sum(slack < 0 for slack, _ in slacks),
        "late": sorted(groups, key=lambda group: (-group.count, group.slack_ns)),
    }


def _ns(delay: str) -> float:
    """The slowest of three in ps."""
    return max(float(value) for value in delay.split(":") if value) / 1000


def _plain(name: str) -> str:
    return name.replace("\\", "")


def _pin(text: str) -> Pin:
    cell, _, port = _plain(text).rpartition("/")
    return cell, port


def _module(cell: str) -> str:
    """The module of a cell, without the numbers of its twins."""
    return re.sub(r"\$?\d+", "", designer(cell).rpartition(".")[0]) or "harness"
