"""Times along the paths of a placed netlist."""

from __future__ import annotations

import re

import pytest

from loralith.placement import PlacementError
from loralith.placement.timing import Timing, read_sdf
from loralith.placement.wire_delays import fit_line
from loralith.synth import routing

SDF = r"""
  (CELL
    (CELLTYPE "top")
    (INSTANCE )
    (INTERCONNECT dut.left.q_TRELLIS_FF_Q/Q dut.right.sum_LUT4_Z/A (1000:2000:3000) (1000:2000:3000))
    (INTERCONNECT dut.left.r_TRELLIS_FF_Q/Q dut.right.sum_LUT4_Z/B (100:100:100) (100:100:100))
    (INTERCONNECT dut.right.sum_LUT4_Z/F dut.right.out\$3_TRELLIS_FF_Q/DI (1000:1000:1000) (1000:1000:1000))
    (INTERCONNECT dut.left.q_TRELLIS_FF_Q/Q dut.right.out\$4_TRELLIS_FF_Q/DI (6000:6000:6000) (6000:6000:6000))
    (INTERCONNECT dut.left.r_TRELLIS_FF_Q/Q dut.left.q_TRELLIS_FF_Q/CE (200:200:200) (200:200:200))
    (INSTANCE dut.left.q_TRELLIS_FF_Q)
    (IOPATH CLK Q (400:450:500) (400:450:500))
    (SETUPHOLD (posedge CE) (posedge CLK) (100:100:100) (0:0:0))
    (INSTANCE dut.left.r_TRELLIS_FF_Q)
    (IOPATH (posedge CLK) Q (500:500:500) (500:500:500))
    (INSTANCE dut.right.sum_LUT4_Z)
    (IOPATH A F (200:220:240) (200:220:240))
    (IOPATH B F (200:220:240) (200:220:240))
    (INSTANCE dut.right.out\$3_TRELLIS_FF_Q)
    (SETUPHOLD (posedge DI) (posedge CLK) (60:60:60) (0:0:0))
    (INSTANCE dut.right.out\$4_TRELLIS_FF_Q)
    (SETUPHOLD (posedge DI) (posedge CLK) (0:0:0) (0:0:0))
"""


def test_the_longest_paths_of_a_placement_are_found() -> None:
    """Of q through the LUT: 0.5 + 3 + 0.24 + 1 and 0.06 to set up, 4.8 ns; straight to its neighbour 6.5 ns; of r to an enable 0.8."""
    found = Timing(read_sdf(SDF.splitlines())).report(4.0)
    assert (found["expected_mhz"], found["end_points"], found["late_points"]) == (round(1000 / 6.5, 2), 3, 2)
    (late,) = found["late"]
    assert (late.source, late.sink, late.pin, late.count) == ("left", "right", "DI", 2)
    assert (late.slack_ns, late.wires_ns, late.logic_ns, late.wires) == (-2.5, 6.0, 0, 1)
    only = Timing(read_sdf(line for line in SDF.splitlines() if "6000" not in line)).report(4.0)
    assert only["expected_mhz"] == round(1000 / 4.8, 2)
    (late,) = only["late"]
    assert (late.slack_ns, late.wires_ns, late.logic_ns, late.wires) == (-0.8, 4.0, 0.24, 2)
    with pytest.raises(PlacementError, match="no path between clocked pins"):
        Timing(read_sdf(line for line in SDF.splitlines() if "SETUPHOLD" not in line)).report(4.0)


def test_a_pin_is_required_before_all_that_follows_it() -> None:
    """q: before 4.0 - 0.06 - 1 - 0.24 - 3 through the LUT, but the other way before 4.0 - 6."""
    timing = Timing(read_sdf(SDF.splitlines()))
    pins, required = timing.delays.pins, timing.required(4.0)
    assert required[pins.index(("dut.left.q_TRELLIS_FF_Q", "Q"))] == pytest.approx(4.0 - 6)
    assert required[pins.index(("dut.right.sum_LUT4_Z", "B"))] == pytest.approx(4.0 - 0.06 - 1 - 0.24)


def test_cells_delays_of_another_run_go_with_these_wires() -> None:
    """A routed design's: half the wires' delays, but the LUT 0.9 ns slower than in the run that packed it."""
    packed = read_sdf(line for line in SDF.splitlines() if "6000" not in line)
    slower = SDF.replace("200:220:240", "800:900:1140").replace("1000:2000:3000", "500:1000:1500").replace("1000:1000:1000", "500:500:500")
    routed = read_sdf(line for line in slower.splitlines() if "6000" not in line)
    arcs, end = Timing(routed).critical_path()
    assert [routed.pins[routed.sink[arc]][1] for arc in arcs] == ["A", "F", "DI"]
    assert routed.ns[arcs].tolist() == [1.5, 1.14, 0.5]
    both = routed.with_cells_of(packed)
    arcs, end = Timing(both).critical_path()
    assert both.ns[arcs].tolist() == [1.5, 0.24, 0.5]
    assert (both.pins[end], both.clock_to_q[both.source[arcs[0]]], both.setup[end]) == (("dut.right.out$3_TRELLIS_FF_Q", "DI"), 0.5, 0.06)


def test_routed_wires_are_told_by_a_line() -> None:
    """Half the expected delay and 0.3 ns; but for one without delay, before or after, and one whose cell has moved."""
    slower = re.sub(r"(INTERCONNECT \S+ \S+) \(\S*?(\d+)\)", lambda wire: f"{wire[1]} ({float(wire[2]) / 2 + 300})", SDF)
    for before, after in (
        (SDF, slower),
        (SDF, slower.replace("(400.0)", "(0)")),
        (SDF.replace("(200:200:200)", "(0:0:0)"), slower),
        (SDF, slower.replace("(800.0)", "(1900)")),
    ):
        assert fit_line(read_sdf(before.splitlines()), read_sdf(after.splitlines())) == (0.5, 0.3)


def test_a_line_needs_three_wires() -> None:
    few = [line for line in SDF.splitlines() if "INTERCONNECT" not in line or "DI" in line]
    with pytest.raises(PlacementError, match="2 wires have a delay before and after routing, and a line through them needs three"):
        fit_line(read_sdf(SDF.splitlines()), read_sdf(few))


def test_the_longest_path_is_told_from_register_to_register() -> None:
    slower = SDF.replace("1000:2000:3000", "500:1000:1500").replace("6000:6000:6000", "900:900:900")
    assert [(arc.kind, arc.delay_ns, arc.signal) for arc in routing.critical_path(read_sdf(slower.splitlines()))] == [
        ("clk-to-q", 0.5, "left.q"),
        ("routing", 1.5, "left.q"),
        ("logic", 0.24, "right.sum"),
        ("routing", 1.0, "right.sum"),
        ("setup", 0.06, "right.out$3"),
    ]
