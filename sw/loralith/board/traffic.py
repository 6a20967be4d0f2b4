"""Bus traffic: bursts of command lists, and of patterns."""

from __future__ import annotations

from dataclasses import dataclass

from loralith.compiler.lists.command_list import CommandList, Fields, bytes_in_dram
from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.device.interpreter.axi_bursts import AXI_BOUNDARY
from loralith.spec.commands import COMMAND_BYTES, Opcode
from loralith.spec.config import Config

__all__ = ["SMALL_MODEL", "Burst", "list_bursts", "sequential", "step_bursts"]

SMALL_MODEL = (Linear("16x48", 64, 48, 48, 4), Linear("16x64", 16, 64, 64, 4), Linear("text", 12, 64, 64, 4, dx=False))
"""LoRA linears of the digit model's sizes, at a batch of four."""


@dataclass(frozen=True)
class Burst:
    """``beats`` bus words from word ``beat`` of memory on."""

    write: bool
    beat: int
    beats: int
    id: int = 0


def list_bursts(commands: CommandList, config: Config, *, list_address: int) -> list[Burst]:
    """The bursts of a list in its order, the descriptors' included, as `rtl.bursts` cuts them; addresses count from the memory's start."""
    bus, found = config.bus_bytes, []

    def add(write: bool, address: int, nbytes: int, id: int) -> None:
        beat, left = address // bus, -(-nbytes // bus)
        while left:
            beats = min(left, config.max_burst, AXI_BOUNDARY // bus - beat % (AXI_BOUNDARY // bus))
            found.append(Burst(write, beat, beats, id))
            beat, left = beat + beats, left - beats

    for i, command in enumerate(commands.commands):
        add(False, list_address + i * COMMAND_BYTES, COMMAND_BYTES, 1)
        if command.opcode == Opcode.COMPUTE:
            continue
        store = command.opcode == Opcode.STORE
        rows, row_bytes = command["rows"], bytes_in_dram(Fields(command))
        if store and command["packed"]:
            rows, row_bytes = 1, rows * row_bytes
        for row in range(rows):
            add(store, command["address"] + row * command["row_stride"], row_bytes, 0)
    return found


def step_bursts(linears: tuple[Linear, ...], config: Config) -> list[Burst]:
    """The bursts of a training step of LoRA linears as one list, which lies behind their tensors."""
    end, work = 0, []
    for linear in linears:
        tensors, end = place(linear, end, config)
        work.append((linear, tensors))
    return list_bursts(compile_step(work, config), config, list_address=end)


def sequential(write: bool, beats: int, config: Config) -> list[Burst]:
    """Memory from its start on, in bursts of the most beats."""
    most = config.max_burst
    return [Burst(write, beat, min(most, beats - beat)) for beat in range(0, beats, most)]
