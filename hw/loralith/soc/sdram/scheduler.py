"""Which command the chip is sent in each cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from loralith.rtl.queue import FIFO
from loralith.spec.sdram import SdramChip, SdramTiming

from .bank import Bank
from .columns import ColumnIssuer
from .interfaces import Chunk, Column, Command, Operation
from .maintenance import Maintenance
from .opener import RowOpener

__all__ = ["Scheduler"]

LOOKAHEAD = 4
"""Chunks whose rows are open, or soon, before their turn."""


class Scheduler(wiring.Component):
    """Sends chunks to the chip in order, opens rows ahead of their turn, starts the chip and refreshes it.

    A chunk that is taken ends in a bounded time: the data of a write must be there, and so must the space for that of a read.

    Members:
        i: chunks. command: the chip's command pins, registered. column: the data path's side of it, in the same cycle.
        started: the chip has its mode.

    Attributes:
        delay: cycles from a chunk to its first column command, while everything is idle and its row is open: 5.
    """

    delay = 5

    def __init__(self, chip: SdramChip, timing: SdramTiming, id_bits: int) -> None:
        self._chip, self._timing, self._id_bits = chip, timing, id_bits
        super().__init__(
            {
                "i": In(stream.Signature(Chunk(chip, id_bits))),
                "command": Out(Command(chip), init={"operation": Operation.NOP}),  # pyright: ignore[reportCallIssue]
                "column": Out(Column(id_bits)),
                "started": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, timing, id_bits = self._chip, self._timing, self._id_bits
        m.submodules.maintenance = maintenance = Maintenance(chip, timing)
        m.submodules.opener = opener = RowOpener(chip, timing, id_bits)
        m.submodules.lookahead = lookahead = FIFO(Chunk(chip, id_bits), LOOKAHEAD)
        m.submodules.columns = columns = ColumnIssuer(chip, timing, id_bits)
        banks = [Bank(timing, chunks=LOOKAHEAD + 2) for _ in range(chip.banks)]
        connect(m, wiring.flipped(self.i), opener.i)
        connect(m, opener.o, lookahead.i)
        connect(m, lookahead.o, columns.i)

        request, column = opener.request, columns.column
        sent = Signal()
        m.d.comb += [request.ready.eq(~column.valid), sent.eq(request.valid & request.ready)]
        for i, bank in enumerate(banks):
            m.submodules[f"bank{i}"] = bank
            opens, transfers = request.payload.bank == i, columns.command.bank == i
            m.d.comb += [
                bank.activate.eq(sent & request.payload.activate & opens),
                bank.precharge.eq((sent & ~request.payload.activate & opens) | maintenance.precharge),
                bank.read.eq(column.valid & ~column.write & transfers),
                bank.write.eq(column.valid & column.write & transfers),
                bank.push.eq(opener.o.valid & opener.o.ready & (opener.o.payload.bank == i)),
                bank.done.eq(columns.done & transfers),
            ]
        drained = Cat(bank.drained for bank in banks).all() & opener.idle
        m.d.comb += [
            opener.open.eq(Cat(bank.open for bank in banks)),
            opener.can_activate.eq(Cat(bank.can_activate for bank in banks)),
            opener.can_precharge.eq(Cat(bank.can_precharge for bank in banks)),
            columns.can_column.eq(Cat(bank.can_column for bank in banks)),
            opener.hold.eq(maintenance.hold),
            maintenance.drained.eq(drained),
            maintenance.idle.eq(drained & ~self.i.valid),
            self.started.eq(maintenance.started),
        ]

        m.d.sync += [self.command.operation.eq(Operation.NOP), self.column.eq(column)]
        with m.If(maintenance.valid):
            m.d.sync += self.command.eq(maintenance.command)
        with m.Elif(column.valid):
            m.d.sync += self.command.eq(columns.command)
        with m.Else():
            m.d.sync += [self.command.bank.eq(request.payload.bank), self.command.address.eq(request.payload.row)]
            with m.If(request.valid & request.payload.activate):
                m.d.sync += self.command.operation.eq(Operation.ACTIVE)
            with m.Elif(request.valid):
                m.d.sync += [self.command.operation.eq(Operation.PRECHARGE), self.command.address.eq(0)]
        return m
