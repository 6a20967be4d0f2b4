"""The AXI4 ports: both masters at their pins, against any memory that keeps to the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from amaranth.hdl import Array, Cat, Mux, Signal, Value

from loralith.rtl.axi import Burst as BurstType
from loralith.rtl.read_master import ReadMaster
from loralith.rtl.write_master import WriteMaster
from loralith.spec.config import PRESETS
from loralith.verif.mutation import Change

from ..harness import Harness
from ..line import Line
from ..proof import Method, Mutant, Proof
from .gate import in_one_page, in_window

__all__ = ["PROOFS"]

WIDTH = 8
OUTSTANDING = 2
"""Bursts in flight: the fewest with which one waits behind another."""
CONFIG = replace(PRESETS["tiny"], bus_bytes=WIDTH, outstanding_reads=OUTSTANDING, outstanding_writes=OUTSTANDING)


def _address_rules(h: Harness, prefix: str, dut) -> None:
    """What both address channels must keep to."""
    axi = dut.axi
    get = {
        name: getattr(axi, prefix + name)
        for name in ("addr", "len", "size", "burst", "id", "valid", "ready", "lock", "cache", "prot", "qos")
    }
    payload = Cat(get[name] for name in ("addr", "len", "size", "burst", "id", "lock", "cache", "prot", "qos"))
    beats = get["len"] + 1
    h.always(
        f"{prefix}_held",
        f"{prefix.upper()}VALID stays until {prefix.upper()}READY, and every signal of the channel with it, also through stop and clear",
        ~h.past(get["valid"] & ~get["ready"]) | (get["valid"] & (payload == h.past(payload))),
    )
    h.always(
        f"{prefix}_form",
        "bursts are INCR, of full bus words, at aligned addresses, and cross no 4 KiB boundary",
        ~get["valid"]
        | (
            (get["burst"] == BurstType.INCR)
            & ((1 << get["size"]) == WIDTH)
            & (get["addr"] % WIDTH == 0)
            & in_one_page(get["addr"], beats, WIDTH)
        ),
    )
    # What the gate compares is what was asked.
    burst, held = h.inside(dut, "gate.burst"), h.inside(dut, "gate.valid")
    address, length = burst[:64], burst[64:73]
    h.invariant(~held | ((address % WIDTH == 0) & (length != 0) & (length <= 256)))
    window = in_window(address, length, WIDTH, dut.window_base, dut.window_limit)
    h.invariant(~held | (h.inside(dut, "gate.legal_length") == in_one_page(address, length, WIDTH)))
    h.invariant(~held | (h.inside(dut, "gate.fits") == (in_one_page(address, length, WIDTH) & window)))
    spare = ~h.inside(dut, "gate.accepted.i__ready")
    for there, entry in ((h.inside(dut, "gate.accepted.o__valid"), "o__payload"), (spare, "spare")):
        passed = h.inside(dut, f"gate.accepted.{entry}")
        address, length = passed[:64], passed[64:73]
        h.invariant(~there | ((address % WIDTH == 0) & (length <= 256) & in_one_page(address, length, WIDTH)))
        h.invariant(~there | in_window(address, length, WIDTH, dut.window_base, dut.window_limit))
    h.always(
        f"{prefix}_window",
        "no address outside the DRAM window is ever on the bus",
        ~get["valid"] | in_window(get["addr"], beats, WIDTH, dut.window_base, dut.window_limit),
    )


def _burst_contract(h: Harness, bursts) -> None:
    """What the burst splitter is proved to give."""
    payload = bursts.payload
    h.assume(~bursts.valid | ((payload.beats != 0) & (payload.beats <= 256) & (payload.address % WIDTH == 0)))


def _quiet_clear(h: Harness, dut, pending: Value) -> None:
    """The controller clears what is stopped, or what has nothing to do: see the controller's proof."""
    h.assume(~dut.clear | (~dut.busy & (dut.stop | ~pending)))


def reads(h: Harness) -> None:
    m, dut = h.m, h.block(ReadMaster(CONFIG))
    axi = dut.axi
    for value in (dut.window_base, dut.window_limit):
        h.hold(value)
    for bursts in (dut.load, dut.fetch):
        _burst_contract(h, bursts)
    h.assume(dut.fetch_beats.ready)

    asked = axi.arvalid & axi.arready
    beat = axi.rvalid & axi.rready
    ended = beat & axi.rlast
    # The memory: any burst it owes may come next, bursts of one id in order, an offered beat stays.
    owed = [
        Line(m, f"owed{i}", OUTSTANDING + 1, 9, put=asked & (axi.arid == i), word=axi.arlen + 1, get=ended & (axi.rid == i))
        for i in range(2)
    ]
    sent = [Signal(9, name=f"sent{i}") for i in range(2)]
    for i in range(2):
        with m.If(beat & (axi.rid == i)):
            m.d.sync += sent[i].eq(Mux(axi.rlast, 0, sent[i] + 1))
        h.assume(~(axi.rvalid & (axi.rid == i)) | ((owed[i].level != 0) & (axi.rlast == (sent[i] + 1 == owed[i].first))))
    response = Cat(axi.rid, axi.rdata, axi.rresp, axi.rlast)
    h.assume(~h.past(axi.rvalid & ~axi.rready) | (axi.rvalid & (response == h.past(response))))

    _address_rules(h, "ar", dut)
    h.always("ar_reset", "ARVALID is low after a reset", ~h.after_reset() | ~axi.arvalid)
    flying = owed[0].level + owed[1].level
    h.always("r_outstanding", "no more than `outstanding_reads` bursts are on the bus or owed", flying + axi.arvalid <= OUTSTANDING)
    h.always("r_busy", "`busy` exactly while an address is on the bus or a beat is owed", dut.busy == ((flying != 0) | axi.arvalid))
    h.always(
        "r_stop", "no address comes onto the bus after `stop`", ~(axi.arvalid & ~h.past(axi.arvalid & ~axi.arready)) | ~h.past(dut.stop)
    )
    h.always("r_drain", "a stopped master takes every beat at once", ~(dut.stop & axi.rvalid) | axi.rready)

    # Requests: in the gate, then on the bus.
    took_fetch, took_load = dut.fetch.valid & dut.fetch.ready, dut.load.valid & dut.load.ready
    from_fetch, from_load = dut.fetch.payload, dut.load.payload
    word = Mux(took_fetch, Cat(from_fetch.address, from_fetch.beats, 1), Cat(from_load.address, from_load.beats, 0))
    requests = Line(m, "request", 4, 74, put=took_fetch | took_load, word=word, get=asked)
    with m.If(dut.stop | dut.clear):  # what is not on the bus is forgotten
        m.d.sync += requests.level.eq(axi.arvalid & ~axi.arready)
    _quiet_clear(h, dut, dut.fetch.valid | dut.load.valid | (requests.level != 0))
    h.always(
        "ar_asked",
        "every burst on the bus was asked for, once, in order, and has its reader's id",
        ~axi.arvalid | ((requests.level != 0) & (Cat(axi.araddr, (axi.arlen + 1)[:9], axi.arid) == requests.first)),
    )
    h.always("r_one", "one request is taken at a time", ~(took_fetch & took_load))

    error = axi.rresp != 0
    fetched = dut.fetch_beats
    h.always(
        "r_fetch",
        "the fetch gets the beats with its id and no other, with data and error",
        (fetched.valid == (axi.rvalid & (axi.rid == 1)))
        & (~fetched.valid | ((fetched.payload.data.as_value() == axi.rdata) & (fetched.payload.error == error))),
    )
    loaded = dut.load_beats
    got = loaded.valid & loaded.ready
    beats = Line(m, "beat", 3, 8 * WIDTH + 1, put=beat & (axi.rid == 0) & ~dut.stop, word=Cat(axi.rdata, error), get=got)
    with m.If(dut.clear):
        m.d.sync += beats.level.eq(0)
    h.always(
        "r_load",
        "the load unit gets the beats with its id and no other, in order, with data and error",
        (loaded.valid == (beats.level != 0)) & (~loaded.valid | (loaded.payload.as_value() == beats.first)),
    )
    h.reach("r_both", "both readers have a burst in flight", (owed[0].level == 1) & (owed[1].level == 1))
    h.reach("r_again", "a burst of two beats ends and another one is asked for", ended & axi.arvalid & (sent[0] == 1))
    h.reach("r_refused", "a burst outside the window is refused while another one is in flight", dut.load_refused & (owed[1].level == 1))


def writes(h: Harness) -> None:
    m, dut = h.m, h.block(WriteMaster(CONFIG))
    axi = dut.axi
    for value in (dut.window_base, dut.window_limit):
        h.hold(value)
    _burst_contract(h, dut.bursts)
    data = dut.beats.payload.as_value()
    h.assume(~h.past(dut.beats.valid & ~dut.beats.ready) | (dut.beats.valid & (data == h.past(data))))

    # Of every burst whose address came onto the bus: beats and last, then address, until its response.
    shown = axi.awvalid & ~h.past(axi.awvalid & ~axi.awready)
    beat, answered = axi.wvalid & axi.wready, axi.bvalid & axi.bready
    beats_sent, whole, accepted = Signal(9), Signal(range(OUTSTANDING + 2)), Signal(range(OUTSTANDING + 2))

    took = dut.bursts.valid & dut.bursts.ready
    asked = dut.bursts.payload
    requests = Line(m, "request", 4, 74, put=took, word=Cat(asked.address, asked.beats, asked.last), get=shown)
    with m.If(dut.stop | dut.clear):  # what did not come onto the bus by the next cycle is forgotten
        m.d.sync += requests.level.eq(0)
    _quiet_clear(h, dut, dut.bursts.valid | (requests.level != 0))

    flight = Line(m, "flight", OUTSTANDING + 1, 74, put=shown, word=Cat(axi.awaddr, (axi.awlen + 1)[:9], requests.first[73]), get=answered)
    now = [Mux(flight.level > i, flight.words[i], Cat(axi.awaddr, (axi.awlen + 1)[:9])) for i in range(OUTSTANDING + 1)]
    level = Value.cast(flight.level + shown)
    length = Array(word[64:73] for word in now)[whole]
    m.d.sync += [
        whole.eq(whole + (beat & axi.wlast) - answered),
        accepted.eq(accepted + (axi.awvalid & axi.awready) - answered),
    ]
    with m.If(beat):
        m.d.sync += beats_sent.eq(Mux(axi.wlast, 0, beats_sent + 1))

    # The memory: a response for a burst whose address and beats are in, and it stays.
    h.assume(~axi.bvalid | ((whole != 0) & (accepted != 0)))
    h.assume(~h.past(axi.bvalid & ~axi.bready) | (axi.bvalid & (axi.bresp == h.past(axi.bresp))))

    _address_rules(h, "aw", dut)
    h.always("aw_reset", "AWVALID and WVALID are low after a reset", ~h.after_reset() | ~(axi.awvalid | axi.wvalid))
    sent = Cat(axi.wdata, axi.wstrb, axi.wlast)
    h.always(
        "w_held",
        "WVALID stays until WREADY, and data, strobes and WLAST with it",
        ~h.past(axi.wvalid & ~axi.wready) | (axi.wvalid & (sent == h.past(sent))),
    )
    h.always("w_after_aw", "no beat comes before its burst's address", ~axi.wvalid | (whole < level))
    h.always(
        "w_prompt",
        "a beat waits for its burst's address to be on the bus, and for no ready",
        ~(dut.beats.valid & (whole < level)) | axi.wvalid,
    )
    h.always("w_last", "WLAST on the last beat of a burst, and on no other", ~axi.wvalid | (axi.wlast == (beats_sent + 1 == length)))
    h.always(
        "w_data",
        "the beats are the store unit's, one for one",
        (beat == (dut.beats.valid & dut.beats.ready)) & (~axi.wvalid | (Cat(axi.wdata, axi.wstrb) == data)),
    )
    h.always("w_outstanding", "no more than `outstanding_writes` bursts are on the bus or unanswered", level <= OUTSTANDING)
    h.always("w_busy", "`busy` exactly while a burst is on the bus or unanswered", dut.busy == (level != 0))
    h.always("w_stop", "no address comes onto the bus after `stop`", ~shown | ~h.past(dut.stop))
    h.always(
        "aw_asked",
        "every burst on the bus was asked for, once and in order",
        ~shown | ((requests.level != 0) & (Cat(axi.awaddr, (axi.awlen + 1)[:9]) == requests.first[:73])),
    )
    h.always("b_taken", "every response is taken at once", ~axi.bvalid | axi.bready)
    h.always(
        "b_done",
        "`command_done` with the response to a burst marked last, and at no other time",
        dut.command_done == (answered & flight.first[73]),
    )
    h.always(
        "b_error",
        "`error` with a response that is not OKAY, with the first address of its burst",
        (dut.error == (answered & (axi.bresp != 0))) & (~dut.error | (dut.error_address == flight.first[:64])),
    )
    h.reach("w_both", "two bursts are in flight and the first has all its beats", (flight.level == OUTSTANDING) & (whole == 1))
    h.reach(
        "w_again", "a burst of two beats is answered and another one is on the bus", answered & axi.awvalid & (flight.first[64:73] == 2)
    )


MUTANTS_READ = (
    Mutant("ar_held", Change("ReadMaster", "if arvalid", "m.Elif(_a)", "m.Else()", "ARVALID falls without ARREADY.")),
    Mutant(
        "ar_held", Change("ReadMaster", "gate.o.ready", "(~_v | _r) & _m", "_m", "An address is replaced on the bus before it was taken.")
    ),
    Mutant("ar_reset", Change("_address_channel", "_address_channel", "Out(_w)", "Out(_w, init=1)", "An address is valid after a reset.")),
    Mutant("ar_form", Change("ReadMaster", "arburst", "_a", "BurstType.WRAP", "Bursts wrap.")),
    Mutant("ar_form", Change("ReadMaster", "arsize", "_a", "_a - 1", "Beats are half a bus word.")),
    Mutant("ar_window", Change("ReadMaster", "gate.window_limit", "_a", "_a | 8", "The window ends up to 8 bytes late.")),
    Mutant(
        "r_outstanding",
        Change("ReadMaster", "gate.o.ready", "_a & has_credit", "_a", "Bursts are issued beyond the limit of outstanding reads."),
    ),
    Mutant(
        "r_busy",
        Change("ReadMaster", "if outstanding", "_a ^ _b", "_a | _b", "A burst that is issued while another one ends is counted twice."),
    ),
    Mutant("r_stop", Change("BurstGate", "self.o.valid", "_a & ~self.stop", "_a", "Bursts pass while everything is stopped.")),
    Mutant(
        "r_drain",
        Change("ReadMaster", "rready", "_a | Mux(_b, _c, _d)", "Mux(_b, _c, _d)", "A stopped master waits for units that take nothing."),
    ),
    Mutant("ar_asked", Change("ReadMaster", "arid", "_g.o_source", "_g.i_source", "A burst has the id of whoever asks now.")),
    Mutant("r_one", Change("ReadMaster", "load.ready", "_a & ~_b", "_a", "The load unit's request counts as taken while the fetch's is.")),
    Mutant("r_fetch", Change("ReadMaster", "fetch_beats.valid", "_a & _b.rid", "_a", "The fetch takes all beats.")),
    Mutant("r_load", Change("ReadMaster", "beats.i.valid", "_a & ~_b.rid", "_a", "The load unit takes the fetch's beats too.")),
    Mutant("r_load", Change("ReadMaster", "error", "_a.any()", "_a[0]", "Only the low bit of RRESP is looked at.")),
)
MUTANTS_WRITE = (
    Mutant("aw_held", Change("WriteMaster", "if awvalid", "m.Elif(_a)", "m.Else()", "AWVALID falls without AWREADY.")),
    Mutant("aw_reset", Change("_address_channel", "_address_channel", "Out(_w)", "Out(_w, init=1)", "An address is valid after a reset.")),
    Mutant("aw_form", Change("WriteMaster", "awlen", "_a - 1", "_a", "AWLEN is the number of beats instead of one less.")),
    Mutant("aw_window", Change("BurstGate", "fits", "_a & below_limit.less", "_a", "The window's limit is not looked at.")),
    Mutant("w_held", Change("WriteMaster", "if sent", "self.beat", "axi.wvalid", "A beat counts as sent without WREADY.")),
    Mutant("w_after_aw", Change("WriteMaster", "wvalid", "_a & sending.o.valid", "_a", "Data may come ahead of its address.")),
    Mutant("w_prompt", Change("WriteMaster", "wvalid", "_a", "_a & ~axi.awvalid", "Data waits for the address to be taken.")),
    Mutant("w_last", Change("WriteMaster", "wlast", "_a == _b", "_a + 1 == _b", "WLAST comes a beat early.")),
    Mutant("w_data", Change("WriteMaster", "self.beats.ready", "_a & _b", "_b", "The store unit's beat counts as taken without WREADY.")),
    Mutant("w_outstanding", Change("WriteMaster", "issued", "FIFO(_l, _d)", "FIFO(_l, _d + 1)", "A burst more than the limit is issued.")),
    Mutant("w_busy", Change("WriteMaster", "busy", "_a", "sending.o.valid", "The master is idle while responses are outstanding.")),
    Mutant("w_stop", Change("BurstGate", "self.o.valid", "_a & ~self.stop", "_a", "Bursts pass while everything is stopped.")),
    Mutant(
        "aw_asked",
        Change(
            "WriteMaster",
            "awaddr",
            "_g.o.payload.address",
            "_g.i.payload.address",
            "A burst has the address of the one that is asked for now.",
        ),
    ),
    Mutant("b_taken", Change("WriteMaster", "bready", "_a", "_a & ~self.stop", "A stopped master takes no responses.")),
    Mutant("b_done", Change("WriteMaster", "command_done", "_a & _b", "_a", "Every response ends a command.")),
    Mutant("b_error", Change("WriteMaster", "error", "_b.any()", "_b[0]", "Only the low bit of BRESP is looked at.")),
    Mutant("b_error", Change("WriteMaster", "error_address", "_a", "axi.awaddr", "An error is reported with the address on the bus.")),
)


def _proofs(name: str, block: str, build: Callable[[Harness], None], mutants: tuple[Mutant, ...], hard: tuple[str, ...]) -> Iterator[Proof]:
    """The window for every number of cycles; the rest for a few in every run of the tests, and for every number among the slow ones.

    ``hard``: claims that PDR does not decide.
    """
    bound = f"words of {WIDTH} bytes, {OUTSTANDING} in flight"
    whole = Proof(name, block, build, Method.bounded(7), mutants, bound=bound)
    window = next(claim for claim in whole.claims() if claim.endswith("_window"))
    rest = tuple(claim for claim in whole.claims() if claim != window)
    yield replace(whole, only=rest, mutants=tuple(mutant for mutant in mutants if mutant.kills != window))
    others = tuple(mutant for mutant in mutants if mutant.kills == window)
    yield replace(whole, name=f"{name}_window", method=Method.induction(2), only=(window,), mutants=others)
    for claim in whole.claims().values():
        if claim.name in rest and not claim.cover:
            method = Method.bounded(11) if claim.name in hard else Method.reachability()
            yield Proof(f"{name}_{claim.name}", block, build, method, only=(claim.name,), slow=True, bound=bound)


PROOFS = (
    *_proofs("reads", "read_master", reads, MUTANTS_READ, ()),
    *_proofs("writes", "write_master", writes, MUTANTS_WRITE, ("w_last", "b_error")),
)
