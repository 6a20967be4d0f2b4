"""The synthesized netlist as Verilog that a simulator takes."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

from .netlist import PASSES, emit, refine, without_zeros
from .synth_error import SynthError
from .target import PARTS, Target
from .yosys_process import key_of, run_script

__all__ = ["netlist_source"]

# The passes of synthesis alone, with the accelerator's own ports: no harness.
_SCRIPT = """\
read_verilog -sv {source}
hierarchy -check -top {top}
synth_ecp5 -top {top} -noflatten
flatten
opt_clean -purge
blackbox =A:whitebox
write_json {netlist}
"""
_WRITE = """\
read_json {netlist}
select -module {top}
write_verilog -noattr -norename -selected {output}
"""


def netlist_source(target: Target) -> Path:
    """Verilog of the accelerator in `target`'s configuration after synthesis for the ECP5, with models of all cells in it.

    Kept in `target.folder` like every step. Raises SynthError.
    """
    if target.board.tool != "nextpnr-ecp5":
        raise SynthError(f"{target.board.name}: netlists are simulated for the ECP5 only, not for parts of {target.board.tool}")
    top, _ = PARTS[target.part]
    source = without_zeros(emit(target))
    models = _models()
    folder = target.folder / f"{target.label}-simulation-{key_of(source, _SCRIPT, _WRITE, PASSES, models)}"
    done = folder / "simulation.v"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "source.v").write_text(source, encoding="utf-8")
        names = {"source": "source.v", "top": top, "netlist": "netlist.json", "output": "netlist.v"}
        for step, script in (("synthesis", _SCRIPT), ("verilog", _WRITE)):
            text, log = script.format(**names), folder / f"{step}.log"
            run_script(folder / f"{step}.ys", text, log, target.timeout, progress=target.progress)
            if script is _SCRIPT:
                refine(folder / names["netlist"], folder / names["netlist"], top)
        # The models' memories start as zero, and have no parameter that says so.
        text = (folder / names["output"]).read_text(encoding="utf-8")
        text = re.sub(r"^ +\.INITVAL_\w\w\(320'h[0x]+\),?\n", "", text, flags=re.MULTILINE) + models
        partial = folder / "simulation.v.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(done)
    return done


def _models() -> str:
    """Yosys's models of LUTs, flip-flops, carries and LUT RAM, and ours of multipliers and block RAM."""
    found = util.find_spec("pyosys")
    if found is None or found.origin is None:
        raise SynthError("pyosys is not installed; `pip install 'loralith[fpga]'` installs it")
    share = Path(found.origin).parent / "share" / "ecp5"
    files = [share / "common_sim.vh", share / "ccu2c_sim.vh", Path(__file__).parent / "models.v"]
    # `specify` holds delays only, and simulators differ in what they take of it.
    return "".join(re.sub(r"`ifndef NO_INCLUDES.*?`endif", "", file.read_text(encoding="utf-8"), flags=re.DOTALL) for file in files)
