"""Several steps as one list: a copy of the step's commands for each, which reads a batch and a key of its own and keeps its loss."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.step.compile import CompiledStep
from loralith.compiler.step.views import Buffer
from loralith.spec.commands import Command, LoadTarget, Opcode, StoreSource

__all__ = ["SLOT", "Slot", "slot_bytes", "slots_at", "submission"]

SLOT = 64
"""Every tensor of a slot begins at a multiple of this."""


@dataclass(frozen=True)
class Slot:
    """Where one step of a submission has what the host writes and reads: ``inputs`` by node, ``key`` and ``loss``, all addresses."""

    inputs: Mapping[str, int]
    key: int
    loss: int


def _buffers(compiled: CompiledStep, tables: Collection[str]) -> dict[str, Buffer]:
    """Of the inputs that lie in slots: all that have no table."""
    return {name: view.buffer for name, view in compiled.inputs.items() if name not in tables}


def _size(nbytes: int) -> int:
    return -(-nbytes // SLOT) * SLOT


def slot_bytes(compiled: CompiledStep, tables: Collection[str] = ()) -> int:
    """Bytes of device memory of a slot: the batch but for what is in ``tables``, the key and the loss."""
    return sum(_size(buffer.nbytes) for buffer in _buffers(compiled, tables).values()) + 2 * SLOT


def slots_at(compiled: CompiledStep, base: int, count: int, tables: Collection[str] = ()) -> list[Slot]:
    """``count`` slots one after the other from ``base`` on."""
    slots = []
    for _ in range(count):
        inputs = {}
        for name, buffer in _buffers(compiled, tables).items():
            inputs[name] = base
            base += _size(buffer.nbytes)
        slots.append(Slot(inputs, base, base + SLOT))
        base += 2 * SLOT
    return slots


def submission(compiled: CompiledStep, slots: Sequence[Slot]) -> CommandList:
    """A step for each of ``slots``, in order, as one list without tokens: that of the first k steps is its beginning, k / n of it.

    A LOAD from an input or of the key is one from the slot. What nothing but LOADs touch may lie elsewhere for each step. At the end of
    a step its loss goes from the step's memory to the slot, by a word of V0.
    """
    commands: list[Command] = []
    notes: list[str] = []
    for slot in slots:
        moves = sorted(
            (view.buffer.address, view.buffer.address + view.buffer.nbytes, slot.inputs[name])
            for name, view in compiled.inputs.items()
            if name in slot.inputs
        )
        moves = sorted([*moves, (compiled.key, compiled.key + 8, slot.key)])
        starts = [start for start, _, _ in moves]
        for command, note in zip(compiled.commands.commands, compiled.commands.notes, strict=True):
            if command.opcode is Opcode.LOAD:
                address = command["address"]
                start, past, place = moves[max(bisect_right(starts, address) - 1, 0)]
                if start <= address < past:
                    command = Command.make(Opcode.LOAD, **{**dict(command.fields), "address": place + address - start})
            commands.append(command)
            notes.append(note)
        loss = compiled.outputs["loss"].buffer
        row = {"rows": 1, "row_bytes": loss.nbytes, "format": int(loss.format)}
        commands.append(Command.make(Opcode.LOAD, target=int(LoadTarget.V0), address=loss.address, **row))
        commands.append(Command.make(Opcode.STORE, source=int(StoreSource.V0), address=slot.loss, **row))
        notes += ["the step's loss"] * 2
    return CommandList(tuple(commands), tuple(notes))
