"""A list's whole run on the native model: what another simulation of the same Verilog needs to repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.spec.commands import COMMAND_BYTES

if TYPE_CHECKING:
    from loralith.device.verilator import VerilatorDevice

__all__ = ["Capture", "capture"]

PAGE = 4096


@dataclass(frozen=True)
class Capture:
    """Memory before and after (uint8 [bytes] from `base` on), where the list lies in it, counters by name, and the recorded handshakes
    (see `VerilatorDevice.recording`)."""

    base: int
    list_base: int
    list_length: int
    before: np.ndarray
    after: np.ndarray
    counters: dict[str, int]
    trace: bytes


def capture(device: VerilatorDevice, commands: CommandList | bytes, timeout: float = 60.0) -> Capture:
    """Run the list and keep all of the device's memory up to the list's end. Use a device with little in its memory.

    Raises what `Device.run` raises, but a faulting list is captured as well.
    """
    data = commands.pack() if isinstance(commands, CommandList) else commands
    with device.arena():
        address = device.alloc(len(data), PAGE)
        device.write(address, data)
        size = min(device.memory_bytes, -(-device.used_bytes // PAGE) * PAGE)
        before = device.read(device.memory_base, size)
        device.record = True
        try:
            result = device.run_at(address, len(data) // COMMAND_BYTES, timeout)
        finally:
            device.record = False
        after = device.read(device.memory_base, size)
    return Capture(device.memory_base, address, len(data) // COMMAND_BYTES, before, after, result.counters._asdict(), device.recording)
