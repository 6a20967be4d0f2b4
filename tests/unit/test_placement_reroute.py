"""Wires of late paths of a routed netlist that are routed again."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.placed_design import GRID, Design, detour, far_pair, full, wire_ps
from loralith.placement.reroute import DETOUR, rip_up


def routed(design: Design) -> Design:
    """Ten pairs of blocks beside it, joined by wires of usual delay; and all nets have routes."""
    for i in range(10):
        design.block(f"from{i}", 20, 2 * i + 1, {"M": 100 + i, "Q": 200 + i})
        design.block(f"to{i}", 24 + i, 2 * i + 1, {"M": 200 + i})
        design.wires.append((f"from{i}/Q", f"to{i}/M"))
    nets = {net for cell in design.module["cells"].values() for bits in cell["connections"].values() for net in bits}
    design.module["netnames"] = {f"net{net}": {"bits": [net], "attributes": {"ROUTING": "wire;pip;1"}} for net in sorted(nets)}
    return design


def without_route(design: Design) -> set[int]:
    return {net["bits"][0] for net in design.module["netnames"].values() if "ROUTING" not in net["attributes"]}


@pytest.mark.parametrize(("times", "again"), [(3.0, {203}), (DETOUR - 0.1, set())])
def test_a_late_wire_that_goes_a_long_way_round_is_routed_again(times: float, again: set[int]) -> None:
    """To a block: all of its net."""
    design = routed(Design())
    delays = design.delays()
    (arc,) = np.nonzero(delays.sink == delays.pins.index(("to3", "M")))[0]
    usual = wire_ps((20, 7), (27, 7)) / 1000
    delays.ns[arc] = times * usual
    done, wires = rip_up(design.module, delays, GRID, 0.5 + (1 + times) / 2 * usual)
    assert (done.moved, wires, without_route(design)) == (0, len(again), again)
    assert delays.ns[arc] == pytest.approx(usual if again else times * usual, rel=1e-3)


@pytest.mark.parametrize(
    ("place", "pin", "last"),
    [
        ((21, 3, "SLICEB.K1"), "C", "X21/Y3/C3_SLICE"),
        ((21, 3, "SLICEC.FF0"), "M", "X21/Y3/M4_SLICE"),
        ((21, 3, "SLICEC.FF1"), "CE", "X21/Y3/CE2_SLICE"),
    ],
)
def test_of_a_late_wire_to_a_slice_the_last_step_is_taken_away(place: tuple[int, int, str], pin: str, last: str) -> None:
    """From from3, whose wire to a block keeps its route; what leads only to the step that is gone is the router's to drop."""
    design = Design()
    (design.lut if "K" in place[2] else design.flip_flop)("f", place, {pin: 203, "F" if "K" in place[2] else "Q": 300})
    design.block("end", 22, 3, {"M": 300})
    design.wires = [("from3/Q", f"f/{pin}"), (f"f/{'F' if 'K' in place[2] else 'Q'}", "end/M")]
    delays = routed(design).delays()
    route = ["X20/Y7/Q;;1", "X21/Y5/V02;a->b;1", f"{last};c->d;1", "X24/Y7/M0;e->f;1"]
    design.module["netnames"]["net203"]["attributes"]["ROUTING"] = ";".join(route)
    full(design, (50, 30, "SLICEA.K0"))
    (arc,) = np.nonzero(delays.sink == delays.pins.index(("f", pin)))[0]
    delays.ns[arc] *= 4
    design.module["netnames"]["unrouted"] = {"bits": [999], "attributes": {"ROUTING": " "}}
    done, wires = rip_up(design.module, delays, GRID, 0.5 + delays.ns[arc] - 0.2)
    assert (done.moved, wires, without_route(design)) == (0, 1, {999})
    assert design.module["netnames"]["net203"]["attributes"]["ROUTING"] == ";".join(route[:2] + route[3:])
    others = {net["attributes"]["ROUTING"] for name, net in design.module["netnames"].items() if name not in ("net203", "unrouted")}
    assert others == {"wire;pip;5"}, "locked"


def test_of_a_cell_that_moves_after_routing_all_wires_are_routed_again() -> None:
    """f's other wire too, which is not late; the others keep their routes and their delays, whatever these are."""
    design = detour()
    design.block("c", 12, 12, {"M": 3})
    design.wires.append(("f/F", "c/M"))
    delays = routed(design).delays()
    (arc,) = np.nonzero(delays.sink == delays.pins.index(("to3", "M")))[0]
    delays.ns[arc] *= 0.9
    kept = delays.ns[arc]
    done, wires = rip_up(design.module, delays, GRID, 6.0)
    assert design.at("f") != (55, 38, "SLICEA.K0")
    assert (done.moved, wires, without_route(design)) == (1, 3, {3}), "f's input has a new place, which its net's route does not reach"
    assert delays.ns[arc] == kept


def test_the_clock_s_wires_are_left_alone() -> None:
    """f is late by its clock's wire, which goes the same way wherever f is."""
    design = detour()
    design.cell("clock", "DCCA", (30, 20, "DCC0"), {"CLKO": 2})
    design.wires = [("clock/CLKO", "f/A"), ("f/F", "b/M")]
    delays = routed(design).delays()
    delays.ns[np.nonzero(delays.sink == delays.pins.index(("b", "M")))[0]] = 0.1
    delays.clock_to_q[delays.pins.index(("clock", "CLKO"))] = 5.0
    done, wires = rip_up(design.module, delays, GRID, 4.0)
    assert (done.moved, wires, without_route(design)) == (0, 0, set())


def test_a_wire_within_a_slice_takes_no_time_wherever_the_slice_is() -> None:
    design = far_pair()
    delays = routed(design).delays()
    done, _ = rip_up(design.module, delays, GRID, 3.0)
    (arc,) = np.nonzero(delays.sink == delays.pins.index(("c", "DI")))[0]
    assert (done.moved, delays.ns[arc]) == (1, 0)
