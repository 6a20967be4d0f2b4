"""The board's system as a bitstream, packed by ecppack; without the accelerator placed and routed by nextpnr alone."""

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
from .routing import Routing
from .synth_error import SynthError
from .target import Target

__all__ = ["NAME", "Bitstream", "bitstream", "shell_bitstream", "slowest"]

NAME = "loralith.bit"
_PACKER = "yowasp-ecppack"


@dataclass(frozen=True)
class Bitstream:
    """A packed system.

    Attributes:
        path: the bitstream. fmax_mhz: of the system's clock, and constraint_mhz what it was to be.
        used: cells by type in nextpnr's report. seconds: run time of nextpnr. tool: name and version.
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


def bitstream(target: Target, routing: Routing) -> Bitstream:
    """The bitstream of a routed netlist of the part `soc`, in the netlist's folder. Raises SynthError."""
    if not target.is_system or routing.config is None:
        raise SynthError(f"a bitstream is made of the part soc, not of {target.part!r}")
    return Bitstream(_packed(target, routing.config), routing.worst_mhz, target.frequency_mhz, routing.used, routing.seconds, routing.tool)


def shell_bitstream(target: Target, netlist: Netlist, seed: int) -> Bitstream:
    """The bitstream of a netlist of the part `soc-shell`, in the netlist's folder; kept like every step.

    The placer is nextpnr's own, and no pass of `loralith.placement` runs: the static placer does not end on a handful of block RAMs.
    Raises SynthError.
    """
    if not target.is_system:
        raise SynthError(f"a bitstream is made of the part soc, not of {target.part!r}")
    command, tool = nextpnr()
    constraints = target.pins.read_text(encoding="utf-8")
    words = [*part_words(target), "--seed", str(seed)]
    key = hashlib.sha256("\n".join([netlist.key, *words, constraints, tool]).encode()).hexdigest()[:8]
    run = Run(netlist.path.parent / f"{target.board.name}-soc-seed{seed}-{key}", 0, tool)

    def prepare() -> None:
        run.stem.with_suffix(".lpf").write_text(constraints, encoding="utf-8")
        shutil.copyfile(netlist.path, run.stem.with_suffix(".json"))

    files = {"--json": ".json", "--lpf": ".lpf", "--textcfg": ".config", "--report": ".report.json"}
    run = run_step(target, command, run, "bitstream", words, files, prepare)
    output = _packed(target, run.stem.with_suffix(".config"))
    report = json.loads(run.stem.with_suffix(".report.json").read_text(encoding="utf-8"))
    achieved, wanted = slowest(report, target.frequency_mhz)
    used = {name: entry["used"] for name, entry in report["utilization"].items() if entry["used"]}
    return Bitstream(output, achieved, wanted, used, run.seconds, run.tool)


def _packed(target: Target, config: Path) -> Path:
    """What ecppack makes of nextpnr's text ``config``, in its folder."""
    output, log = config.with_name(NAME), config.with_suffix(".ecppack.log")
    run_tool(
        "ecppack",
        [_packer(), config.name, NAME],
        log,
        target.timeout,
        advice=f"`pip install 'loralith[fpga]'` installs the {_PACKER} that is known to work",
        progress=target.progress,
        folder=config.parent,
    )
    if not output.is_file():
        raise SynthError(f"ecppack wrote no {output}; its output is in {log}")
    return output


def slowest(report: dict, default_mhz: float) -> tuple[float, float]:
    """Of nextpnr's report the clock that misses its constraint most: what it may be, and what it was to be."""
    clocks = [(clock["achieved"], clock.get("constraint", default_mhz)) for clock in report["fmax"].values()]
    if not clocks:
        raise SynthError("nextpnr's report has no clock")
    return min(clocks, key=lambda pair: pair[0] / pair[1])
