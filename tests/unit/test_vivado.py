"""Vivado's Tcl without Vivado: run in a Tcl interpreter whose Vivado commands are stubs that write down what they are asked."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from loralith import synth

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tcl: apt-get install python3-tk")

# What the scripts may call beyond Tcl itself. A word that is in neither stops the run.
VIVADO = """
create_project close_project add_files set_property get_property current_project current_fileset update_compile_order
update_ip_catalog get_files get_board_parts get_runs make_wrapper launch_runs wait_on_run open_run report_utilization
report_timing_summary get_timing_paths create_bd_design create_bd_cell apply_bd_automation connect_bd_net connect_bd_intf_net
get_bd_pins get_bd_intf_pins get_bd_addr_segs assign_bd_address validate_bd_design save_bd_design ipx::package_project
ipx::current_core ipx::infer_bus_interface ipx::associate_bus_interfaces ipx::create_xgui_files ipx::update_checksums
ipx::check_integrity ipx::save_core
"""

PINS = {
    "ps": "pl_clk0 pl_resetn0 maxihpm0_fpd_aclk saxihp0_fpd_aclk M_AXI_HPM0_FPD S_AXI_HP0_FPD pl_ps_irq0",
    "reset": "slowest_sync_clk ext_reset_in peripheral_aresetn",
    "registers": "aclk aresetn S00_AXI M00_AXI",
    "memory": "aclk aresetn S00_AXI M00_AXI",
    "loralith": "aclk aresetn irq m_axi_gmem s_axi_control",
}
"""Pins and interfaces of the cells; the accelerator's are compared with its Verilog."""


class Vivado:
    """A Tcl interpreter with stubs; `calls` are the words of each call in order."""

    def __init__(self, answers: dict[str, Callable[..., str]]) -> None:
        self.tcl, self.calls = tkinter.Tcl(), []
        for name in VIVADO.split():
            if "::" in name:
                self.tcl.eval(f"namespace eval {name.split('::')[0]} {{}}")
            self.tcl.createcommand(name, lambda *words, name=name: self._call(name, answers.get(name), words))

    def _call(self, name: str, answer: Callable[..., str] | None, words: tuple) -> str:
        self.calls.append((name, *map(str, words)))
        return answer(*map(str, words)) if answer else ""

    def run(self, script: Path, *words: object) -> None:
        self.tcl.setvar("argv", self.tcl.call("list", *map(str, words)))
        self.tcl.eval(f"info script {{{script}}}")
        self.tcl.call("source", str(script))

    def of(self, name: str) -> list[tuple[str, ...]]:
        return [words for called, *rest in self.calls if called == name for words in [tuple(rest)]]


@pytest.fixture
def project(repo: Path, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Runs project.tcl for a board; what Vivado would write is there."""

    def run(board: str, slack: str = "0.5", progress: str = "100%", boards: str = "found") -> SimpleNamespace:
        folder = tmp_path / "out"
        handoff = folder / "project" / "base.gen/sources_1/bd/base/hw_handoff"
        handoff.mkdir(parents=True)
        (handoff / "base.hwh").write_text("hwh")
        (folder / "run").mkdir()
        (folder / "run" / "base_wrapper.bit").write_text("bit")
        properties = {"SLACK": slack, "PROGRESS": progress, "DIRECTORY": str(folder / "run")}
        vivado = Vivado(
            {
                "get_property": lambda name, *rest: properties[name],
                "get_board_parts": lambda *words: boards,
                "create_bd_cell": lambda *words: words[-1],
                "get_bd_pins": lambda pin: pin,
                "get_bd_intf_pins": lambda pin: pin,
            }
        )
        (tmp_path / "loralith.v").write_text("module loralith; endmodule")
        script = repo / "constraints" / "vivado" / "project.tcl"
        words = (repo / "constraints" / board / "board.tcl", tmp_path / "loralith.v", folder, "base", 128)
        return SimpleNamespace(vivado=vivado, folder=folder, run=lambda: vivado.run(script, *words))

    return run


VIVADO_BOARDS = [name for name in synth.boards() if synth.load_board(name).tool == "vivado"]


@pytest.mark.parametrize("board", VIVADO_BOARDS)
def test_a_project_packages_the_core_joins_it_to_the_processor_and_leaves_what_pynq_loads(board: str, project: Callable) -> None:
    built = project(board)
    built.run()
    vivado, loaded = built.vivado, synth.load_board(board)
    assert {words[words.index("-part") + 1] for words in vivado.of("create_project")} == {loaded.part}
    cells = {words[-1]: words[words.index("-vlnv") + 1] for words in vivado.of("create_bd_cell")}
    assert cells.keys() == PINS.keys()
    assert cells["loralith"] == "loralith:accelerator:loralith"  # pynq's ip_dict has cells by name; the device looks for this one
    asked = [words[0] for name in ("get_bd_pins", "get_bd_intf_pins") for words in vivado.of(name)]
    for cell, pin in (name.split("/") for name in asked):
        assert pin in PINS[cell].split(), f"{cell} has no pin {pin}"
    joined = [pin for name in ("connect_bd_net", "connect_bd_intf_net") for words in vivado.of(name) for pin in words]
    assert sorted(joined) == sorted(set(joined)), "a pin is joined twice"
    assert {pin for pin in joined if pin.startswith("loralith/")} == {f"loralith/{pin}" for pin in PINS["loralith"].split()}
    configuration = " ".join(" ".join(words) for words in vivado.of("set_property"))
    assert f"CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ {loaded.constraint_mhz:g}" in configuration
    assert "CONFIG.PSU__SAXIGP2__DATA_WIDTH 128" in configuration
    assert (built.folder / "base.bit").read_text() == "bit"
    assert (built.folder / "base.hwh").read_text() == "hwh"


def test_the_core_s_pins_are_those_of_the_verilog(repo: Path) -> None:
    from amaranth.hdl import Fragment

    from loralith.rtl.axi import AxiLiteSignature
    from loralith.rtl.top import Loralith
    from loralith.spec.config import PRESETS

    whole = Loralith(PRESETS["tiny"])
    Fragment.get(whole, None)  # or Amaranth warns that it is not used, in the test that runs when it is collected
    ports = whole.signature.members
    assert set(PINS["loralith"].split()) == {re.sub(r"^(m_axi_gmem|s_axi_control)_.*", r"\1", name) for name in ports}
    assert all(f"s_axi_control_{name}" in ports for name in AxiLiteSignature(9).members)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"slack": "-0.25"}, "the clock of 200 MHz is missed by 0.25 ns: lower clock_mhz in "),
        ({"progress": "40%"}, "implementation stopped: see .*runme.log"),
        ({"boards": ""}, "Vivado has no board files for xilinx.com:kv260_som"),
    ],
)
def test_a_build_that_fails_says_what_to_do(broken: dict, message: str, project: Callable) -> None:
    with pytest.raises(tkinter.TclError, match=message):
        project("kv260", **broken).run()


@pytest.mark.parametrize(
    ("script", "words"), [("project.tcl", "BOARD_TCL VERILOG FOLDER NAME BUS_BITS"), ("package_ip.tcl", "PART VERILOG")]
)
def test_a_wrong_number_of_words_is_refused(script: str, words: str, repo: Path) -> None:
    with pytest.raises(tkinter.TclError, match=f"{script} takes {words}"):
        Vivado({}).run(repo / "constraints" / "vivado" / script, "one")


@pytest.mark.parametrize("board", VIVADO_BOARDS)
def test_a_board_s_two_files_agree(board: str, repo: Path) -> None:
    tcl = tkinter.Tcl()
    tcl.call("source", str(repo / "constraints" / board / "board.tcl"))
    loaded = synth.load_board(board)
    assert (tcl.getvar("part"), float(tcl.getvar("clock_mhz"))) == (loaded.part, loaded.constraint_mhz)
    assert (repo / "constraints" / board / tcl.getvar("xdc")) == loaded.pins
