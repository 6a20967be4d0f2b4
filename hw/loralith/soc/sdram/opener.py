"""Opens the row of each chunk while those before it are transferred."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.sdram import SdramChip, SdramTiming

from .interfaces import Chunk

__all__ = ["RowOpener", "RowRequest"]


ACTIVE_SPACING = 3
"""Cycles between two ACTIVE commands, which the state machine keeps by itself."""


class RowRequest(data.StructLayout):
    """ACTIVE of ``row`` in ``bank``, or a PRECHARGE of the bank."""

    def __init__(self, chip: SdramChip) -> None:
        super().__init__({"activate": 1, "bank": range(chip.banks), "row": chip.row_bits})


class RowOpener(wiring.Component):
    """Takes chunks in order, requests what opens their row, and passes them on once their bank's open row can be no other than theirs.

    Members:
        i, o: chunks; one in three cycles where rows are open.
        request: what to send; held until it is taken.
        hold: take no new chunk. idle: no chunk is inside.
        open, can_activate, can_precharge: of the banks.

    Raises ValueError for an ``rrd`` that two ACTIVE do not keep by themselves.
    """

    def __init__(self, chip: SdramChip, timing: SdramTiming, id_bits: int) -> None:
        if timing.rrd > ACTIVE_SPACING:
            raise ValueError(f"rrd must be at most {ACTIVE_SPACING} cycles, not {timing.rrd}")
        self._chip = chip
        chunks = stream.Signature(Chunk(chip, id_bits))
        super().__init__(
            {
                "i": In(chunks),
                "o": Out(chunks),
                "request": Out(stream.Signature(RowRequest(chip))),
                "hold": In(1),
                "idle": Out(1),
                "open": In(chip.banks),
                "can_activate": In(chip.banks),
                "can_precharge": In(chip.banks),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, chunk, request = self._chip, self.o.payload, self.request
        rows = Array(Signal(chip.row_bits, name=f"row{i}") for i in range(chip.banks))
        row, is_open, pushed = Signal(chip.row_bits), Signal(), Signal()
        can_activate, can_precharge = Array(self.can_activate), Array(self.can_precharge)
        bank = chunk.bank
        m.d.comb += [request.payload.bank.eq(bank), request.payload.row.eq(chunk.row)]

        with m.FSM():
            with m.State("LOOKUP"):
                m.d.comb += [self.idle.eq(1), self.i.ready.eq(~self.hold)]
                taken = self.i.payload.bank
                m.d.sync += [chunk.eq(self.i.payload), row.eq(rows[taken]), is_open.eq(Array(self.open)[taken]), pushed.eq(0)]
                with m.If(self.i.valid & self.i.ready):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If(~is_open):
                    m.next = "ACTIVATE"
                with m.Elif(row == chunk.row):
                    m.next = "PUSH"
                with m.Else():
                    m.next = "PRECHARGE"
            with m.State("PRECHARGE"):
                m.d.comb += request.valid.eq(can_precharge[bank])
                with m.If(request.valid & request.ready):
                    m.next = "ACTIVATE"
            with m.State("ACTIVATE"):  # the bank is closed, so that the chunk may go ahead of its command
                m.d.comb += [
                    request.valid.eq(can_activate[bank]),
                    request.payload.activate.eq(1),
                    self.o.valid.eq(~pushed),
                ]
                with m.If(self.o.ready):
                    m.d.sync += pushed.eq(1)
                with m.If(request.valid & request.ready):
                    m.d.sync += rows[bank].eq(chunk.row)
                    with m.If(pushed | self.o.ready):
                        m.next = "LOOKUP"
                    with m.Else():
                        m.next = "PUSH"
            with m.State("PUSH"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "LOOKUP"
        return m
