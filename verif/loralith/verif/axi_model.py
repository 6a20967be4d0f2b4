"""An AXI4 memory for the Amaranth simulator that checks the master's rules while it answers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["AxiLiteHost", "AxiMemory", "AxiRuleError", "Stalls"]


class AxiRuleError(AssertionError):
    """The master broke a rule of the bus."""


@dataclass
class Stalls:
    """How the memory behaves: cycles of latency, and the chance per cycle that a channel is not ready or has nothing."""

    latency: int = 4
    ar: float = 0.0
    r: float = 0.0
    aw: float = 0.0
    w: float = 0.0
    b: float = 0.0
    interleave: bool = False
    aw_after_w: bool = False  # take an address only once its first beat is offered

    @classmethod
    def random(cls, rng: random.Random) -> Stalls:
        chances = [rng.choice([0.0, 0.2, 0.7]) for _ in range(5)]
        return cls(rng.choice([1, 4, 30]), *chances, interleave=rng.random() < 0.5, aw_after_w=rng.random() < 0.3)


@dataclass
class _Burst:
    id: int
    address: int
    beats: int
    due: int
    done: int = 0
    data: list = field(default_factory=list)


class AxiMemory:
    """``size`` bytes from ``base`` on, at the other end of ``axi``: an AXI4 master's interface object, or one of its halves.

    Parameters: axi; data_bytes; window (first byte, first byte past it) that every burst must keep to in bus words;
    stalls; seed; error (a function of a beat's or burst's address) gives the response code.

    Attributes: data, the memory's bytes; reads, writes: (address, beats) of every burst; read_beats, write_beats: their sum;
    beat_cycles: cycle numbers of read and write beats.
    """

    def __init__(
        self,
        axi: object,
        data_bytes: int,
        base: int,
        size: int,
        *,
        window: tuple[int, int] | None = None,
        stalls: Stalls | None = None,
        seed: int = 0,
        error: Callable[[int], int] = lambda address: 0,
    ) -> None:
        self.axi, self.W, self.base = axi, data_bytes, base
        self.data = bytearray(size)
        self.window = window or (base, base + size)
        self.stalls, self.rng, self.error = stalls or Stalls(), random.Random(seed), error
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self.read_cycles: list[int] = []
        self.write_cycles: list[int] = []
        self._cycle = 0

    def put(self, address: int, content: bytes) -> None:
        offset = address - self.base
        if offset < 0 or offset + len(content) > len(self.data):
            raise ValueError(f"{address:#x} + {len(content)} lies outside the memory")
        self.data[offset : offset + len(content)] = content

    def get(self, address: int, size: int) -> bytes:
        return bytes(self.data[address - self.base : address - self.base + size])

    @property
    def responses_due(self) -> int:
        """Bursts that were taken and not answered in full."""
        return sum(len(q) for q in getattr(self, "_queues", {}).values()) + len(getattr(self, "_answers", ()))

    def _burst(self, prefix: str, values: Mapping[str, int]) -> _Burst:
        address, beats = values[prefix + "addr"], values[prefix + "len"] + 1
        end = address + beats * self.W
        first, limit = self.window
        last_word = end - self.W
        for broken, rule in (
            (values[prefix + "burst"] != 1, "bursts are INCR"),
            (1 << values[prefix + "size"] != self.W, "size is the bus's width"),
            (address % self.W, "addresses are multiples of the bus's width"),
            (address // 4096 != (end - 1) // 4096, "no burst crosses a 4 KiB boundary"),
            (address < first or last_word >= limit, f"no burst leaves the window {first:#x}..{limit:#x}"),
        ):
            if broken:
                raise AxiRuleError(f"{prefix.upper()} at {address:#x}, {beats} beats: {rule}")
        return _Burst(values[prefix + "id"], address, beats, self._cycle + self.stalls.latency)

    async def read_side(self, ctx) -> None:
        """Channels AR and R: add as a background testbench."""
        axi, stalls, rng = self.axi, self.stalls, self.rng
        self._queues: dict[int, deque[_Burst]] = {}
        names = ("arvalid", "araddr", "arlen", "arid", "arsize", "arburst", "rready")
        current: _Burst | None = None
        held: dict[str, int] | None = None
        offered = False
        while True:
            ready = rng.random() >= stalls.ar
            ctx.set(axi.arready, ready)
            if not offered:
                if current is None or stalls.interleave:
                    due = [q[0] for q in self._queues.values() if q and q[0].due <= self._cycle]
                    current = rng.choice(due) if due else None
                offered = current is not None and rng.random() >= stalls.r
                if offered:
                    address = current.address + current.done * self.W
                    ctx.set(axi.rid, current.id)
                    ctx.set(axi.rdata, int.from_bytes(self.get(address, self.W), "little"))
                    ctx.set(axi.rresp, self.error(address))
                    ctx.set(axi.rlast, current.done == current.beats - 1)
            ctx.set(axi.rvalid, offered)
            _, _, *got = await ctx.tick().sample(*(getattr(axi, n) for n in names))
            self._cycle += 1
            values: dict[str, int] = dict(zip(names, got, strict=True))
            payload = {n: values[n] for n in names if n != "rready"}
            if held is not None and payload != held:
                raise AxiRuleError(f"AR changed before it was taken: {held} -> {payload}")
            held = payload if values["arvalid"] and not ready else None
            if values["arvalid"] and ready:
                burst = self._burst("ar", values)
                self.reads.append((burst.address, burst.beats))
                self._queues.setdefault(burst.id, deque()).append(burst)
            if offered and values["rready"]:
                self.read_cycles.append(self._cycle)
                offered = False
                current.done += 1
                if current.done == current.beats:
                    self._queues[current.id].popleft()
                    current = None

    async def write_side(self, ctx) -> None:
        """Channels AW, W and B: add as a background testbench."""
        axi, stalls, rng = self.axi, self.stalls, self.rng
        names = ("awvalid", "awaddr", "awlen", "awid", "awsize", "awburst", "wvalid", "wdata", "wstrb", "wlast", "bready")
        pending: deque[_Burst] = deque()  # presented; beats come in this order
        self._answers: deque[_Burst] = deque()
        taken = 0  # of the bursts in pending
        held: dict[str, dict[str, int]] = {}
        answering, presented, w_seen, cycle = False, False, True, 0
        while True:
            aw_ready = rng.random() >= stalls.aw and (w_seen or not stalls.aw_after_w)
            w_ready = rng.random() >= stalls.w
            ctx.set(axi.awready, aw_ready)
            ctx.set(axi.wready, w_ready)
            if not answering and self._answers and self._answers[0].due <= cycle and rng.random() >= stalls.b:
                answering = True
                ctx.set(axi.bid, self._answers[0].id)
                ctx.set(axi.bresp, self.error(self._answers[0].address))
            ctx.set(axi.bvalid, answering)
            _, _, *got = await ctx.tick().sample(*(getattr(axi, n) for n in names))
            cycle += 1
            values: dict[str, int] = dict(zip(names, got, strict=True))
            for prefix, ready in (("aw", aw_ready), ("w", w_ready)):
                payload = {n: values[n] for n in names if n.startswith(prefix)}
                if prefix in held and payload != held[prefix]:
                    raise AxiRuleError(f"{prefix.upper()} changed before it was taken: {held[prefix]} -> {payload}")
                held.pop(prefix, None)
                if values[prefix + "valid"] and not ready:
                    held[prefix] = payload
            if values["awvalid"] and not presented:
                pending.append(self._burst("aw", values))
                presented = True
            if values["awvalid"] and aw_ready:
                self.writes.append((pending[-1].address, pending[-1].beats))
                presented = False
                taken += 1
            if values["wvalid"] and w_ready:
                open_ = next((burst for burst in pending if len(burst.data) < burst.beats), None)
                if open_ is None:
                    raise AxiRuleError("a W beat before its address")
                self.write_cycles.append(cycle)
                open_.data.append((values["wdata"].to_bytes(self.W, "little"), values["wstrb"]))
                if values["wlast"] != (len(open_.data) == open_.beats):
                    raise AxiRuleError(f"wlast is {values['wlast']} on beat {len(open_.data)} of {open_.beats}")
            # All beats of the presented burst may have been taken already.
            w_seen = bool(values["wvalid"] or (presented and pending and pending[-1].data)) or not stalls.aw_after_w
            while taken and pending and len(pending[0].data) == pending[0].beats:
                burst = pending.popleft()
                taken -= 1
                self._commit(burst)
                burst.due = cycle + stalls.latency
                self._answers.append(burst)
            if answering and values["bready"]:
                self._answers.popleft()
                answering = False

    def _commit(self, burst: _Burst) -> None:
        for i, (content, strobes) in enumerate(burst.data):
            for b in range(self.W):
                if strobes >> b & 1:
                    address = burst.address + i * self.W + b
                    if not self.window[0] <= address < self.window[1]:
                        raise AxiRuleError(f"a byte is written outside the window at {address:#x}")
                    self.data[address - self.base] = content[b]


class AxiLiteHost:
    """Writes and reads over an AXI4-Lite slave's interface object, with random gaps."""

    def __init__(self, axi: object, *, seed: int = 0, stall: float = 0.0) -> None:
        self.axi, self.rng, self.stall = axi, random.Random(seed), stall

    async def _gap(self, ctx) -> None:
        while self.rng.random() < self.stall:
            await ctx.tick()

    async def write(self, ctx, address: int, value: int, strobes: int = 0xF) -> int:
        """Returns the response code."""
        axi = self.axi
        channels = {"aw": {"awaddr": address}, "w": {"wdata": value, "wstrb": strobes}}
        waiting, cycle = {"aw": self.rng.randint(0, 3) * (self.stall > 0), "w": 0}, 0
        while waiting:
            for channel, first in waiting.items():
                if cycle >= first:
                    for name, content in channels[channel].items():
                        ctx.set(getattr(axi, name), content)
                    ctx.set(getattr(axi, channel + "valid"), 1)
            _, _, *ready = await ctx.tick().sample(*(getattr(axi, c + s) for c in waiting for s in ("valid", "ready")))
            cycle += 1
            for i, channel in enumerate(list(waiting)):
                if ready[2 * i] and ready[2 * i + 1]:
                    ctx.set(getattr(axi, channel + "valid"), 0)
                    del waiting[channel]
        await self._gap(ctx)
        return (await self._answer(ctx, "b", axi.bresp))[0]

    async def read(self, ctx, address: int) -> tuple[int, int]:
        """Returns (value, response code)."""
        axi = self.axi
        ctx.set(axi.araddr, address)
        ctx.set(axi.arvalid, 1)
        ready = False
        while not ready:
            _, _, ready = await ctx.tick().sample(axi.arready)
        ctx.set(axi.arvalid, 0)
        await self._gap(ctx)
        value, response = await self._answer(ctx, "r", axi.rdata, axi.rresp)
        return value, response

    async def _answer(self, ctx, channel: str, *payload: object) -> list[int]:
        valid, ready = getattr(self.axi, channel + "valid"), getattr(self.axi, channel + "ready")
        ctx.set(ready, 1)
        taken, got = False, []
        while not taken:
            _, _, taken, *got = await ctx.tick().sample(valid, *payload)
        ctx.set(ready, 0)
        return got
