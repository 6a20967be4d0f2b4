"""The memory controller: an AXI4 slave in front, the chip's pins behind."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import exact_log2

from loralith.rtl.axi import Axi4Signature, Resp
from loralith.rtl.queue import FIFO, SkidBuffer
from loralith.spec.sdram import BEAT_BYTES, SdramChip, SdramTiming

from .arbiter import DirectionArbiter
from .data_path import BeatReader, BeatWriter, ReadBeat, WriteBeat
from .gate import CreditGate
from .interfaces import Address, Operation, PinsSignature
from .scheduler import Scheduler
from .split import ChunkSplitter

__all__ = ["SdramController"]

FIFO_BEATS = 32
RESPONSES = 16


class SdramController(wiring.Component):
    """``chip`` as an AXI4 slave of 8 bytes per beat, at ``base``, a multiple of its size.

    Bursts are INCR and of whole beats: the size is 8 bytes, the address a multiple of it. Reads keep their order, and so do writes; a write
    is done when its response comes. A burst that does not begin in the memory is answered with DECERR, and writes nothing. While the chip
    is started, everything waits.

    Parameter: pin_delay, cycles that the pins' registers add to the chip's CAS latency, on the way out and in together.

    Members: axi, pins. started: the chip is started.
    """

    def __init__(self, chip: SdramChip, timing: SdramTiming, *, base: int, id_bits: int, pin_delay: int) -> None:
        if base % chip.bytes:
            raise ValueError(f"base must be a multiple of {chip.bytes:#x} bytes, not {base:#x}")
        self._chip, self._timing, self._base, self._id_bits, self._pin_delay = chip, timing, base, id_bits, pin_delay
        super().__init__({"axi": In(Axi4Signature(BEAT_BYTES, id_bits)), "pins": Out(PinsSignature(chip)), "started": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, id_bits, axi, pins = self._chip, self._id_bits, self.axi, self.pins
        m.submodules.scheduler = scheduler = Scheduler(chip, self._timing, id_bits)
        m.submodules.arbiter = arbiter = DirectionArbiter(chip, id_bits)
        m.submodules.reader = reader = BeatReader(id_bits, latency=self._timing.cas + self._pin_delay + 1)
        m.submodules.writer = writer = BeatWriter(id_bits)
        m.submodules.read_fifo = read_fifo = FIFO(ReadBeat(id_bits), FIFO_BEATS)
        m.submodules.write_fifo = write_fifo = FIFO(WriteBeat, FIFO_BEATS)
        m.submodules.read_skid = read_skid = SkidBuffer(ReadBeat(id_bits))  # the FIFO's output is late
        connect(m, read_fifo.o, read_skid.i)
        connect(m, arbiter.o, scheduler.i)

        read_gate = self._address(m, "ar", arbiter.read, credits=FIFO_BEATS, allowed=1)
        write_gate = self._address(m, "aw", arbiter.write, credits=0, allowed=self._responses(m, writer))
        m.d.comb += [
            read_gate.credit.eq(read_fifo.o.valid & read_fifo.o.ready),
            read_fifo.i.valid.eq(reader.o.valid),
            read_fifo.i.payload.eq(reader.o.beat),
            read_skid.o.ready.eq(axi.rready),
            axi.rvalid.eq(read_skid.o.valid),
            axi.rdata.eq(read_skid.o.payload.data),
            axi.rid.eq(read_skid.o.payload.id),
            axi.rlast.eq(read_skid.o.payload.last),
            axi.rresp.eq(read_skid.o.payload.error.replicate(2) & Resp.DECERR),
            write_gate.credit.eq(axi.wvalid & axi.wready),
            write_fifo.i.valid.eq(axi.wvalid),
            write_fifo.i.payload.data.eq(axi.wdata),
            write_fifo.i.payload.strobe.eq(axi.wstrb),
            axi.wready.eq(write_fifo.i.ready),
        ]
        connect(m, write_fifo.o, writer.i)

        command = scheduler.command
        m.d.comb += [
            self.started.eq(scheduler.started),
            writer.column.eq(scheduler.column),
            reader.column.eq(scheduler.column),
            reader.dq.eq(pins.dq_i),
        ]
        m.d.sync += [
            pins.cke.eq(1),
            pins.cs_n.eq(command.operation == Operation.NOP),
            pins.ras_n.eq(command.operation.as_value()[2]),
            pins.cas_n.eq(command.operation.as_value()[1]),
            pins.we_n.eq(command.operation.as_value()[0]),
            pins.ba.eq(command.bank),
            pins.a.eq(command.address),
        ]
        m.d.comb += [pins.dq_o.eq(writer.dq), pins.dqm.eq(writer.dqm), pins.dq_oe.eq(writer.oe)]
        return m

    def _address(self, m: Module, prefix: str, o: wiring.PureInterface, *, credits: int, allowed: ValueLike) -> CreditGate:
        """From an address channel to the arbiter."""
        chip, id_bits = self._chip, self._id_bits
        m.submodules[f"{prefix}_skid"] = skid = SkidBuffer(Address(chip, id_bits))
        m.submodules[f"{prefix}_split"] = splitter = ChunkSplitter(chip, id_bits, write=prefix == "aw")
        m.submodules[f"{prefix}_gate"] = gate = CreditGate(chip, id_bits, FIFO_BEATS, credits=credits)
        address, ready = getattr(self.axi, f"{prefix}addr"), getattr(self.axi, f"{prefix}ready")
        low, high = exact_log2(BEAT_BYTES), exact_log2(chip.bytes)
        m.d.comb += [
            ready.eq(skid.i.ready & allowed),
            skid.i.valid.eq(getattr(self.axi, f"{prefix}valid") & ready),
            skid.i.payload.beat.eq(address[low:high]),
            skid.i.payload.length.eq(getattr(self.axi, f"{prefix}len")),
            skid.i.payload.id.eq(getattr(self.axi, f"{prefix}id")),
            skid.i.payload.error.eq(address[high:] != self._base >> high),
        ]
        connect(m, skid.o, splitter.i)
        connect(m, splitter.o, gate.i)
        connect(m, gate.o, o)
        return gate

    def _responses(self, m: Module, writer: BeatWriter) -> Signal:
        """Of the bursts that are done. Returns whether there is an entry for one burst more."""
        axi, has_entry = self.axi, Signal(init=1)
        shape = data.StructLayout({"id": self._id_bits, "error": 1})
        m.submodules.responses = responses = FIFO(shape, RESPONSES)
        owed = Signal(range(RESPONSES + 1))
        put, get = axi.awvalid & axi.awready, axi.bvalid & axi.bready
        with m.If(put & ~get):
            m.d.sync += owed.eq(owed + 1)
        with m.Elif(get & ~put):
            m.d.sync += owed.eq(owed - 1)
        m.d.sync += has_entry.eq(owed < RESPONSES - 1)
        m.d.comb += [
            responses.i.valid.eq(writer.done.valid),
            responses.i.payload.id.eq(writer.done.id),
            responses.i.payload.error.eq(writer.done.error),
            axi.bvalid.eq(responses.o.valid),
            axi.bid.eq(responses.o.payload.id),
            axi.bresp.eq(responses.o.payload.error.replicate(2) & Resp.DECERR),
            responses.o.ready.eq(axi.bready),
        ]
        return has_entry
