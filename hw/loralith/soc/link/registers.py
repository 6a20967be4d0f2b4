"""One register access at a time on AXI4-Lite."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from loralith.rtl.axi import AxiLiteSignature
from loralith.spec.link import REGISTER_ADDRESS_BITS, Status

from .messages import OperationControl, bus_status

__all__ = ["RegisterMaster"]


class RegisterMaster(wiring.Component):
    """Reads or writes a word.

    Members:
        axi: the bus.
        control: ``value`` is the word that was read; after an error the address, after a write 0.
        write, address, data: what to do; stable from ``start`` to ``done``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "axi": In(AxiLiteSignature(REGISTER_ADDRESS_BITS)),
                "control": In(OperationControl),
                "write": In(1),
                "address": In(32),
                "data": In(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, control = self.axi, self.control
        abandoned = Signal()
        response = Signal(2)
        # Registers: an abandoned access goes on while the engine's own have changed.
        m.d.comb += [axi.wstrb.eq(0xF), axi.araddr.eq(axi.awaddr)]
        m.d.sync += control.done.eq(0)
        with m.If(control.abandon):
            m.d.sync += abandoned.eq(1)

        with m.FSM():
            with m.State("idle"):
                m.d.comb += control.ready.eq(1)
                with m.If(control.start):
                    m.d.sync += [axi.awaddr.eq(self.address), axi.wdata.eq(self.data), abandoned.eq(0)]
                    m.d.sync += [axi.awvalid.eq(self.write), axi.wvalid.eq(self.write), axi.arvalid.eq(~self.write)]
                    m.next = "wait"
            with m.State("wait"):
                m.d.comb += [axi.bready.eq(1), axi.rready.eq(1), response.eq(Mux(axi.bvalid, axi.bresp, axi.rresp))]
                with m.If(axi.awready):
                    m.d.sync += axi.awvalid.eq(0)
                with m.If(axi.wready):
                    m.d.sync += axi.wvalid.eq(0)
                with m.If(axi.arready):
                    m.d.sync += axi.arvalid.eq(0)
                with m.If(axi.bvalid | axi.rvalid):
                    status = bus_status(response)
                    m.d.sync += [
                        control.done.eq(~abandoned & ~control.abandon),
                        control.status.eq(status),
                        control.value.eq(Mux(status != Status.OK, axi.awaddr, Mux(axi.rvalid, axi.rdata, 0))),
                    ]
                    m.next = "idle"
        return m
