"""The RTL of accelerator and serial link as a simulated board, with the memory model of the native device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loralith.device.native.simulation import BoardSimulation, build_board
from loralith.spec.config import Config

__all__ = ["LinkedSimulation"]


class LinkedSimulation(BoardSimulation):
    """The running board. Building it takes from half a minute on, once.

    Parameters:
        divider: clock cycles per bit of the serial line.
        memory_base, memory_bytes: place and size of memory.
        preload: files that are in memory from the start, and their addresses.

    Raises DeviceError where it does not start; BuildError and ToolchainError, see `build_board`.
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
        options = [f"--divider={divider}", f"--memory-base={memory_base}", f"--memory-bytes={memory_bytes}"]
        program = build_board(config, "linked", options)
        numbers = (divider, memory_base, memory_bytes, config.outstanding_reads, config.outstanding_writes, config.max_burst)
        files = [text for path, address in (preload or {}).items() for text in (str(path), str(address))]
        super().__init__([str(program), *map(str, numbers), *files])
