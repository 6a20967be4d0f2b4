"""The system's own registers."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.axi import AxiLiteSignature, Resp
from loralith.spec.soc import SOC_ADDRESS_BITS, SOC_ID, SOC_REGISTERS

__all__ = ["SocRegisters"]


class SocRegisters(wiring.Component):
    """`spec.soc.SOC_REGISTERS` on AXI4-Lite. An address without a register reads as zero and answers SLVERR; writes to all but SCRATCH have
    no effect, strobes are honoured.

    Members: axi. started, irq: bits of STATUS. read_beat, write_beat: one-cycle pulses, counted.
    """

    def __init__(self) -> None:
        pulses = ("started", "irq", "read_beat", "write_beat")
        super().__init__({"axi": Out(AxiLiteSignature(SOC_ADDRESS_BITS))} | {name: In(1) for name in pulses})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        cycles, scratch, reads, writes = Signal(32), Signal(32), Signal(32), Signal(32)
        m.d.sync += [cycles.eq(cycles + 1), reads.eq(reads + self.read_beat), writes.eq(writes + self.write_beat)]
        values: dict[str, Value] = {
            "ID": Const(SOC_ID, 32),
            "STATUS": Cat(self.started, self.irq),
            "CYCLES": cycles,
            "SCRATCH": scratch,
            "READ_BEATS": reads,
            "WRITE_BEATS": writes,
        }
        offsets = {register.name: register.offset for register in SOC_REGISTERS}

        m.d.comb += axi.arready.eq(~axi.rvalid)
        with m.If(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [axi.rvalid.eq(1), axi.rdata.eq(0), axi.rresp.eq(Resp.SLVERR)]
            with m.Switch(axi.araddr[2:]):
                for name, offset in offsets.items():
                    with m.Case(offset >> 2):
                        m.d.sync += [axi.rdata.eq(values[name]), axi.rresp.eq(Resp.OKAY)]

        take = Signal()
        m.d.comb += [take.eq(axi.awvalid & axi.wvalid & ~axi.bvalid), axi.awready.eq(take), axi.wready.eq(take)]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(take):
            known = Cat(axi.awaddr[2:] == offset >> 2 for offset in offsets.values()).any()
            m.d.sync += [axi.bvalid.eq(1), axi.bresp.eq(Resp.SLVERR)]
            with m.If(known):
                m.d.sync += axi.bresp.eq(Resp.OKAY)
            for byte in range(4):
                with m.If((axi.awaddr[2:] == offsets["SCRATCH"] >> 2) & axi.wstrb[byte]):
                    m.d.sync += scratch[8 * byte : 8 * byte + 8].eq(axi.wdata[8 * byte : 8 * byte + 8])
        return m
