"""The memory controller and its chip under Verilator: builds the bench, and runs bursts through it."""

from __future__ import annotations

import json
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from loralith.board.traffic import Burst
from loralith.device.native.build import BuildError, cached, digest
from loralith.errors import LoralithError
from loralith.spec.sdram import BURST, MEMORY_BASE, ULX3S, SdramChip
from loralith.toolchain import find_verilator, python_module, without_spaces

__all__ = ["Outcome", "SdramBenchError", "build_bench", "chip_options", "controller_verilog", "native_sources", "run_bench"]

FLAGS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "-Wno-fatal", "-Wno-lint", "--top-module", "sdram_system")
TIMEOUT = 600


class SdramBenchError(LoralithError):
    """The controller broke a rule of the chip or gave wrong data; the message says which and when."""


@dataclass(frozen=True)
class Outcome:
    """What a run took.

    Attributes:
        cycles: from the first burst to the last response. read_beats, write_beats: of eight bytes.
        activated, refreshed: ACTIVE and REFRESH commands. errors: responses that were no OKAY.
    """

    cycles: int
    read_beats: int
    write_beats: int
    activated: int
    refreshed: int
    errors: int

    @property
    def of_peak(self) -> float:
        """Cycles in which a word moved, of all."""
        return BURST * (self.read_beats + self.write_beats) / self.cycles


def controller_verilog(mhz: float, cas: int) -> Path:
    """The controller's Verilog. Raises BuildError with the generator's message."""
    packages = ("loralith.soc.sdram", "loralith.rtl", "loralith.spec", "loralith.gen")
    sources = [file for package in packages for file in sorted(_folder(package).rglob("*.py"))]

    def make(folder: Path) -> None:
        command = python_module("loralith.gen", "sdram", "--mhz", str(mhz), "--cas", str(cas), "--output", folder / "sdram.v")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise BuildError(f"no Verilog for the memory controller:\n{done.stdout[-4000:]}")

    return cached(f"sdram-verilog-{digest(*sources, text=(str(mhz), str(cas)))}", make) / "sdram.v"


def build_bench(verilog: Path) -> Path:
    """The bench around that controller, built once per content. Raises BuildError and ToolchainError."""
    verilator, native = find_verilator(), native_sources()
    sources = sorted(native.glob("sdram_*"))

    def make(folder: Path) -> None:
        output = without_spaces(folder.parent) / folder.name
        verilator.run(
            *("--cc", "--exe", "--build", "-j", "2", *FLAGS, "-Mdir", output / "obj", "-MAKEFLAGS", "OPT_FAST=-O2"),
            *("-CFLAGS", "-O2", "-o", output / "bench", without_spaces(verilog), without_spaces(native) / "sdram_bench.cpp"),
        )

    return cached(f"sdram-{digest(verilog, *sources, text=(str(verilator.version), *FLAGS))}", make) / "bench"


def run_bench(
    bench: Path,
    bursts: Sequence[Burst],
    mhz: float,
    *,
    chip: SdramChip = ULX3S,
    seed: int = 1,
    stall: int = 0,
    strobes: bool = False,
    idle: int = 0,
    skew: int = 64,
    outstanding: tuple[int, int] = (32, 32),
    most_cycles: int = 100_000_000,
) -> Outcome:
    """Sends the bursts, compares every byte that is read, and checks the chip's rules at ``mhz``.

    Parameters:
        stall: per cent of cycles in which each channel's other side is not ready, or has nothing. strobes: writes have random ones.
        idle: cycles without traffic at the end. skew: how many bursts reads may be ahead of writes, or behind.
        outstanding: read and write bursts in flight. most_cycles: more is an error.

    Raises SdramBenchError.
    """
    options = chip_options(chip, mhz)
    options |= {"base": MEMORY_BASE, "seed": seed, "stall": stall, "strobes": int(strobes), "idle": idle, "skew": skew}
    options |= {"reads": outstanding[0], "writes": outstanding[1], "cycles": most_cycles}
    with tempfile.NamedTemporaryFile(prefix="loralith-", suffix=".bursts") as file:
        file.write(b"".join(struct.pack("<4I", burst.write, burst.beat, burst.beats, burst.id) for burst in bursts))
        file.flush()
        command = [str(bench), file.name, *(f"{key}={value}" for key, value in options.items())]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise SdramBenchError(f"the bench took more than {TIMEOUT} s") from None
    try:
        figures = json.loads(done.stdout)
    except ValueError:
        raise SdramBenchError(f"the bench ended with {done.returncode}:\n{done.stdout[-2000:]}") from None
    if figures["wrong"]:
        raise SdramBenchError(figures["wrong"])
    return Outcome(**{name: figures[name] for name in Outcome.__dataclass_fields__})


def chip_options(chip: SdramChip, mhz: float) -> dict[str, int]:
    """What the chip model takes, in picoseconds."""
    options = {name: round(1000 * getattr(chip, name)) for name in ("rc", "ras", "rp", "rcd", "wr", "rrd", "rfc")}
    options |= {name: getattr(chip, name) for name in ("refreshes", "mrd", "banks", "row_bits", "column_bits")}
    options |= {f"cycle{cas}": round(1000 * ns) for cas, ns in chip.cycle_ns}
    return options | {"power_up": round(1e6 * chip.power_up_us), "refresh": round(1e9 * chip.refresh_ms), "period": round(1e6 / mhz)}


def native_sources() -> Path:
    """The folder of the chip model and of what is around it."""
    return _folder("loralith.verif.soc")


def _folder(package: str) -> Path:
    spec = util.find_spec(package)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        raise BuildError(f"{package} is not installed: the bench is built from its sources")
    return Path(locations[0])
