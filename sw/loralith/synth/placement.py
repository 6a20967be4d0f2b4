"""Place one seed without routing it, and what clock that foretells: minutes, where routing takes longer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from .error import SynthError
from .netlist import Netlist
from .routing import placed
from .target import Target
from .timing import LatePaths

__all__ = ["Placement", "place", "wire_length"]


@dataclass(frozen=True)
class Placement:
    """A placed netlist by the delays that its placer expects, times `relocate.ROUTED`.

    Attributes:
        expected_mhz: of the longest path between two clocked pins.
        before_mhz: the same before cells of late paths moved. moved: how many did.
        end_points, late_points: clocked inputs; those that the period aimed at is too short for.
        late: by modules, the most points first.
        wire_tiles: half perimeters of all nets, in tiles: what the router has to find room for.
        seconds: time that nextpnr took. tool: name and version.
    """

    seed: int
    expected_mhz: float
    before_mhz: float
    moved: int
    end_points: int
    late_points: int
    late: list[LatePaths]
    wire_tiles: int
    seconds: float
    tool: str


def place(target: Target, netlist: Netlist, seed: int) -> Placement:
    """The placement of `netlist` with `seed`, from the netlist's folder where the same was made before. Raises SynthError."""
    run = placed(target, netlist, seed)
    content = json.loads(run.stem.with_suffix(".late.json").read_text(encoding="utf-8"))
    content["late"] = [LatePaths(**late) for late in content["late"]]
    wires = wire_length(run.stem.with_suffix(".placed.log").read_text(encoding="utf-8", errors="replace"))
    return Placement(seed=seed, seconds=run.seconds, tool=run.tool, wire_tiles=wires, **content)


def wire_length(log: str) -> int:
    """The last wire length of a placer's log. Raises SynthError where there is none."""
    found = re.findall(r"wirelen = (\d+)", log)
    if not found:
        raise SynthError("nextpnr's log has no wire length; `pip install 'loralith[fpga]'` installs the version that is known to tell it")
    return int(found[-1])
