"""A placed netlist of a few cells, as nextpnr writes it, with the SDF beside it."""

from __future__ import annotations

from typing import Any

from loralith.placement import Grid, relocate
from loralith.placement.timing import Delays, Timing, read_sdf

GRID = Grid(range(1, 61), list(range(1, 41)))


def wire_ps(a: tuple[int, int], b: tuple[int, int]) -> int:
    dx, dy = abs(a[0] - b[0]), abs(a[1] - b[1])
    return 80 * (6 + max(dx - 5, 0) + max(dy - 5, 0) + 2 * (min(dx, 5) + min(dy, 5)))


def routed_ns(ps: float) -> float:
    return relocate.ROUTED_OFFSET_NS + relocate.ROUTED_SCALE * ps / 1000


class Design:
    """Cells at places and wires between their pins, as nextpnr writes them, and the SDF that it writes beside."""

    def __init__(self) -> None:
        self.module: dict[str, Any] = {"cells": {}}
        self.wires: list[tuple[str, str]] = []

    def cell(self, name: str, kind: str, place: tuple[int, int, str], nets: dict[str, int], mode: str | None = None) -> None:
        x, y, slot = place
        self.module["cells"][name] = {
            "type": kind,
            "parameters": {"MODE": mode} if mode else {},
            "attributes": {"NEXTPNR_BEL": f"X{x}/Y{y}/{slot}"},
            "port_directions": {port: "output" if port in ("Q", "F", "OFX") else "input" for port in nets},
            "connections": {port: [net] for port, net in nets.items()},
        }

    def lut(self, name: str, place: tuple[int, int, str], nets: dict[str, int], mode: str | None = None) -> None:
        self.cell(name, "TRELLIS_COMB", place, nets, mode)

    def flip_flop(self, name: str, place: tuple[int, int, str], nets: dict[str, int]) -> None:
        self.cell(name, "TRELLIS_FF", place, {"CLK": 0, **nets})

    def block(self, name: str, x: int, y: int, nets: dict[str, int]) -> None:
        """A multiplier with registers: it stays where it is."""
        self.cell(name, "MULT18X18D", (x, y, "MULT18_0"), {"CLK": 0, **nets})

    def at(self, name: str) -> tuple[int, int, str]:
        x, y, slot = self.module["cells"][name]["attributes"]["NEXTPNR_BEL"].split("/")
        return int(x[1:]), int(y[1:]), slot

    def delays(self) -> Delays:
        lines = []
        for source, sink in self.wires:
            ends = self.at(source.split("/")[0]), self.at(sink.split("/")[0])
            own = ends[0][:2] == ends[1][:2] and sink.endswith(("/DI", "/B"))
            lines.append(f"(INTERCONNECT {source} {sink} ({0 if own else wire_ps(ends[0][:2], ends[1][:2])}) (0))")
        for name, cell in self.module["cells"].items():
            lines.append(f"(INSTANCE {name})")
            if cell["type"] != "TRELLIS_COMB":
                lines.append("(IOPATH (posedge CLK) Q (500) (500))")
                lines += [
                    f"(SETUPHOLD (posedge {port}) (posedge CLK) (0) (0))" for port in ("DI", "M", "CE") if port in cell["connections"]
                ]
            else:
                lines += [f"(IOPATH {port} F (240) (240))" for port in "ABCD" if port in cell["connections"]]
        return read_sdf(lines)

    def relocate(self, period_ns: float) -> tuple[relocate.Relocation, dict]:
        delays = self.delays()
        done = relocate.relocate(self.module, delays, GRID, period_ns)
        return done, Timing(delays).report(period_ns)


def detour() -> Design:
    """Two blocks side by side and the LUT between them at the other end of the part."""
    design = Design()
    design.block("a", 10, 10, {"M": 1, "Q": 2})
    design.lut("f", (55, 38, "SLICEA.K0"), {"A": 2, "F": 3})
    design.block("b", 12, 10, {"M": 3})
    design.wires = [("a/Q", "f/A"), ("f/F", "b/M")]
    return design


def full(design: Design, free: tuple[int, int, str]) -> None:
    """LUTs that nothing is connected to on all LUTs' places but one."""
    used = {tuple(design.at(name)) for name in design.module["cells"]} | {free}
    for x in GRID.columns:
        for y in GRID.rows:
            for slice in "ABCD":
                for half in "01":
                    if (place := (x, y, f"SLICE{slice}.K{half}")) not in used:
                        design.lut(f"filler_{x}_{y}_{slice}{half}", place, {})


def far_pair() -> Design:
    """Two blocks, and far from both a LUT with its flip-flop, which a path goes through."""
    design = Design()
    design.block("a", 10, 10, {"M": 1, "Q": 2})
    design.lut("f", (50, 30, "SLICEB.K1"), {"A": 2, "F": 3})
    design.flip_flop("c", (50, 30, "SLICEB.FF1"), {"DI": 3, "Q": 4})
    design.block("b", 12, 10, {"M": 4})
    design.wires = [("a/Q", "f/A"), ("f/F", "c/DI"), ("c/Q", "b/M")]
    return design
