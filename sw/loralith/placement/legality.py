"""Legality check of a placed netlist: the packing rules of an ECP5's slices and tiles.

nextpnr's placer keeps these rules, but does not check a placement that it reads: its router would search for hours for routes that do not
exist. `slices.py` states the rules in another form to find free slices; this check is independent of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

__all__ = ["problems"]

_SLOT = re.compile(r"X(\d+)/Y(\d+)/SLICE([ABCD])\.(K0|K1|FF0|FF1|RAMW)")
_CONTROL_SETS_PER_TILE = 2


def problems(module: dict[str, Any]) -> list[str]:
    """One line for each rule that a tile of the flat `module` of a placed netlist breaks."""
    return list(_Placement(module).problems())


class _Placement:
    def __init__(self, module: dict[str, Any]) -> None:
        self.cells = module["cells"]
        self.tiles: dict[tuple[int, int], dict[tuple[str, str], str]] = defaultdict(dict)
        self.driver: dict[int, tuple[str, str]] = {}
        self.overlaps: list[str] = []
        taken: set[str] = set()
        for name, cell in self.cells.items():
            place = cell["attributes"].get("NEXTPNR_BEL", "")
            if place and place in taken:
                self.overlaps.append(f"{place} has two cells, one of them {name}")
            taken.add(place)
            if match := _SLOT.fullmatch(place):
                self.tiles[int(match[1]), int(match[2])][match[3], match[4]] = name
            for port, direction in cell["port_directions"].items():
                if direction == "output":
                    self.driver.update((bit, (name, port)) for bit in cell["connections"].get(port, []))

    def problems(self) -> Iterator[str]:
        yield from self.overlaps
        for (x, y), cells in self.tiles.items():
            for slice in "ABCD":
                here = {slot: name for (where, slot), name in cells.items() if where == slice}
                for problem in (*self._kinds(slice, here), *self._flip_flops(here)):
                    yield f"X{x}/Y{y}/SLICE{slice}: {problem}"
            for what, sets in (("clocks", self._clocks(cells)), ("resets and write enables", self._resets(cells))):
                if len(sets) > _CONTROL_SETS_PER_TILE:
                    yield f"X{x}/Y{y}: {len(sets)} {what}, of which a tile has {_CONTROL_SETS_PER_TILE}"

    def _net(self, name: str, port: str) -> int | None:
        return (self.cells[name]["connections"].get(port) or [None])[0]

    def _mode(self, name: str, parameter: str) -> Any:
        return self.cells[name]["parameters"].get(parameter)

    def _kinds(self, slice: str, here: dict[str, str]) -> Iterator[str]:
        modes = [self._mode(here[slot], "MODE") if slot in here else None for slot in ("K0", "K1")]
        for mode in ("CCU2", "DPRAM"):
            if modes.count(mode) == 1:
                yield f"half of it is a {mode}, which takes both"
        if "DPRAM" in modes and slice not in "AB":
            yield "a DPRAM, which only SLICEA and SLICEB can be"
        if "RAMW" in here and any(self._mode(here[slot], "MODE") != "RAMW_BLOCK" for slot in ("K0", "K1") if slot in here):
            yield "a memory's writing half and a LUT"
        if "K0" in here and self._net(here["K0"], "OFX") is not None:
            if "K1" not in here or self._net(here["K0"], "F1") != self._net(here["K1"], "F"):
                yield f"{here['K0']} is a multiplexer, and the LUT beside it is not its own"

    def _flip_flops(self, here: dict[str, str]) -> Iterator[str]:
        shared = set()
        for half in "01":
            if (name := here.get(f"FF{half}")) is None:
                continue
            modes = (self._mode(name, mode) for mode in ("CLKMUX", "CEMUX", "LSRMUX", "SRMODE", "GSR"))
            shared.add((*(self._net(name, port) for port in ("CLK", "CE", "LSR")), *modes))
            lut = here.get(f"K{half}")
            if (net := self._net(name, "DI")) is not None and self.driver.get(net) not in ((lut, "F"), (lut, "OFX")):
                yield f"{name} takes DI from elsewhere"
            if self._net(name, "M") is not None and lut is not None and self._selects(lut):
                yield f"{name} takes M, and so does a multiplexer"
        if len(shared) > 1:
            yield "two flip-flops of different clock, enable or reset"

    def _selects(self, lut: str) -> bool:
        return any(self._net(lut, port) is not None for port in ("OFX", "FXA", "FXB"))

    def _clocks(self, cells: dict[tuple[str, str], str]) -> set[tuple]:
        return self._sets(cells, "CLK", ("CLKMUX",)) | self._sets(cells, "WCK", ("WCKMUX",))

    def _resets(self, cells: dict[tuple[str, str], str]) -> set[tuple]:
        return self._sets(cells, "LSR", ("LSRMUX", "SRMODE")) | self._sets(cells, "WRE", ("WREMUX",))

    def _sets(self, cells: dict[tuple[str, str], str], port: str, modes: tuple[str, ...]) -> set[tuple]:
        found = ((self._net(name, port), *(self._mode(name, mode) for mode in modes)) for name in cells.values())
        return {key for key in found if key[0] is not None}
