"""The board's system as a bitstream: placed and routed by nextpnr alone, packed by ecppack."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .netlist import Netlist
from .nextpnr import Run, nextpnr, part_words, run_step
from .process import run_tool
from .synth_error import SynthError
from .target import Target

__all__ = ["NAME", "Bitstream", "bitstream", "slowest"]

NAME = "loralith.bit"
_PACKER = "yowasp-ecppack"


@dataclass(frozen=True)
class Bitstream:
    """A packed system.

    Attributes:
        path: the bitstream. fmax_mhz: what nextpnr's report says of the system's clock, and constraint_mhz what it was to be.
        used: cells by type in that report. seconds: run time of nextpnr. tool: name and version.
    """

    path: Path
    fmax_mhz: float
    constraint_mhz: float
    used: dict[str, int]
    seconds: float
    tool: str


def _packer() -> str:
    """The command. Raises SynthError where it is not installed."""
    beside = Path(sys.executable).parent / _PACKER
    found = str(beside) if beside.is_file() else shutil.which(_PACKER) or shutil.which("ecppack")
    if found is None:
        raise SynthError(f"{_PACKER} is not installed; `pip install 'loralith[fpga]'` installs it with nextpnr")
    return found


def bitstream(target: Target, netlist: Netlist, seed: int) -> Bitstream:
    """The bitstream of a netlist of the part `soc`, in the netlist's folder; kept like every step.

    The placer is nextpnr's own, and so is the router: no pass of `loralith.placement` runs. Raises SynthError.
    """
    pins = target.board.soc_pins
    if not target.is_system or pins is None:
        raise SynthError(f"a bitstream is made of the part soc, not of {target.part!r}")
    command, tool = nextpnr()
    constraints = pins.read_text(encoding="utf-8")
    words = [*part_words(target), "--seed", str(seed)]
    key = hashlib.sha256("\n".join([netlist.key, *words, constraints, tool]).encode()).hexdigest()[:8]
    run = Run(netlist.path.parent / f"{target.board.name}-soc-seed{seed}-{key}", 0, tool)

    def prepare() -> None:
        run.stem.with_suffix(".lpf").write_text(constraints, encoding="utf-8")
        shutil.copyfile(netlist.path, run.stem.with_suffix(".json"))

    files = {"--json": ".json", "--lpf": ".lpf", "--textcfg": ".config", "--report": ".report.json"}
    run = run_step(target, command, run, "bitstream", words, files, prepare)
    output = run.stem.parent / NAME
    run_tool(
        "ecppack",
        [_packer(), run.stem.with_suffix(".config").name, NAME],
        run.stem.with_suffix(".ecppack.log"),
        target.timeout,
        advice=f"`pip install 'loralith[fpga]'` installs the {_PACKER} that is known to work",
        progress=target.progress,
        folder=run.stem.parent,
    )
    if not output.is_file():
        raise SynthError(f"ecppack wrote no {output}; its output is in {run.stem.with_suffix('.ecppack.log')}")
    report = json.loads(run.stem.with_suffix(".report.json").read_text(encoding="utf-8"))
    achieved, wanted = slowest(report, target.frequency_mhz)
    used = {name: entry["used"] for name, entry in report["utilization"].items() if entry["used"]}
    return Bitstream(output, achieved, wanted, used, run.seconds, run.tool)


def slowest(report: dict, default_mhz: float) -> tuple[float, float]:
    """Of nextpnr's report the clock that misses its constraint most: what it may be, and what it was to be."""
    clocks = [(clock["achieved"], clock.get("constraint", default_mhz)) for clock in report["fmax"].values()]
    if not clocks:
        raise SynthError("nextpnr's report has no clock")
    return min(clocks, key=lambda pair: pair[0] / pair[1])
