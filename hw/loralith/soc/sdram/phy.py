"""The registers in the pins' I/O cells."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.sdram import SdramChip

from .interfaces import PinsSignature

__all__ = ["PIN_DELAY", "SdramPhy"]

PIN_DELAY = 2
"""Cycles that the registers add, out and in together. docs/board.md has why the chip's own delay adds none at 80 MHz and more."""


class SdramPhy(wiring.Component):
    """A register at every pin: of the ECP5's I/O cells, or plain ones for simulation, which behave alike.

    Members: i: the controller's pins. o: the chip's.
    """

    def __init__(self, chip: SdramChip, *, io_cells: bool) -> None:
        self._io_cells = io_cells
        super().__init__({"i": In(PinsSignature(chip)), "o": Out(PinsSignature(chip))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm", "dq_o"):
            self._register(m, "OFS1P3DX", Value.cast(getattr(self.i, name)), Value.cast(getattr(self.o, name)))
        self._register(m, "IFS1P3DX", Value.cast(self.o.dq_i), Value.cast(self.i.dq_i))
        # The output enables stay in the fabric: one register drives the buffers of sixteen pins.
        m.d.sync += self.o.dq_oe.eq(self.i.dq_oe)
        return m

    def _register(self, m: Module, kind: str, i: Value, o: Value) -> None:
        if not self._io_cells:
            register = Signal(len(o), init=getattr(o, "init", 0))
            m.d.sync += register.eq(i)
            m.d.comb += o.eq(register)
            return
        for bit in range(len(o)):
            m.submodules += Instance(kind, i_D=i[bit], i_SCLK=ClockSignal(), i_SP=Const(1), **{"i_CD": Const(0)}, o_Q=o[bit])
