"""The register file on AXI4-Lite, made from the declaration in ``loralith.spec.registers``."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.registers import ADDRESS_BITS, REGISTERS, Access, Register

from .axi import AxiLiteSignature, Resp

__all__ = ["Registers", "member_name"]


def member_name(register: str, bits: str | None = None) -> str:
    """The port of a register, or of one of its parts: LIST_BASE is ``list_base``, CONTROL's start ``control_start``."""
    return register.lower() if bits is None else f"{register.lower()}_{bits}"


class Registers(wiring.Component):
    """All registers. Write and read take four cycles each and do not wait for one another.

    A read-only register takes writes and ignores them; a write-only one reads as zero. A write to an address that is no register, or to a
    locked one while ``running``, has no effect and answers SLVERR; so does a start bit in CONTROL while ``running``, but an abort bit
    beside it has its effect. Byte strobes are honoured.

    Parameter: constants, the values of the read-only registers that never change, by name.

    Members:
        axi: the bus.
        irq: an enabled event is pending.
        running: a list runs or drains; refuse the doorbell, and writes to what the list depends on.
        <register>: Out for read-write ones, In for read-only ones but the constants.
        <register>_<part>: in place of the register where parts are declared: In for read-only ones; for write-only ones an Out
            that is high for one cycle with a write of one; for write-one-to-clear ones an In that sets the pending bit.
    """

    def __init__(self, constants: Mapping[str, int]) -> None:
        self._constants = dict(constants)
        members: dict[str, object] = {"axi": Out(AxiLiteSignature(ADDRESS_BITS)), "irq": Out(1), "running": In(1)}
        for r in REGISTERS.values():
            if r.name in self._constants:
                continue
            flow = In if r.access in (Access.RO, Access.W1C) else Out
            if r.bits and r.access is not Access.RW:
                members |= {member_name(r.name, b.name): flow(b.width) for b in r.bits}
            else:
                # amaranth-stubs knows the parameter by its name before 0.5, reset.
                members[member_name(r.name)] = flow(r.width, init=r.reset) if flow is Out else flow(r.width)  # pyright: ignore[reportCallIssue]
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        values = {name: self._storage(m, r) for name, r in REGISTERS.items()}
        words = {r.offset + 4 * i: (r, i) for r in REGISTERS.values() for i in range(r.width // 32)}
        index_bits = slice(2, ADDRESS_BITS)

        # Reads: the address in one cycle, one word of each group of eight in the next, and of those the word in the third.
        read_stage = Signal(2)
        read_index = Signal(ADDRESS_BITS - 2)
        m.d.comb += axi.arready.eq(~axi.rvalid & ~read_stage.any())
        m.d.sync += read_stage.eq(Cat(axi.arvalid & axi.arready, read_stage))
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += read_index.eq(axi.araddr[index_bits])
        groups: dict[int, dict[int, Value]] = {}
        for offset, (r, i) in words.items():
            groups.setdefault(offset >> 5, {})[offset >> 2 & 7] = values[r.name][32 * i : 32 * i + 32]
        chosen = {high: Signal(33, name=f"chosen{high}") for high in groups}  # the word, and whether there is one
        for high, lows in groups.items():
            with m.If(read_stage[0]):
                m.d.sync += chosen[high].eq(0)
                with m.Switch(read_index[:3]):
                    for low, value in lows.items():
                        with m.Case(low):
                            m.d.sync += chosen[high].eq(Cat(value, 1))
        with m.If(read_stage[1]):
            m.d.sync += [axi.rvalid.eq(1), axi.rdata.eq(0), axi.rresp.eq(Resp.SLVERR)]
            with m.Switch(read_index[3:]):
                for high, word in chosen.items():
                    with m.Case(high):
                        m.d.sync += [axi.rdata.eq(word[:32]), axi.rresp.eq(Mux(word[32], Resp.OKAY, Resp.SLVERR))]
        with m.Elif(axi.rready):
            m.d.sync += axi.rvalid.eq(0)

        # Writes, taken when address and data are both there; checked in the next cycle and performed in the one after.
        take = Signal()
        write = Signal()
        done = Signal()
        mapped = Signal()
        refused = Signal()
        allowed = Signal()
        index = Signal(ADDRESS_BITS - 2)
        word = Signal(32)
        mask = Signal(32)
        control = REGISTERS["CONTROL"]
        bit_of = {b.name: b.lsb for b in control.bits}
        locked = Cat(index == offset >> 2 for offset, (r, _) in words.items() if r.locked).any()
        m.d.sync += [write.eq(take), done.eq(write), allowed.eq(write & ~refused)]
        with m.If(take):
            m.d.sync += [
                index.eq(axi.awaddr[index_bits]),
                word.eq(axi.wdata),
                mask.eq(Cat(strobe.replicate(8) for strobe in axi.wstrb)),
            ]
        m.d.comb += [
            take.eq(axi.awvalid & axi.wvalid & ~axi.bvalid & ~write & ~done),
            axi.awready.eq(take),
            axi.wready.eq(take),
            refused.eq(self.running & (locked | ((index == control.offset >> 2) & (word & mask)[bit_of["start"]]))),
        ]
        m.d.sync += [getattr(self, member_name(r.name, b.name)).eq(0) for r in REGISTERS.values() if r.access is Access.WO for b in r.bits]
        with m.Switch(index):
            for offset, (r, i) in words.items():
                with m.Case(offset >> 2):
                    m.d.comb += mapped.eq(1)
                    with m.If(allowed):
                        self._write(m, r, i, word, mask)
        with m.If(done & (index == control.offset >> 2)):  # also beside a start bit that is refused
            m.d.sync += getattr(self, member_name("CONTROL", "abort")).eq((word & mask)[bit_of["abort"]])
        with m.If(done):
            m.d.sync += [axi.bvalid.eq(1), axi.bresp.eq(Mux(mapped & allowed, Resp.OKAY, Resp.SLVERR))]
        with m.Elif(axi.bready):
            m.d.sync += axi.bvalid.eq(0)

        m.d.comb += self.irq.eq((self.irq_enable & values["IRQ_STATUS"]).any())
        for b in REGISTERS["IRQ_STATUS"].bits:  # an event wins over its clearing
            with m.If(getattr(self, member_name("IRQ_STATUS", b.name))):
                m.d.sync += self._pending[b.lsb].eq(1)
        return m

    def _storage(self, m: Module, r: Register) -> Signal:
        """The register's read data."""
        value = Signal(r.width, name=f"{r.name.lower()}_value", init=r.reset)
        if r.name in self._constants:
            m.d.comb += value.eq(self._constants[r.name])
        elif r.access is Access.RO and r.bits:
            for b in r.bits:
                m.d.comb += value[b.lsb : b.lsb + b.width].eq(getattr(self, member_name(r.name, b.name)))
        elif r.access in (Access.RO, Access.RW):
            m.d.comb += value.eq(getattr(self, member_name(r.name)))
        elif r.access is Access.W1C:
            self._pending = value
        return value

    def _write(self, m: Module, r: Register, word: int, data: Signal, mask: Value) -> None:
        if r.access is Access.RW:
            register = getattr(self, member_name(r.name))
            part = slice(32 * word, 32 * word + 32)
            used = (1 << 32) - 1 if not r.bits else sum(((1 << b.width) - 1) << b.lsb for b in r.bits)
            m.d.sync += register[part].eq(((register[part] & ~mask) | (data & mask)) & used)
        elif r.access is Access.WO:
            m.d.sync += [getattr(self, member_name(r.name, b.name)).eq((data & mask)[b.lsb]) for b in r.bits]
        elif r.access is Access.W1C:
            m.d.sync += self._pending.eq(self._pending & ~(data & mask))
