"""Area in standard cells: what is counted, and a library or a module that does not fit."""

import importlib.util
import json
from pathlib import Path

import pytest

from loralith import cli
from loralith.synth.cells import Area, CellFlow, areas, find_liberty
from loralith.synth.synth_error import SynthError
from loralith.synth.vector import VectorFlow, by_block

FLIP_FLOP = 1_000_000
GATES = {"INV": "!A", "BUF": "A", "NAND2": "!(A B)", "NOR2": "!(A+B)", "AND2": "A B", "OR2": "A+B", "XOR2": "A^B", "XNOR2": "!(A^B)"}


def library() -> str:
    """Liberty text of cells that all have the area 1, and a flip-flop."""
    pins = {name: "".join(f"pin({pin}) {{ direction: input; }} " for pin in "AB" if pin in function) for name, function in GATES.items()}
    gates = [
        f'cell({name}) {{ area: 1; {pins[name]}pin(Y) {{ direction: output; function: "({function})"; }} }}'
        for name, function in GATES.items()
    ]
    flop = 'ff(IQ, IQN) { clocked_on: "CLK"; next_state: "D"; } pin(CLK) { direction: input; clock: true; } pin(D) { direction: input; }'
    gates.append(f'cell(DFF) {{ area: {FLIP_FLOP}; {flop} pin(Q) {{ direction: output; function: "IQ"; }} }}')
    return "library(few) {\n" + "\n".join(gates) + "\n}\n"


@pytest.fixture
def liberty(tmp_path: Path) -> Path:
    path = tmp_path / "few.lib"
    path.write_text(library())
    return path


@pytest.mark.skipif(importlib.util.find_spec("pyosys") is None, reason="pyosys is not installed: pip install 'loralith[fpga]'")
def test_an_element_has_the_registers_that_it_says(liberty: Path, tmp_path: Path) -> None:
    """A library in which a flip-flop costs more than all else tells how many there are; the second call runs nothing."""
    said: list[str] = []
    flow = CellFlow(find_liberty(liberty), folder=tmp_path / "cells", progress=said.append)
    found = flow.float_array("bf16", 1, 1)
    significand, exponent, sign, control = 16, 10, 1, 2
    assert found.area // FLIP_FLOP == significand + exponent + sign + 32 + 32 + control
    assert found.area % FLIP_FLOP == found.cells - found.area // FLIP_FLOP
    assert said.count("yosys: bf16-1x1") == 1
    assert flow.float_array("bf16", 1, 1) == found
    assert said.count("yosys: bf16-1x1") == 1


def test_a_module_has_its_own_cells_alone_of_all_its_instances() -> None:
    """Two pairs of a part of three inverters, and a twin of the part with one more."""
    part, twin = {"num_cells_by_type": {"INV": 3}, "area": 3.0}, {"num_cells_by_type": {"INV": 4}, "area": 4.0}
    pair = {"num_cells_by_type": {"\\core.part$12": 2}, "area": 6.0}
    core = {"num_cells_by_type": {"NAND2": 5, "\\core.pair": 2, "\\core.part$13": 1}, "area": 26.0}
    found = areas({"modules": {"\\core.part$12": part, "\\core.part$13": twin, "\\core.pair": pair, "\\core": core}})
    assert found == {"core.part": Area(16, 16.0), "core": Area(5, 10.0), "core.pair": Area(0, 0.0)}
    with pytest.raises(SynthError, match=r"core has cells that the library lacks: \$_DLATCH_P_; another --liberty may have them"):
        areas({"modules": {"\\core": {"num_cells_by_type": {"$_DLATCH_P_": 1}}}})


def test_the_report_has_ratios_and_says_its_tier(
    liberty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CellFlow, "int8_array", lambda self, rows, cols: Area(100, 1000.0 * rows * cols))
    monkeypatch.setattr(CellFlow, "float_array", lambda self, form, rows, cols: Area(300, 2500.0 * rows * cols))
    monkeypatch.setattr(CellFlow, "blocks", lambda self, config: {"loralith.compute.array": Area(7, 75.0), "loralith": Area(1, 25.0)})
    words = ["report", "area", "--liberty", str(liberty)]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "tier (ii)" in found["tier"]
    assert found["arrays"]["int8"] == {"cells": 100, "area": 8000.0, "area_per_element": 1000.0, "ratio": 1.0}
    assert found["arrays"]["fp16"]["ratio"] == 2.5
    assert cli.main(words) == 0
    page = capsys.readouterr().out
    assert "| fp32 | 300 | 20,000 | 2,500 | 2.50 |" in page
    assert "| loralith.compute.array | 7 | 75 | 75.0% |" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--liberty", "nowhere.lib"], "there is no cell library at nowhere.lib; `apt-get install qflow-tech-osu018` installs one"),
        (["--liberty", cli.__file__], "is no liberty file: it has no library(...) group"),
        (["--rows", "0"], "rows must be at least 1, not 0"),
        (["--config", "tinny"], "tinny"),
    ],
)
def test_bad_input_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "area", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_vector_units_lanes_are_one_block() -> None:
    own = {"lut": 3, "ff": 1, "dsp": 1, "bram": 0}
    modules = {f"vector_unit.group.lane{i}.xa": own for i in range(4)} | {
        "vector_unit.group.lane": own,
        "vector_unit": own,
        "vector_unit.v": own,
    }
    found = by_block(modules)
    assert list(found) == ["group.lane.xa", "group.lane", "v", "vector_unit"]
    assert found["group.lane.xa"] == {"lut": 12, "ff": 4, "dsp": 4, "bram": 0}
    assert found["v"] == own


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyosys") is None, reason="pyosys is not installed: pip install 'loralith[fpga]'")
def test_the_vector_unit_keeps_its_multipliers_and_memories_in_blocks(tmp_path: Path) -> None:
    found = VectorFlow(folder=tmp_path).area(2)
    assert found.total["dsp"] == 6
    assert found.blocks["group.table"] == {"lut": 0, "ff": 0, "dsp": 0, "bram": 2}
    assert found.packed["lut"] < found.total["lut"]
    assert found.packed["ff"] < found.total["ff"]
