"""Simulated boards as programs of their own, whose UART is a pseudo terminal: any host may drive them."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from loralith.device.device_errors import DeviceError
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
from loralith.progress import tell
from loralith.spec.config import Config
from loralith.toolchain import find_verilator, python_module, without_spaces

__all__ = ["BoardSimulation", "build_board"]

STOP_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""In which the program answers a line, on a machine that is busy with other things."""

Own = TypeVar("Own", bound="BoardSimulation")
"""Not `Self`, which Python 3.11 added: a board has 3.10."""


def build_board(config: Config, name: str, options: Sequence[str] = ()) -> Path:
    """The program of a board, from the cache where it has been built before.

    Parameters: name: `loralith gen <name> --config --output` with ``options`` writes the Verilog, whose module is loralith_<name>;
        native/board/<name>.cpp is the program's source.
    Raises BuildError and ToolchainError, see `loralith.device.native.build`.
    """
    verilator = find_verilator()
    top = f"loralith_{name}"

    def emit(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(config.as_dict()), encoding="utf-8")
        command = python_module("loralith.gen", name, "--config", folder / "config.json", "--output", folder / f"{top}.v")
        tell(f"writing the Verilog of board {name} with configuration {config.name}, once: tens of seconds")
        done = subprocess.run([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise BuildError(f"no Verilog for board {name} with configuration {config.name}:\n{done.stdout[-4000:]}")

    key = digest(text=(hardware_key(config, "loralith.soc"), *options))
    source = cached(f"{name}-verilog-{key}", emit) / f"{top}.v"
    sources = sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.vlt"), *(SOURCES / "board").iterdir()))
    key = digest(source, *sources, text=(str(verilator.version), *VERILATOR_FLAGS, str(LEVELS), CXX_FLAGS, processor()))

    def compiled(folder: Path) -> None:
        native, output = without_spaces(SOURCES), without_spaces(folder.parent) / folder.name
        tell(f"compiling board {name} with configuration {config.name}, once: from half a minute (tiny) on")
        verilator.run(
            *("--cc", *VERILATOR_FLAGS, "--top-module", top, "-Mdir", output / "obj", "--compiler-include", native / "sign_extension.h"),
            *(native / "modules.vlt", without_spaces(source.parent) / source.name),
        )
        program = [native / "board" / f"{name}.cpp"]
        compile_design(verilator, output / "obj", program, output / name, runtime=runtime(), flags=CXX_FLAGS, levels=LEVELS)

    return cached(f"{name}-{key}", compiled) / name


class BoardSimulation:
    """A running program that speaks as `serve.h` says. It ends with `close`, and with the process that started it; Ctrl-C, which a
    terminal sends to all that run in it, is for that process alone.

    Parameter: command, the program and its arguments.

    Attributes: port: the pseudo terminal, for `serial:<port>`. pid: of the program.

    Raises DeviceError where it does not start.
    """

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        self._asking, self._said = threading.Lock(), ""
        self.pid = self._process.pid
        words = self._line().split()
        if words[:1] != ["pty"]:
            raise DeviceError(f"the simulated board does not start: {self.close() or 'no message'}")
        self.port = words[1]

    def stats(self) -> dict[str, Any]:
        """`cycles`, `bytes_to_board` and `bytes_from_board`, and what the board adds; a `violation` of the bus protocol is its first, or
        an empty string. Any thread may ask. Raises DeviceError where the program has ended."""
        return self._ask("stats")

    def load(self, path: Path, address: int) -> None:
        """Puts a file's content into memory from ``address`` on, a multiple of 8, in no time of the board's. Raises DeviceError where it
        cannot be read or does not fit, and where the program has ended."""
        if not self._ask(f"load {address:#x} {path}")["loaded"]:
            raise DeviceError(f"{path} cannot be read, or does not fit in the simulated board's memory at {address:#x}")

    def _ask(self, line: str) -> dict[str, Any]:
        with self._asking:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(f"{line}\n")
                self._process.stdin.flush()
                return json.loads(self._line())
            except (BrokenPipeError, ValueError):  # its pipe is closed, or it has no more to say
                raise DeviceError(f"the simulated board has ended: {self.close() or 'no message'}") from None

    def wait(self, seconds: float) -> bool:
        """Whether the program has ended by itself, after ``seconds`` at most."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> str:
        """End the program; returns what it has said on stderr, each time that it is called."""
        process = self._process
        if process.stdin is None or process.stdin.closed:
            return self._said
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            self._said = process.stderr.read().strip()
        return self._said

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise DeviceError(f"the simulated board has not answered for {ANSWER_SECONDS:g} s")
        return self._process.stdout.readline()

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
