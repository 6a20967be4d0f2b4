"""Bytes into memory, a bus word at a time."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.rtl.axi import CACHE, Axi4WriteSignature, Burst
from loralith.spec.link import Status

from .cobs import FrameByte
from .messages import OperationControl, bus_status

__all__ = ["MemoryWriter"]


class MemoryWriter(wiring.Component):
    """Writes bytes to consecutive addresses, each bus word as a burst of one beat that is answered before the next begins.

    The line is so slow that longer bursts would gain nothing, and would keep the memory from the accelerator. A byte takes two cycles, in a
    register before its lane is selected, and an answer is registered too: bytes come from the engine and answers from the memory
    controller, and both may lie far away.

    Parameter: data_bytes of the bus.

    Members:
        axi: channels AW, W and B.
        control: ``done`` comes after the answer to the last word. After an error, ``value`` is the address of the word that failed; the
            bytes after it are taken, and not written.
        address: of the first byte, at ``start``.
        i: the bytes, to the last.
    """

    def __init__(self, data_bytes: int) -> None:
        self._data_bytes = data_bytes
        super().__init__(
            {
                "axi": Out(Axi4WriteSignature(data_bytes)),
                "control": In(OperationControl),
                "address": In(32),
                "i": In(stream.Signature(FrameByte)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, control, size = self.axi, self.control, exact_log2(self._data_bytes)
        address = Signal(32)
        entry = Signal(FrameByte)
        abandoned = Signal()
        answered, response = Signal(), Signal(2)
        lane = address[:size]
        m.d.comb += control.progress.eq((axi.bvalid & axi.bready) | (self.i.valid & self.i.ready))
        m.d.comb += [axi.awsize.eq(size), axi.awburst.eq(Burst.INCR), axi.awcache.eq(CACHE), axi.wlast.eq(1)]
        m.d.sync += [control.done.eq(0), answered.eq(axi.bvalid & axi.bready), response.eq(axi.bresp)]
        with m.If(control.abandon):
            m.d.sync += abandoned.eq(1)

        with m.FSM():
            with m.State("idle"):
                m.d.comb += control.ready.eq(1)
                m.d.sync += abandoned.eq(0)
                with m.If(control.start):
                    m.d.sync += [address.eq(self.address), axi.wstrb.eq(0), control.status.eq(Status.OK), control.value.eq(0)]
                    m.next = "collect"
            with m.State("collect"):
                m.d.comb += self.i.ready.eq(~control.abandon)
                m.d.sync += entry.eq(self.i.payload)  # in each cycle: the enable would come from far away
                with m.If(control.abandon):
                    m.next = "idle"
                with m.Elif(self.i.valid):
                    m.next = "place"
            with m.State("place"):
                m.d.sync += [
                    address.eq(address + 1),
                    axi.awaddr.eq(Cat(Const(0, size), address[size:])),
                    axi.wdata.word_select(lane, 8).eq(entry.byte),
                    axi.wstrb.bit_select(lane, 1).eq(1),
                ]
                m.next = "collect"
                with m.If(control.abandon):
                    m.next = "idle"
                with m.Elif(control.status != Status.OK):
                    with m.If(entry.last):
                        m.d.sync += control.done.eq(1)
                        m.next = "idle"
                with m.Elif(lane.all() | entry.last):
                    m.d.sync += [axi.awvalid.eq(1), axi.wvalid.eq(1)]
                    m.next = "word"
            with m.State("word"):
                m.d.comb += axi.bready.eq(1)
                with m.If(axi.awready):
                    m.d.sync += axi.awvalid.eq(0)
                with m.If(axi.wready):
                    m.d.sync += axi.wvalid.eq(0)
                with m.If(answered):
                    m.d.sync += axi.wstrb.eq(0)
                    with m.If(response[1]):
                        m.d.sync += [control.status.eq(bus_status(response)), control.value.eq(axi.awaddr)]
                    m.next = "collect"
                    with m.If(abandoned | control.abandon | entry.last):
                        m.d.sync += control.done.eq(~abandoned & ~control.abandon)
                        m.next = "idle"
        return m
