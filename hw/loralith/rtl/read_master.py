"""The AXI read channels: bursts of the load unit and of the command fetch, and their beats back to whom they belong."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import exact_log2

from loralith.spec.config import Config

from .axi import CACHE, Axi4ReadSignature
from .axi import Burst as BurstType
from .bursts import Burst
from .gate import BurstGate
from .queue import SkidBuffer

__all__ = ["ReadBeat", "ReadMaster"]


class ReadBeat(data.StructLayout):
    """One bus word and whether its response was an error."""

    def __init__(self, config: Config) -> None:
        super().__init__({"data": data.ArrayLayout(8, config.bus_bytes), "error": 1})


class ReadMaster(wiring.Component):
    """Issues bursts with id 0 for ``load`` and 1 for ``fetch`` (which has priority) and routes the beats by id.

    One address and one beat per cycle, also for bursts of one beat. At most ``outstanding_reads`` bursts are in flight. A burst
    outside the window is not issued, see ``BurstGate``.

    Members:
        axi: channels AR and R.
        load, fetch: bursts.
        load_beats, fetch_beats: their beats, each in its order. ``fetch_beats`` must always be ready: while one reader
            stalls, the other one's beats wait behind its.
        window_base, window_limit: the window.
        stop: issue nothing new, drop the load's beats that come, and the fetch's that it is not ready for.
        clear: reset; only while not ``busy``.
        busy: an address is on the bus or its beats are not all in.
        load_refused, fetch_refused: a burst of this reader was refused; held until ``clear``. refused_address: its address.
        burst, beat: one-cycle pulses, for the counters.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        burst, beat = stream.Signature(Burst), stream.Signature(ReadBeat(config))
        super().__init__(
            {
                "axi": Out(Axi4ReadSignature(config.bus_bytes)),
                "load": In(burst),
                "fetch": In(burst),
                "load_beats": Out(beat),
                "fetch_beats": Out(beat),
                "window_base": In(64),
                "window_limit": In(64),
                "stop": In(1),
                "clear": In(1),
                "busy": Out(1),
                "load_refused": Out(1),
                "fetch_refused": Out(1),
                "refused_address": Out(64),
                "burst": Out(1),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, axi = self._config, self.axi
        m.submodules.gate = gate = BurstGate(config)
        m.submodules.beats = beats = SkidBuffer(ReadBeat(config))  # cuts the path from the load unit's ready to RREADY

        m.d.comb += [
            gate.window_base.eq(self.window_base),
            gate.window_limit.eq(self.window_limit),
            gate.stop.eq(self.stop),
            gate.clear.eq(self.clear),
            gate.i.valid.eq(self.load.valid | self.fetch.valid),
            gate.i.payload.eq(Mux(self.fetch.valid, self.fetch.payload, self.load.payload)),
            gate.i_source.eq(self.fetch.valid),
            self.fetch.ready.eq(gate.i.ready),
            self.load.ready.eq(gate.i.ready & ~self.fetch.valid),
            self.fetch_refused.eq(gate.refused & gate.refused_source),
            self.load_refused.eq(gate.refused & ~gate.refused_source),
            self.refused_address.eq(gate.refused_address),
        ]

        max_outstanding = config.outstanding_reads
        outstanding = Signal(range(max_outstanding + 1))
        has_credit = Signal(init=1)  # registered for timing: outstanding != max_outstanding
        issue = Signal()
        ended = Signal()
        m.d.comb += [
            gate.o.ready.eq((~axi.arvalid | axi.arready) & has_credit),
            issue.eq(gate.o.valid & gate.o.ready),
            ended.eq(axi.rvalid & axi.rready & axi.rlast),
            self.busy.eq(outstanding != 0),
            self.burst.eq(axi.arvalid & axi.arready),
            self.beat.eq(axi.rvalid & axi.rready),
            axi.arsize.eq(exact_log2(config.bus_bytes)),
            axi.arburst.eq(BurstType.INCR),
            axi.arcache.eq(CACHE),
        ]
        with m.If(issue):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(gate.o.payload.address),
                axi.arlen.eq(gate.o.payload.beats - 1),
                axi.arid.eq(gate.o_source),
            ]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(issue ^ ended):
            m.d.sync += outstanding.eq(Mux(issue, outstanding + 1, outstanding - 1))
        m.d.sync += has_credit.eq(ended | (outstanding < max_outstanding - 1) | ((outstanding == max_outstanding - 1) & ~issue))

        error = axi.rresp.any()
        m.d.comb += [
            beats.clear.eq(self.clear),
            beats.i.valid.eq(axi.rvalid & ~axi.rid & ~self.stop),
            beats.i.payload.data.eq(axi.rdata),
            beats.i.payload.error.eq(error),
            self.fetch_beats.valid.eq(axi.rvalid & axi.rid),
            self.fetch_beats.payload.data.eq(axi.rdata),
            self.fetch_beats.payload.error.eq(error),
            axi.rready.eq(self.stop | Mux(axi.rid, self.fetch_beats.ready, beats.i.ready)),
        ]
        connect(m, beats.o, wiring.flipped(self.load_beats))
        return m
