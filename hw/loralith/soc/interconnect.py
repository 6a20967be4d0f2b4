"""Several AXI4 masters in front of one slave."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.axi import Axi4ReadSignature, Axi4WriteSignature
from loralith.rtl.queue import FIFO

__all__ = ["ReadArbiter", "WriteArbiter"]

MASTERS = 2
WRITES_IN_FLIGHT = 16


class _RoundRobin:
    """Round-robin choice between two requests; it is held until it is taken.

    Attributes: choice. taken: for the caller to drive.
    """

    def __init__(self, m: Module, first, second) -> None:
        self.choice, self.taken = Signal(), Signal()
        last, locked, choice_r = Signal(), Signal(), Signal()
        m.d.comb += self.choice.eq(Mux(locked, choice_r, second & (~first | ~last)))
        m.d.sync += [locked.eq((first | second) & ~self.taken), choice_r.eq(self.choice)]
        with m.If(self.taken):
            m.d.sync += last.eq(self.choice)


def _address(m: Module, prefix: str, masters: list, o, allowed) -> Signal:
    """Passes an address channel on, the master's number in front of its id; returns the cycle's handshake's master."""
    valid = f"{prefix}valid"
    arbiter = _RoundRobin(m, getattr(masters[0], valid), getattr(masters[1], valid))
    names = [name for name in o.signature.members if name.startswith(prefix) and name[2:] not in ("valid", "ready", "id")]
    for name in names:
        m.d.comb += getattr(o, name).eq(Array(getattr(master, name) for master in masters)[arbiter.choice])
    m.d.comb += [
        getattr(o, f"{prefix}id").eq(Cat(Array(getattr(master, f"{prefix}id") for master in masters)[arbiter.choice], arbiter.choice)),
        getattr(o, valid).eq(Array(getattr(master, valid) for master in masters)[arbiter.choice] & allowed),
        arbiter.taken.eq(getattr(o, valid) & getattr(o, f"{prefix}ready")),
    ]
    for i, master in enumerate(masters):
        m.d.comb += getattr(master, f"{prefix}ready").eq(getattr(o, f"{prefix}ready") & (arbiter.choice == i) & allowed)
    return arbiter.choice


class ReadArbiter(wiring.Component):
    """Two masters' read channels on one slave's, whose ids have one bit more. Addresses take turns; beats go by their id's last bit.

    While one master is not ready for a beat, the other one's beats behind it wait.
    """

    def __init__(self, data_bytes: int, id_bits: int = 1) -> None:
        masters = {f"master{i}": In(Axi4ReadSignature(data_bytes, id_bits)) for i in range(MASTERS)}
        super().__init__(masters | {"slave": Out(Axi4ReadSignature(data_bytes, id_bits + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        masters, slave = [getattr(self, f"master{i}") for i in range(MASTERS)], self.slave
        _address(m, "ar", masters, slave, Const(1))
        target = slave.rid[-1]
        m.d.comb += slave.rready.eq(Array(master.rready for master in masters)[target])
        for i, master in enumerate(masters):
            m.d.comb += [
                master.rvalid.eq(slave.rvalid & (target == i)),
                master.rid.eq(slave.rid),
                master.rdata.eq(slave.rdata),
                master.rresp.eq(slave.rresp),
                master.rlast.eq(slave.rlast),
            ]
        return m


class WriteArbiter(wiring.Component):
    """Two masters' write channels on one slave's, whose ids have one bit more. Addresses take turns; beats follow in their order.

    A master has to send a burst's beats without waiting for anything but their handshake.
    """

    def __init__(self, data_bytes: int, id_bits: int = 1) -> None:
        masters = {f"master{i}": In(Axi4WriteSignature(data_bytes, id_bits)) for i in range(MASTERS)}
        super().__init__(masters | {"slave": Out(Axi4WriteSignature(data_bytes, id_bits + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        masters, slave = [getattr(self, f"master{i}") for i in range(MASTERS)], self.slave
        m.submodules.order = order = FIFO(1, WRITES_IN_FLIGHT)
        choice = _address(m, "aw", masters, slave, order.i.ready)
        sender, target = order.o.payload, slave.bid[-1]
        m.d.comb += [
            order.i.valid.eq(slave.awvalid & slave.awready),
            order.i.payload.eq(choice),
            order.o.ready.eq(slave.wvalid & slave.wready & slave.wlast),
            slave.wvalid.eq(Array(master.wvalid for master in masters)[sender] & order.o.valid),
            slave.wdata.eq(Array(master.wdata for master in masters)[sender]),
            slave.wstrb.eq(Array(master.wstrb for master in masters)[sender]),
            slave.wlast.eq(Array(master.wlast for master in masters)[sender]),
            slave.bready.eq(Array(master.bready for master in masters)[target]),
        ]
        for i, master in enumerate(masters):
            m.d.comb += [
                master.wready.eq(slave.wready & order.o.valid & (sender == i)),
                master.bvalid.eq(slave.bvalid & (target == i)),
                master.bid.eq(slave.bid),
                master.bresp.eq(slave.bresp),
            ]
        return m
