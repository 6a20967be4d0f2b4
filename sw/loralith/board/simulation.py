"""The board's whole system under Verilator, to its pins: the serial line on a pseudo terminal, the memory's pins on the chip model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from loralith.board.sdram import chip_options, native_sources
from loralith.device.native.build import (
    CXX_FLAGS,
    LEVELS,
    SOURCES,
    VERILATOR_FLAGS,
    BuildError,
    cached,
    digest,
    hardware_key,
    processor,
    runtime,
)
from loralith.device.native.compile import compile_design
from loralith.device.native.simulation import BoardSimulation
from loralith.progress import tell
from loralith.spec.config import Config
from loralith.spec.link import divider
from loralith.spec.sdram import MEMORY_BASE, ULX3S, SdramChip
from loralith.toolchain import find_verilator, python_module, without_spaces

__all__ = ["PATIENCE", "PinSimulation", "build_pins"]

TOP = "loralith_board"
PROGRAM = "board"
BAUD = 20e6
"""Of the simulated line: at the board's own 3 Mbaud a byte takes 267 cycles."""
PATIENCE = 30.0
"""Seconds without a sign of the simulated board after which a host gives up: it runs hundreds of times slower than a real one."""


def build_pins(config: Config, *, mhz: float = 80, cas: int = 3, baud: float = BAUD) -> Path:
    """The program, from the cache where it has been built before. Raises BuildError and ToolchainError."""
    verilator, chip = find_verilator(), native_sources()
    options = ["--mhz", str(mhz), "--cas", str(cas), "--baud", str(baud)]

    def emit(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(config.as_dict()), encoding="utf-8")
        command = python_module("loralith.gen", "board", "--config", folder / "config.json", "--output", folder / f"{TOP}.v", *options)
        tell(f"writing the Verilog of the board with configuration {config.name}, once: tens of seconds")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise BuildError(f"no Verilog for the board with configuration {config.name}:\n{done.stdout[-4000:]}")

    source = cached(f"board-verilog-{hardware_key(config, 'loralith.soc')}-{digest(text=tuple(options))}", emit) / f"{TOP}.v"
    sources = sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.vlt"), *(SOURCES / "board").iterdir(), *chip.glob("*.h"), chip / "board.cpp"))
    key = digest(source, *sources, text=(str(verilator.version), *VERILATOR_FLAGS, str(LEVELS), CXX_FLAGS, processor()))

    def compiled(folder: Path) -> None:
        native, output = without_spaces(SOURCES), without_spaces(folder.parent) / folder.name
        tell(f"compiling the board with configuration {config.name}, once: from half a minute (tiny) on")
        verilator.run(
            *("--cc", *VERILATOR_FLAGS, "--top-module", TOP, "-Mdir", output / "obj", "--compiler-include", native / "sign_extension.h"),
            *(native / "modules.vlt", without_spaces(source.parent) / source.name),
        )
        program, flags = [without_spaces(chip) / "board.cpp"], f"{CXX_FLAGS} -I{native / 'board'}"
        compile_design(verilator, output / "obj", program, output / PROGRAM, runtime=runtime(), flags=flags, levels=LEVELS)

    return cached(f"board-{key}", compiled) / PROGRAM


class PinSimulation(BoardSimulation):
    """The running board. A rule of the memory chip that is broken ends it.

    Parameters: see `build_pins`; chip: the data sheet that is checked; preload: files that are in memory from the start, and their
    addresses, multiples of 8; lines_low: the chip's address pins that have no connection and are low, for a board with a defect.
    """

    def __init__(
        self,
        config: Config,
        *,
        mhz: float = 80,
        cas: int = 3,
        baud: float = BAUD,
        chip: SdramChip = ULX3S,
        preload: Mapping[Path, int] | None = None,
        lines_low: Iterable[int] = (),
    ) -> None:
        program = build_pins(config, mhz=mhz, cas=cas, baud=baud)
        command = [str(program), str(divider(1e6 * mhz, baud)), str(MEMORY_BASE)]
        command += [f"{key}={value}" for key, value in chip_options(chip, mhz).items()]
        command.append(f"lines_low={sum(1 << line for line in set(lines_low))}")
        for path, address in (preload or {}).items():
            command += [f"@{path}", str(address)]
        super().__init__(command)
