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
    """Writes bytes to consecutive addresses, each bus word as a burst of one beat, one outstanding.

    Longer bursts would gain nothing on so slow a line, and would keep the memory from the accelerator. A byte takes two cycles: it is
    registered before its lane is selected. Responses are registered too: the executor and the memory controller may be placed far away.

    Parameter: data_bytes of the bus.

    Members:
        axi: channels AW, W and B.
        control: ``done`` comes after the response to the last word. After an error, ``value`` is the address of the word that failed; the
            bytes after it are taken and discarded.
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
        byte_r = Signal(FrameByte)
        abandoned = Signal()
        response_valid, response_r = Signal(), Signal(2)
        lane = address[:size]
        m.d.comb += control.progress.eq((axi.bvalid & axi.bready) | (self.i.valid & self.i.ready))
        m.d.comb += [axi.awsize.eq(size), axi.awburst.eq(Burst.INCR), axi.awcache.eq(CACHE), axi.wlast.eq(1)]
        m.d.sync += [control.done.eq(0), response_valid.eq(axi.bvalid & axi.bready), response_r.eq(axi.bresp)]
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
                m.d.sync += byte_r.eq(self.i.payload)  # without enable, which would come from far away
                with m.If(control.abandon):
                    m.next = "idle"
                with m.Elif(self.i.valid):
                    m.next = "merge"
            with m.State("merge"):
                m.d.sync += [
                    address.eq(address + 1),
                    axi.awaddr.eq(Cat(Const(0, size), address[size:])),
                    axi.wdata.word_select(lane, 8).eq(byte_r.byte),
                    axi.wstrb.bit_select(lane, 1).eq(1),
                ]
                m.next = "collect"
                with m.If(control.abandon):
                    m.next = "idle"
                with m.Elif(control.status != Status.OK):
                    with m.If(byte_r.last):
                        m.d.sync += control.done.eq(1)
                        m.next = "idle"
                with m.Elif(lane.all() | byte_r.last):
                    m.d.sync += [axi.awvalid.eq(1), axi.wvalid.eq(1)]
                    m.next = "word"
            with m.State("word"):
                m.d.comb += axi.bready.eq(1)
                with m.If(axi.awready):
                    m.d.sync += axi.awvalid.eq(0)
                with m.If(axi.wready):
                    m.d.sync += axi.wvalid.eq(0)
                with m.If(response_valid):
                    m.d.sync += axi.wstrb.eq(0)
                    with m.If(response_r[1]):
                        m.d.sync += [control.status.eq(bus_status(response_r)), control.value.eq(axi.awaddr)]
                    m.next = "collect"
                    with m.If(abandoned | control.abandon | byte_r.last):
                        m.d.sync += control.done.eq(~abandoned & ~control.abandon)
                        m.next = "idle"
        return m
