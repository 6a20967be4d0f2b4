"""Latches the first of several faults."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .interfaces import FaultSignature

__all__ = ["FaultLatch"]


class FaultLatch(wiring.Component):
    """Keeps the first fault of ``number`` sources, of one cycle's the lowest index.

    Members:
        sources: the faults; one cycle of ``valid`` is enough.
        fault: held from the cycle after until ``clear``.
        clear: drop it.
    """

    def __init__(self, number: int) -> None:
        super().__init__({"sources": In(FaultSignature).array(number), "fault": Out(FaultSignature), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.clear):
            m.d.sync += self.fault.valid.eq(0)
        with m.Elif(~self.fault.valid):
            for source in reversed(self.sources):
                with m.If(source.valid):
                    m.d.sync += [
                        getattr(self.fault, name).eq(getattr(source, name)) for name in ("valid", "code", "detail", "command", "address")
                    ]
        return m
