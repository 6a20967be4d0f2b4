"""The RTL of accelerator and serial link as a program of its own, its UART on a pseudo terminal: any host may drive it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from loralith.device.errors import DeviceError
from loralith.device.native.build import (
    CXX_FLAGS,
    MAKE_FLAGS,
    SOURCES,
    VERILATOR_FLAGS,
    BuildError,
    cached,
    digest,
    hardware_key,
    processor,
)
from loralith.progress import tell
from loralith.spec.config import Config
from loralith.toolchain import find_verilator, python_module, without_spaces

__all__ = ["LinkedSimulation", "SimulatedProgram", "build_linked"]

TOP = "loralith_linked"
PROGRAM = "linked"
STOP_SECONDS = 10.0


def build_linked(config: Config, *, divider: int = 4, memory_base: int = 0, memory_bytes: int = 32 << 20) -> Path:
    """The program, from the cache where it has been built before.

    Parameters: divider, clock cycles per bit; memory_base, memory_bytes: what the board tells of its memory.
    Raises BuildError and ToolchainError, see `loralith.device.native.build`.
    """
    verilator = find_verilator()
    options = [str(number) for number in (divider, memory_base, memory_bytes)]

    def emit(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(config.as_dict()), encoding="utf-8")
        command = python_module("loralith.gen", "linked", "--config", folder / "config.json", "--output", folder / f"{TOP}.v")
        command += ["--divider", options[0], "--memory-base", options[1], "--memory-bytes", options[2]]
        tell(f"writing the Verilog of configuration {config.name} with its link, once: tens of seconds")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise BuildError(f"no Verilog for configuration {config.name} with its link:\n{done.stdout[-4000:]}")

    source = cached(f"linked-verilog-{hardware_key(config, 'loralith.soc')}-{'-'.join(options)}", emit) / f"{TOP}.v"
    sources = sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.vlt"), *(SOURCES / "board").iterdir()))
    key = digest(source, *sources, text=(str(verilator.version), *VERILATOR_FLAGS, MAKE_FLAGS, CXX_FLAGS, processor()))

    def compiled(folder: Path) -> None:
        native, output = without_spaces(SOURCES), without_spaces(folder.parent) / folder.name
        tell(f"compiling the board of configuration {config.name}, once: from half a minute (tiny) on")
        verilator.run(
            *("--cc", "--exe", "--build", "-j", "2", *VERILATOR_FLAGS, "--top-module", TOP, "-Mdir", output / "obj"),
            *("--compiler-include", native / "arithmetic.h"),
            *("-MAKEFLAGS", MAKE_FLAGS, "-CFLAGS", CXX_FLAGS, "-o", output / PROGRAM),
            *(native / "modules.vlt", without_spaces(source.parent) / source.name, native / "board" / "linked.cpp"),
        )

    return cached(f"linked-{key}", compiled) / PROGRAM


class SimulatedProgram:
    """A simulated board that runs as a program of its own. It ends with `close`, and with the process that started it.

    Attributes: port: the pseudo terminal, for `serial:<port>`.

    Raises DeviceError where it does not start.
    """

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        words = self._line().split()
        if words[:1] != ["pty"]:
            self.close()
            raise DeviceError(f"the simulated board does not start: {self.errors or 'no message'}")
        self.port = words[1]

    def stats(self) -> dict[str, Any]:
        """Cycles, bytes on the line each way, and `violation`, the first breach of the bus protocol or an empty string."""
        assert self._process.stdin is not None
        self._process.stdin.write("stats\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        """End the program."""
        process = self._process
        if process.poll() is None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.errors = process.stderr.read() if process.stderr and not process.stderr.closed else ""
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None:
                file.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LinkedSimulation(SimulatedProgram):
    """Accelerator and link, each with a memory port of its own.

    Parameters: see `build_linked`; preload: files that are in memory from the start, and their addresses.
    """

    def __init__(
        self,
        config: Config,
        *,
        divider: int = 4,
        memory_base: int = 0,
        memory_bytes: int = 32 << 20,
        preload: Mapping[Path, int] | None = None,
    ) -> None:
        program = build_linked(config, divider=divider, memory_base=memory_base, memory_bytes=memory_bytes)
        numbers = (divider, memory_base, memory_bytes, config.outstanding_reads, config.outstanding_writes, config.max_burst)
        command = [str(program), *map(str, numbers)]
        for path, address in (preload or {}).items():
            command += [str(path), str(address)]
        super().__init__(command)
