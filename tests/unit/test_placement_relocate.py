"""Cells of late paths of a placed or routed netlist that move, and wires that are routed again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from helpers.placed_design import GRID, Design, detour, far_pair, full, routed_ns, wire_ps
from loralith.placement import relocate


def test_a_lut_that_a_path_goes_far_for_comes_back() -> None:
    design = detour()
    design.lut("reserved_X11/Y10/SLICEA.K0", (11, 10, "SLICEA.K0"), {})
    done, found = design.relocate(4.0)
    x, y, slot = design.at("f")
    assert (10 <= x <= 12, y) == (True, 10)
    assert slot in {f"SLICE{slice}.K{half}" for slice in "ABCD" for half in "01"}
    assert (done.late_before, done.late_after, done.tns_after) == (1, 0, 0.0)
    there_and_back = routed_ns(wire_ps((10, 10), (55, 38))) + routed_ns(wire_ps((55, 38), (12, 10)))
    assert done.tns_before == round(4.0 * relocate.PERIOD_SHARES[0] - 0.74 - there_and_back, 1)
    assert "reserved_X11/Y10/SLICEA.K0" not in design.module["cells"]
    expected = 0.74 + routed_ns(wire_ps((10, 10), (x, y))) + routed_ns(wire_ps((x, y), (12, 10)))
    assert found["expected_mhz"] == round(1000 / expected, 2), "the delays are those of where the cell is now"


def loop() -> Design:
    """Two blocks side by side, and at the other end of the part, side by side too, two LUTs that the path between them goes through."""
    design = Design()
    design.block("a", 10, 10, {"M": 1, "Q": 2})
    design.lut("f", (55, 38, "SLICEA.K0"), {"A": 2, "F": 3})
    design.lut("g", (55, 38, "SLICEB.K0"), {"A": 3, "F": 4})
    design.block("b", 12, 10, {"M": 4})
    design.wires = [("a/Q", "f/A"), ("f/F", "g/A"), ("g/F", "b/M")]
    return design


def test_neighbours_of_which_none_gains_alone_move_together(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = loop()
    with monkeypatch.context() as patch:
        patch.setattr(relocate, "GROUP_SIZES", ())
        alone.relocate(4.0)
    design = loop()
    done, _ = design.relocate(4.0)
    assert [alone.at(name)[:2] for name in "fg"] == [(55, 38), (55, 38)]
    assert all(10 <= design.at(name)[0] <= 12 and design.at(name)[1] == 10 for name in "fg"), [design.at(name) for name in "fg"]
    assert (done.moved, done.late_after) == (2, 0)


def test_neighbours_that_are_moved_back_are_not_moved_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For another path a pass may undo what neighbours gained: that is no reason to start over."""
    rounds = []
    together = relocate.Relocator._move_group

    def counted(self: relocate.Relocator) -> bool:
        rounds.append(together(self))
        return rounds[-1]

    def undone(self: relocate.Relocator) -> None:
        for index, place in reversed(self.moves):
            self.slices.restore(self.units[index], place)
            self._update_positions(self.units[index])
        self.moves.clear()
        self._update_timing()

    monkeypatch.setattr(relocate.Relocator, "_move_group", counted)
    monkeypatch.setattr(relocate.Relocator, "_passes", undone)
    design = loop()
    done, _ = design.relocate(4.0)
    assert [design.at(name)[:2] for name in "fg"] == [(55, 38), (55, 38)]
    each = [True, True, False]  # to the one before, to the one behind, and no more
    assert (rounds, done.moved) == (each * len(relocate.PERIOD_SHARES), 0)


def test_neighbours_that_would_make_others_later_stay_where_they_are() -> None:
    """Blocks beside the LUTs need them as much as the far ones do."""
    design = loop()
    design.block("c", 55, 38, {"Q": 5, "M": 3})
    design.block("d", 55, 38, {"M": 4})
    design.module["cells"]["f"]["connections"]["B"] = [5]
    design.wires += [("f/F", "c/M"), ("g/F", "d/M"), ("c/Q", "f/B")]
    delays = design.delays()
    before, places = delays.ns.copy(), [design.at(name) for name in "fg"]
    done = relocate.relocate(design.module, delays, GRID, 2.0)
    assert [design.at(name) for name in "fg"] == places
    expected = [routed_ns(1000 * ns) if wire and ns else ns for wire, ns in zip(delays.is_wire.tolist(), before.tolist(), strict=True)]
    assert (done.moved, delays.ns.tolist()) == (0, pytest.approx(expected))


def direct() -> Design:
    """A detour with a wire within the tile that has no delay."""
    design = detour()
    design.flip_flop("c", (55, 38, "SLICEA.FF1"), {"M": 8, "Q": 9})
    design.module["cells"]["f"]["connections"]["B"] = [9]
    design.wires.append(("c/Q", "f/B"))
    return design


def test_a_direct_wire_in_a_tile_is_one_no_longer_when_an_end_moves() -> None:
    design = direct()
    delays = design.delays()
    (arc,) = np.nonzero(delays.sink == delays.pins.index(("f", "B")))[0]
    assert delays.ns[arc] == 0
    relocate.relocate(design.module, delays, GRID, 8.0)
    assert design.at("f") != (55, 38, "SLICEA.K0")
    assert delays.ns[arc] == pytest.approx(routed_ns(wire_ps((55, 38), design.at("f")[:2])))


@pytest.mark.parametrize(("good", "aims"), [(10.0, 1), (0.0, len(relocate.PERIOD_SHARES))])
def test_a_shorter_period_is_aimed_at_only_while_the_longest_path_is_not_good(
    monkeypatch: pytest.MonkeyPatch, good: float, aims: int
) -> None:
    aimed, run = [], relocate.Relocator.run
    monkeypatch.setattr(relocate, "GOOD_SHARE", good)
    monkeypatch.setattr(relocate.Relocator, "run", lambda self, period_ns: aimed.append(period_ns) or run(self, period_ns))
    detour().relocate(4.0)
    assert aimed == [4.0 * share for share in relocate.PERIOD_SHARES[:aims]]


def test_nothing_moves_while_nothing_is_late() -> None:
    design = detour()
    done, _ = design.relocate(20.0)
    assert (done.moved, design.at("f")) == (0, (55, 38, "SLICEA.K0"))


def test_a_taken_place_is_not_taken_again() -> None:
    design = detour()
    full(design, (17, 15, "SLICEC.K1"))
    design.relocate(4.0)
    assert design.at("f") == (17, 15, "SLICEC.K1"), "the only free place, a detour still"


@pytest.mark.parametrize("mode", ["CCU2", "DPRAM"])
def test_half_a_slice_of_a_chain_or_a_memory_is_no_place(mode: str) -> None:
    design = detour()
    full(design, (17, 15, "SLICEA.K1"))
    design.module["cells"]["filler_17_15_A0"]["parameters"]["MODE"] = mode
    design.relocate(4.0)
    assert design.at("f") == (55, 38, "SLICEA.K0")


def between_two(others: dict[str, dict[str, int]], **nets: int) -> tuple[int, int, str]:
    """Where a flip-flop goes that is late both ways and belongs between two blocks: all tiles but a farther one have `others`, by slot."""
    design = Design()
    design.block("a", 10, 10, {"M": 1, "Q": 2})
    design.flip_flop("c", (40, 10, "SLICEA.FF0"), {"M": 2, "Q": 3, **nets})
    design.block("b", 11, 10, {"M": 3})
    design.wires = [("a/Q", "c/M"), ("c/Q", "b/M")]
    for x in GRID.columns:
        for y in GRID.rows:
            if (x, y) not in {(40, 10), (14, 12)}:
                for slot, other in others.items():
                    if "FF" in slot:
                        design.flip_flop(f"other_{x}_{y}_{slot}", (x, y, slot), other)
                    else:
                        design.lut(f"other_{x}_{y}_{slot}", (x, y, slot), other, "DPRAM")
    design.relocate(2.5)
    return design.at("c")


def test_a_flip_flop_stays_out_of_slices_with_another_one_of_another_enable() -> None:
    all_slices = [f"SLICE{slice}.FF1" for slice in "ABCD"]
    assert between_two({slot: {"CE": 8} for slot in all_slices}, CE=7)[:2] == (14, 12)
    assert between_two({slot: {"CE": 7} for slot in all_slices}, CE=7)[:2] != (14, 12)
    x, y, slot = between_two({slot: {"CE": 8} for slot in all_slices[:3]}, CE=7)
    assert ((x, y) != (14, 12), slot[:6]) == (True, "SLICED")


@pytest.mark.parametrize("net", ["LSR", "CLK"])
def test_a_tile_has_two_sets_of_resets_and_clocks(net: str) -> None:
    """A third one would not be routed."""
    slots = ("SLICEA.FF1", "SLICEB.FF1")
    assert between_two({slots[0]: {net: 8}, slots[1]: {net: 9}}, **{net: 7})[:2] == (14, 12)
    assert between_two({slots[0]: {net: 8}, slots[1]: {net: 8}}, **{net: 7})[:2] != (14, 12)
    x, y, slot = between_two({slots[0]: {net: 7}, slots[1]: {net: 9}}, **{net: 7})
    assert ((x, y) != (14, 12), slot[:6] != "SLICEB") == (True, True)


def test_a_memory_in_a_tile_takes_one_of_these_sets() -> None:
    memory = {"SLICEA.K0": {"WCK": 0, "WRE": 8}}
    assert between_two({**memory, "SLICED.FF1": {"LSR": 9}}, LSR=7)[:2] == (14, 12)
    assert between_two({**memory, "SLICED.FF1": {"LSR": 7}}, LSR=7)[:2] != (14, 12)


def test_a_flip_flop_goes_with_the_lut_in_front_of_it() -> None:
    design = far_pair()
    done, _ = design.relocate(3.0)
    (x, y, lut), flip_flop = design.at("f"), design.at("c")
    assert x <= 13
    assert (x, y, lut.replace("K", "FF")) == flip_flop
    assert done.late_after == 0


def chained() -> Design:
    """A carry chain beside the one block, far from the other, and the flip-flop behind it."""
    design = Design()
    design.block("a", 10, 10, {"M": 1, "Q": 2})
    design.lut("chain", (10, 11, "SLICEB.K1"), {"A": 2, "F": 3}, mode="CCU2")
    design.flip_flop("c", (10, 11, "SLICEB.FF1"), {"DI": 3, "Q": 4})
    design.module["cells"]["c"]["parameters"]["SD"] = "1 "
    design.block("b", 40, 10, {"M": 4})
    design.wires = [("a/Q", "chain/A"), ("chain/F", "c/DI"), ("c/Q", "b/M")]
    return design


def test_a_flip_flop_leaves_the_carry_chain_in_front_of_it() -> None:
    """It goes halfway, with a wire from the chain."""
    design = chained()
    delays = design.delays()
    (arc,) = np.nonzero(delays.sink == delays.pins.index(("c", "DI")))[0]
    relocate.relocate(design.module, delays, GRID, 2.7)
    x, y, _ = design.at("c")
    assert 12 < x < 40
    assert design.at("chain") == (10, 11, "SLICEB.K1")
    cell = design.module["cells"]["c"]
    assert (cell["connections"], cell["parameters"]["SD"]) == ({"CLK": [0], "M": [3], "Q": [4]}, "0 ")
    assert cell["port_directions"]["M"] == "input"
    assert delays.ns[arc] == pytest.approx(routed_ns(wire_ps((10, 11), (x, y))))


@pytest.mark.parametrize("make", [detour, direct, chained])
def test_passes_that_gain_nothing_are_taken_back(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Design]) -> None:
    """With places, inputs and delays as they were, and what is known of direct wires."""
    design = make()
    before, delays = copy.deepcopy(design.module), design.delays()
    expected = copy.deepcopy(delays)
    relocate.estimate_routed(expected)
    tried = []
    run = relocate.Relocator._pass
    monkeypatch.setattr(relocate.Relocator, "_pass", lambda self: tried.append(run(self)) or tried[-1])
    monkeypatch.setattr(relocate.Relocator, "_late_slacks", lambda self: np.array([-1.0]))
    relocator = relocate.Relocator(design.module, delays, GRID, 2.0)
    done = relocator.run(2.0)
    assert (tried[0], done.moved, design.module) == (True, 0, before)
    assert delays.ns.tolist() == pytest.approx(expected.ns.tolist())
    relocator._update_timing()
    assert delays.ns.tolist() == pytest.approx(expected.ns.tolist())


def test_a_flip_flop_stays_with_its_carry_chain_where_that_is_best() -> None:
    design = Design()
    design.block("a", 50, 10, {"M": 1, "Q": 2})
    design.lut("chain", (10, 11, "SLICEB.K1"), {"A": 2, "F": 3}, mode="CCU2")
    design.flip_flop("c", (10, 11, "SLICEB.FF1"), {"DI": 3, "Q": 4})
    design.wires = [("a/Q", "chain/A"), ("chain/F", "c/DI")]
    done, _ = design.relocate(2.0)
    assert (done.moved, "DI" in design.module["cells"]["c"]["connections"]) == (0, True)


def test_two_luts_and_their_multiplexer_move_to_a_slice_of_their_own() -> None:
    design = Design()
    design.block("a", 10, 10, {"M": 1, "Q": 2})
    design.lut("f0", (50, 30, "SLICEB.K0"), {"A": 2, "F": 5, "F1": 6, "M": 9, "OFX": 3})
    design.lut("f1", (50, 30, "SLICEB.K1"), {"A": 2, "F": 6})
    design.block("b", 12, 10, {"M": 3})
    design.wires = [("a/Q", "f0/A"), ("a/Q", "f1/A"), ("f0/F", "b/M")]
    full(design, (11, 10, "SLICEC.K0"))
    for half in "01":
        del design.module["cells"][f"filler_17_15_D{half}"]
    design.relocate(4.0)
    assert (design.at("f0"), design.at("f1")) == ((17, 15, "SLICED.K0"), (17, 15, "SLICED.K1"))
