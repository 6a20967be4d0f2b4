"""The column commands: one every `BURST` cycles where the rows are open."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.sdram import BURST, SdramChip, SdramTiming

from .interfaces import Chunk, Column, Command, Operation

__all__ = ["ColumnIssuer"]


class ColumnIssuer(wiring.Component):
    """Sends a READ or WRITE for each beat of the chunks, in order, as soon as the bank and the data bus allow it.

    Members:
        i: chunks. can_column: of the banks.
        column: the column command of this cycle, which nothing keeps back. command: its pins. done: it is its chunk's last.
    """

    def __init__(self, chip: SdramChip, timing: SdramTiming, id_bits: int) -> None:
        self._chip, self._timing = chip, timing
        super().__init__(
            {
                "i": In(stream.Signature(Chunk(chip, id_bits))),
                "can_column": In(chip.banks),
                "column": Out(Column(id_bits)),
                "command": Out(Command(chip)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunk, column = Signal.like(self.i.payload), self.column
        active = Signal()
        slot = Signal(range(BURST))
        # Bus turnaround: one idle cycle between the last word read and the first one written.
        turnaround = Signal(range(BURST + self._timing.cas + 1))
        issue, ends = Signal(), Signal()
        m.d.comb += [
            issue.eq(active & (slot == 0) & Array(self.can_column)[chunk.bank] & (~chunk.write | (turnaround == 0))),
            ends.eq(chunk.beats == 0),
            self.done.eq(issue & ends),
            self.i.ready.eq(~active),
            column.valid.eq(issue),
            column.write.eq(chunk.write),
            column.id.eq(chunk.id),
            column.last.eq(chunk.last & ends),
            column.error.eq(chunk.error),
            self.command.bank.eq(chunk.bank),
            self.command.address.eq(Cat(Const(0, exact_log2(BURST)), chunk.column)),
        ]
        with m.If(chunk.write):
            m.d.comb += self.command.operation.eq(Operation.WRITE)
        with m.Else():
            m.d.comb += self.command.operation.eq(Operation.READ)
        with m.If(issue):
            m.d.sync += [chunk.column.eq(chunk.column + 1), chunk.beats.eq(chunk.beats - 1), slot.eq(BURST - 1)]
            with m.If(ends):
                m.d.sync += active.eq(0)
        with m.Elif(slot != 0):
            m.d.sync += slot.eq(slot - 1)
        with m.If(issue & ~chunk.write):
            m.d.sync += turnaround.eq(BURST + self._timing.cas)
        with m.Elif(turnaround != 0):
            m.d.sync += turnaround.eq(turnaround - 1)
        with m.If(~active):
            m.d.sync += [chunk.eq(self.i.payload), active.eq(self.i.valid)]
        return m
