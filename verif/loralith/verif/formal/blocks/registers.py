"""The AXI4-Lite port: every request one response, and registers that keep what was written to them."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Mux, Signal, Value

from loralith.rtl.axi import Resp
from loralith.rtl.csr import Registers, member_name
from loralith.spec.registers import ADDRESS_BITS, REGISTERS, Access
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]

CONSTANTS = {"ID": 0x12345678, "VERSION": 0x9ABCDEF0, "CONFIG_HASH": 0x0F1E2D3C}


def registers(h: Harness) -> None:
    m, dut = h.m, h.block(Registers(CONSTANTS))
    axi = dut.axi

    def before(value, cycles: int) -> Value:
        for _ in range(cycles):
            value = h.past(value)
        return value

    # A request is judged a cycle after it was taken, and answered a cycle after what it does, or after the word was looked up.
    word = [before(axi.awaddr[2:ADDRESS_BITS], 2), before(axi.araddr[2:ADDRESS_BITS], 1)]
    took_aw, took_w, took_ar = axi.awvalid & axi.awready, axi.wvalid & axi.wready, axi.arvalid & axi.arready
    answered, given = axi.bvalid & axi.bready, axi.rvalid & axi.rready
    offsets = [r.offset + 4 * i for r in REGISTERS.values() for i in range(r.width // 32)]

    h.always(
        "b_held",
        "BVALID stays until BREADY, and BRESP with it",
        ~h.past(axi.bvalid & ~axi.bready) | (axi.bvalid & (axi.bresp == h.past(axi.bresp))),
    )
    h.always(
        "r_held",
        "RVALID stays until RREADY, and RDATA and RRESP with it",
        ~h.past(axi.rvalid & ~axi.rready) | (axi.rvalid & (Cat(axi.rdata, axi.rresp) == h.past(Cat(axi.rdata, axi.rresp)))),
    )
    h.always("reset", "BVALID and RVALID are low after a reset", ~h.after_reset() | ~(axi.bvalid | axi.rvalid))
    owed = [h.counter(name, 1, up=up, down=down) for name, up, down in (("owed_b", took_aw, answered), ("owed_r", took_ar, given))]
    h.always("w_with_aw", "an address is taken together with its data, never without", took_aw == took_w)
    h.always(
        "b_one",
        "one response to every write, after it, and none else; the next write waits for it",
        (axi.bvalid == (owed[0] & ~before(took_aw, 1) & ~before(took_aw, 2))) & ~(took_aw & owed[0]),
    )
    h.always(
        "r_one",
        "one response to every read, after it, and none else; the next read waits for it",
        (axi.rvalid == (owed[1] & ~before(took_ar, 1) & ~before(took_ar, 2))) & ~(took_ar & owed[1]),
    )
    h.always(
        "ready",
        "no request waits for anything but the answer before it: neither channel for the other, no answer for its ready",
        ~((axi.arvalid & ~owed[1] & ~axi.arready) | (axi.awvalid & axi.wvalid & ~owed[0] & ~axi.awready)),
    )

    # What the writes so far have made of the registers that keep a value.
    mask, data = before(Cat(strobe.replicate(8) for strobe in axi.wstrb), 2), before(axi.wdata, 2)
    does = before(took_aw, 2)
    start = next(b.lsb for b in REGISTERS["CONTROL"].bits if b.name == "start")
    locked = Cat(word[0] == r.offset // 4 + i for r in REGISTERS.values() if r.locked for i in range(r.width // 32)).any()
    doorbell = (word[0] == REGISTERS["CONTROL"].offset // 4) & (data & mask)[start]
    refused = before(dut.running, 1) & (locked | doorbell)
    kept, right = {}, []
    for r in REGISTERS.values():
        if r.access is not Access.RW:
            continue
        value = kept[r.name] = Signal(r.width, name=f"model_{r.name.lower()}", init=r.reset)
        used = Const((1 << r.width) - 1 if not r.bits else sum(((1 << b.width) - 1) << b.lsb for b in r.bits), r.width)
        for i in range(r.width // 32):
            part = slice(32 * i, 32 * i + 32)
            with m.If(does & ~refused & (word[0] == r.offset // 4 + i)):
                m.d.sync += value[part].eq(((value[part] & ~mask) | (data & mask)) & used[part])
        right.append(getattr(dut, member_name(r.name)) == value)
    h.always(
        "write",
        "a write changes the strobed bytes of the register at its address, in the bits that it has, and nothing else; while a list runs "
        "none that the list depends on",
        Cat(right).all(),
    )

    pending = Signal(32, name="model_pending")
    events = {b.lsb: getattr(dut, member_name("IRQ_STATUS", b.name)) for b in REGISTERS["IRQ_STATUS"].bits}
    cleared = Mux(does & (word[0] == REGISTERS["IRQ_STATUS"].offset // 4), data & mask, 0)
    happened = Cat(events.get(i, Const(0, 1)) for i in range(32))
    m.d.sync += pending.eq((pending & ~cleared) | happened)
    h.invariant(h.inside(dut, "irq_status_value") == pending)
    h.always(
        "irq",
        "an event is pending until a one is written to it, also when it comes in that cycle; `irq` while an enabled one is",
        dut.irq == ((pending & kept["IRQ_ENABLE"]) != 0),
    )

    pulses = {b.name: b.lsb for b in REGISTERS["CONTROL"].bits}
    to_control = does & (word[0] == REGISTERS["CONTROL"].offset // 4)
    h.always(
        "control",
        "start and abort for the one cycle after a one is written to them; of a refused write abort arrives, and start does not",
        Cat(
            getattr(dut, member_name("CONTROL", name)) == h.past(to_control & (data & mask)[lsb] & ~(refused & (name == "start")))
            for name, lsb in pulses.items()
        ).all(),
    )

    def mapped(at: Value) -> Value:
        return Cat(at == offset // 4 for offset in offsets).any()

    h.always(
        "resp",
        "SLVERR to what is no register, and while a list runs to a doorbell and to what the list depends on, OKAY to all else",
        (~axi.bvalid | (axi.bresp == h.past(Mux(does, Mux(mapped(word[0]) & ~refused, Resp.OKAY, Resp.SLVERR), axi.bresp))))
        & (~axi.rvalid | (axi.rresp == h.past(Mux(before(took_ar, 2), h.past(Mux(mapped(word[1]), Resp.OKAY, Resp.SLVERR)), axi.rresp)))),
    )

    def seen(r) -> Value:
        """The whole register as a read at this moment gives it."""
        if r.name in CONSTANTS:
            return Const(CONSTANTS[r.name], r.width)
        if r.name in kept:
            return kept[r.name]
        if r.access is Access.W1C:
            return pending
        if r.access is Access.WO:
            return Const(0, r.width)
        if not r.bits:
            return getattr(dut, member_name(r.name))
        parts = {b.lsb: getattr(dut, member_name(r.name, b.name)) for b in r.bits}
        return sum((Value.cast(part) << lsb for lsb, part in parts.items()), start=Value.cast(0))[: r.width]

    now = Signal(32)
    for r in REGISTERS.values():
        for i in range(r.width // 32):
            with m.If(word[1] == r.offset // 4 + i):
                m.d.comb += now.eq((seen(r) >> 32 * i)[:32])
    h.always(
        "read",
        "a read gives the register at its address as it was a cycle after the address was taken; zero where none is",
        ~axi.rvalid | (axi.rdata == h.past(Mux(before(took_ar, 2), h.past(now), axi.rdata))),
    )
    h.reach("refused", "a doorbell is refused", h.past(does & refused & doorbell) & (axi.bresp == Resp.SLVERR))
    h.reach(
        "together",
        "a write and a read are answered in the same cycle, both late",
        h.past(answered == 0) & h.past(axi.bvalid & axi.rvalid) & answered & given,
    )


MUTANTS = (
    Mutant("b_held", Change("Registers", "if bvalid", "m.Elif(_a)", "m.Else()", "BVALID falls without BREADY.")),
    Mutant("r_held", Change("Registers", "arready", "_a", "1", "Addresses are taken while a read is answered.")),
    Mutant("r_held", Change("Registers", "if rvalid", "m.Elif(_a)", "m.Else()", "RVALID falls without RREADY.")),
    Mutant("reset", Change("AxiLiteSignature", "port bvalid", "Out(1)", "Out(1, init=1)", "BVALID is high after a reset.")),
    Mutant("reset", Change("AxiLiteSignature", "port rvalid", "Out(1)", "Out(1, init=1)", "RVALID is high after a reset.")),
    Mutant("w_with_aw", Change("Registers", "awready", "_a", "~axi.bvalid", "An address is taken without its data.")),
    Mutant("b_one", Change("Registers", "take", "_a & ~_b.bvalid", "_a", "A write is taken while the one before waits for its answer.")),
    Mutant(
        "r_one",
        Change(
            "Registers",
            "arready",
            "~_x.rvalid & _a",
            "(~_x.rvalid | _x.rready) & _a",
            "A read is taken in the cycle in which the one before is answered.",
        ),
    ),
    Mutant("ready", Change("Registers", "arready", "_a", "_a & axi.rready", "A read waits for RREADY.")),
    Mutant("ready", Change("Registers", "take", "_a", "_a & axi.bready", "A write waits for BREADY.")),
    Mutant(
        "write",
        Change("Registers", "register", "((_k & ~_m) | (_d & _m)) & _u", "_d & _m & _u", "A write zeroes the bytes that have no strobe."),
    ),
    Mutant("write", Change("Registers", "part", "_a", "slice(0, 32)", "Both words of a 64-bit register are its low one.")),
    Mutant("write", Change("Registers", "refused", "locked | _a", "_a", "What a running list depends on can be written.")),
    Mutant("irq", Change("Registers", "_pending", "_p & ~(_d & _m)", "_p & ~_d", "Events are cleared whatever the strobes.")),
    Mutant("irq", Change("Registers", "irq", "self.irq_enable & _v", "_v", "Events interrupt whether or not they are enabled.")),
    Mutant("control", Change("Registers", "if _write", "m.If(_a)", "m.If(done)", "A write that is refused takes effect.")),
    Mutant("control", Change("Registers", "if self", "done & _a", "allowed & _a", "An abort beside a refused start bit is lost.")),
    Mutant("resp", Change("Registers", "bresp", "_a & _b", "_b", "A write to no register is answered with OKAY.")),
    Mutant("resp", Change("Registers", "rresp", "Resp.SLVERR", "Resp.OKAY", "A read of no register is answered with OKAY.", nth=1)),
    Mutant(
        "read",
        Change("Registers", "groups", "_v[32 * _i : 32 * _i + 32]", "_v[:32]", "The high word of a 64-bit register reads as the low one."),
    ),
    Mutant("read", Change("Registers", "rdata", "0", "axi.rdata", "A read of no register gives what was read before.")),
)


PROOFS = (Proof("registers", "csr", registers, Method.induction(6), MUTANTS, search=10),)
