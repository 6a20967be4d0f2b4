"""Rules of an ECP5's slices and tiles, each broken once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loralith.placement import Grid, legality
from loralith.synth import placer
from loralith.synth.nextpnr import Run
from loralith.synth.synth_error import SynthError

OUTPUTS = {"Q", "F", "OFX"}


def cell(kind: str, place: str, mode: str | None = None, **nets: int) -> dict[str, Any]:
    return {
        "type": kind,
        "parameters": {"MODE": mode} if mode else {},
        "attributes": {"NEXTPNR_BEL": place},
        "port_directions": {port: "output" if port in OUTPUTS else "input" for port in nets},
        "connections": {port: [net] for port, net in nets.items()},
    }


def lut(slot: str, mode: str | None = None, tile: str = "X3/Y4", **nets: int) -> dict[str, Any]:
    return cell("TRELLIS_COMB", f"{tile}/SLICE{slot}", mode, **nets)


def flip_flop(slot: str, tile: str = "X3/Y4", **nets: int) -> dict[str, Any]:
    return cell("TRELLIS_FF", f"{tile}/SLICE{slot}", None, **nets)


LEGAL = {
    "a LUT and the flip-flop behind it": [lut("A.K0", A=1, F=2), flip_flop("A.FF0", CLK=0, CE=5, DI=2, Q=3)],
    "a flip-flop in front of a LUT of another net": [lut("A.K0", A=1, F=2), flip_flop("A.FF0", CLK=0, M=4, Q=3)],
    "a multiplexer of two LUTs and its flip-flop": [
        lut("B.K0", F=1, F1=2, M=3, OFX=4),
        lut("B.K1", F=2),
        flip_flop("B.FF0", CLK=0, DI=4, Q=5),
    ],
    "enables of four slices": [flip_flop(f"{slice}.FF0", CLK=0, CE=i, M=7, Q=10 + i) for i, slice in enumerate("ABCD")],
    "two resets": [flip_flop(f"{slice}.FF0", CLK=0, LSR=8 + i // 2, M=7, Q=10 + i) for i, slice in enumerate("ABCD")],
    "a memory, its writing half and a reset": [
        *(lut(f"A.K{i}", "DPRAM", WCK=0, WRE=1, F=20 + i) for i in (0, 1)),
        cell("TRELLIS_RAMW", "X3/Y4/SLICEC.RAMW"),
        lut("C.K0", "RAMW_BLOCK"),
        flip_flop("D.FF1", CLK=0, LSR=8, M=7, Q=10),
    ],
    "a chain": [lut("A.K0", "CCU2", F=1), lut("A.K1", "CCU2", F=2)],
    "the same in two tiles": [flip_flop("A.FF0", tile=tile, CLK=0, M=7, Q=i) for i, tile in enumerate(("X3/Y4", "X3/Y5"))],
    "a block elsewhere": [cell("DP16KD", "X3/Y4/EBR0", CLKA=1), cell("DCCA", "", CLKI=1)],
}
ILLEGAL = {
    "has two cells": [lut("A.K0", F=1), lut("A.K0", F=2)],
    "different clock, enable or reset": [flip_flop("A.FF0", CLK=0, CE=1, M=2, Q=3), flip_flop("A.FF1", CLK=0, CE=4, M=5, Q=6)],
    "3 clocks, of which a tile has 2": [flip_flop(f"{slice}.FF0", CLK=i, M=7, Q=10 + i) for i, slice in enumerate("ABC")],
    "3 resets and write enables": [
        *(lut(f"A.K{i}", "DPRAM", WCK=0, WRE=1, F=20 + i) for i in (0, 1)),
        flip_flop("C.FF0", CLK=0, LSR=8, M=7, Q=10),
        flip_flop("D.FF0", CLK=0, LSR=9, M=7, Q=11),
    ],
    "DI from elsewhere": [lut("A.K0", F=1), lut("A.K1", F=2), flip_flop("A.FF0", CLK=0, DI=2, Q=3)],
    "and so does a multiplexer": [lut("B.K0", F=1, F1=2, M=3, OFX=4), lut("B.K1", F=2), flip_flop("B.FF0", CLK=0, M=5, Q=6)],
    "the LUT beside it is not its own": [lut("B.K0", F=1, F1=2, M=3, OFX=4), lut("B.K1", F=5)],
    "half of it is a CCU2": [lut("A.K0", "CCU2", F=1), lut("A.K1", F=2)],
    "half of it is a DPRAM": [lut("A.K0", F=1), lut("A.K1", "DPRAM", WCK=0, WRE=1, F=2)],
    "which only SLICEA and SLICEB can be": [lut(f"C.K{i}", "DPRAM", WCK=0, WRE=1, F=20 + i) for i in (0, 1)],
    "a memory's writing half and a LUT": [cell("TRELLIS_RAMW", "X3/Y4/SLICEC.RAMW"), lut("C.K0", F=1)],
}


def module(cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {"cells": {f"cell{i}": one for i, one in enumerate(cells)}}


@pytest.mark.parametrize("name", LEGAL)
def test_what_a_tile_can_hold_is_no_problem(name: str) -> None:
    assert legality.problems(module(LEGAL[name])) == []


@pytest.mark.parametrize("says", ILLEGAL)
def test_a_broken_rule_is_told(says: str) -> None:
    (problem,) = legality.problems(module(ILLEGAL[says]))
    assert says in problem
    assert "X3/Y4" in problem


def test_a_placement_that_breaks_one_is_not_routed(tmp_path: Path) -> None:
    stem = tmp_path / "board-seed1"
    broken = module(ILLEGAL["DI from elsewhere"]) | {"attributes": {"top": 1}}
    stem.with_suffix(".first").write_text(json.dumps({"modules": {"top": broken}}))
    stem.with_suffix(".sdf").write_text(
        "\n".join(
            [
                "(INSTANCE cell2)",
                "(SETUPHOLD (posedge DI) (posedge CLK) (0) (0))",
                "(INSTANCE cell1)",
                "(IOPATH (posedge CLK) F (500) (500))",
                "(INTERCONNECT cell1/F cell2/DI (100) (100))",
            ]
        )
    )
    target = SimpleNamespace(board=SimpleNamespace(grid=Grid(range(2, 5), range(2, 7))), frequency_mhz=100, progress=lambda text: None)
    with pytest.raises(SynthError, match=r"illegal placement: X3/Y4/SLICEA: cell2 takes DI from elsewhere \(1 in all\)"):
        placer._relocated(target, Run(stem, 0, "tool"))
    assert not stem.with_suffix(".placed").exists()
