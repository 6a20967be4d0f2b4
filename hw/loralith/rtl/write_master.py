"""The AXI write channels."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.config import Config

from .axi import CACHE, Axi4WriteSignature
from .axi import Burst as BurstType
from .bursts import Burst
from .gate import BurstGate
from .queue import FIFO, SkidBuffer

__all__ = ["WriteBeat", "WriteMaster"]


class WriteBeat(data.StructLayout):
    """One bus word and which of its bytes to write."""

    def __init__(self, config: Config) -> None:
        super().__init__({"data": data.ArrayLayout(8, config.bus_bytes), "strobe": config.bus_bytes})


class WriteMaster(wiring.Component):
    """Issues bursts (id 0) and sends their beats in the same order, never a beat ahead of its address.

    One address and one beat per cycle, also for bursts of one beat. At most ``outstanding_writes`` bursts are in flight. A
    burst outside the window is not issued, see ``BurstGate``.

    Members:
        axi: channels AW, W and B.
        bursts: what to write where; ``last`` marks a command's last burst.
        beats: the data of all bursts in a row. Must come for every issued burst, also after ``stop``.
        window_base, window_limit: the window.
        stop: issue nothing new; issued bursts finish.
        clear: reset; only while not ``busy``.
        busy: an address is on the bus or its response is not in.
        command_done: one-cycle pulse with the response to a burst marked ``last``.
        error: one-cycle pulse with a response that is not OKAY; error_address: first address of its burst.
        refused: a burst was refused; held until ``clear``. refused_address: its address.
        burst, beat: one-cycle pulses, for the counters.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "axi": Out(Axi4WriteSignature(config.bus_bytes)),
                "bursts": In(stream.Signature(Burst)),
                "beats": In(stream.Signature(WriteBeat(config))),
                "window_base": In(64),
                "window_limit": In(64),
                "stop": In(1),
                "clear": In(1),
                "busy": Out(1),
                "command_done": Out(1),
                "error": Out(1),
                "error_address": Out(64),
                "refused": Out(1),
                "refused_address": Out(64),
                "burst": Out(1),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, axi = self._config, self.axi
        m.submodules.gate = gate = BurstGate(config)
        # AWLEN of the issued bursts. A length bypasses the memory of ``lengths`` while that is empty: a memory's output is late.
        m.submodules.lengths = lengths = FIFO(8, config.outstanding_writes)
        m.submodules.sending = sending = SkidBuffer(8)
        m.submodules.issued = issued = FIFO(data.StructLayout({"address": 64, "last": 1}), config.outstanding_writes)

        wiring.connect(m, wiring.flipped(self.bursts), gate.i)
        issue = Signal()
        m.d.comb += [
            gate.window_base.eq(self.window_base),
            gate.window_limit.eq(self.window_limit),
            gate.stop.eq(self.stop),
            gate.clear.eq(self.clear),
            lengths.clear.eq(self.clear),
            sending.clear.eq(self.clear),
            issued.clear.eq(self.clear),
            self.refused.eq(gate.refused),
            self.refused_address.eq(gate.refused_address),
            # A burst's beats end before its response, so that ``lengths`` is never fuller than ``issued``.
            gate.o.ready.eq((~axi.awvalid | axi.awready) & issued.i.ready),
            issue.eq(gate.o.valid & gate.o.ready),
            lengths.i.valid.eq(issue & (lengths.o.valid | ~sending.i.ready)),
            lengths.i.payload.eq(gate.o.payload.beats - 1),
            lengths.o.ready.eq(sending.i.ready),
            sending.i.valid.eq(lengths.o.valid | issue),
            sending.i.payload.eq(Mux(lengths.o.valid, lengths.o.payload, lengths.i.payload)),
            issued.i.valid.eq(issue),
            issued.i.payload.address.eq(gate.o.payload.address),
            issued.i.payload.last.eq(gate.o.payload.last),
            axi.awsize.eq(exact_log2(config.bus_bytes)),
            axi.awburst.eq(BurstType.INCR),
            axi.awcache.eq(CACHE),
            self.busy.eq(issued.o.valid),
            self.burst.eq(axi.awvalid & axi.awready),
            self.beat.eq(axi.wvalid & axi.wready),
        ]
        with m.If(issue):
            m.d.sync += [axi.awvalid.eq(1), axi.awaddr.eq(gate.o.payload.address), axi.awlen.eq(gate.o.payload.beats - 1)]
        with m.Elif(axi.awready):
            m.d.sync += axi.awvalid.eq(0)

        sent = Signal(8)
        m.d.comb += [
            axi.wvalid.eq(self.beats.valid & sending.o.valid),
            axi.wdata.eq(self.beats.payload.data),
            axi.wstrb.eq(self.beats.payload.strobe),
            axi.wlast.eq(sent == sending.o.payload),
            self.beats.ready.eq(axi.wready & sending.o.valid),
            sending.o.ready.eq(self.beat & axi.wlast),
        ]
        with m.If(self.beat):
            m.d.sync += sent.eq(Mux(axi.wlast, 0, sent + 1))

        response = Signal()
        m.d.comb += [
            axi.bready.eq(issued.o.valid),
            response.eq(axi.bvalid & axi.bready),
            issued.o.ready.eq(response),
            self.command_done.eq(response & issued.o.payload.last),
            self.error.eq(response & axi.bresp.any()),
            self.error_address.eq(issued.o.payload.address),
        ]
        return m
