"""The list of a fetch: its check, and the requests of its descriptors."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config
from loralith.spec.status import Code

from .bursts import Transfer
from .extent import Extent

__all__ = ["DescriptorRequests", "ListCheck"]


class ListCheck(wiring.Component):
    """Checks a list's address and length, in the order of docs/machine.md.

    Members:
        start: begin a check; one cycle.
        base, length, window_base, window_limit: the list in commands, and the window; they must hold from ``start`` until ``done``.
        done: the result is there; low in the cycle after ``start``, then high ``delay`` cycles after it until the next one.
        fails, code: the list is bad, and why; meaningful while ``done``.

    Attributes:
        delay: cycles from ``start`` to the first cycle of ``done``.
    """

    def __init__(self, config: Config) -> None:
        self._word_bits = exact_log2(config.bus_bytes)
        self._extent = Extent(base=64, count=1, stride=1, length=32 + exact_log2(COMMAND_BYTES), limit=64)
        self.delay = self._extent.delay
        super().__init__(
            {
                "start": In(1),
                "base": In(64),
                "length": In(32),
                "window_base": In(64),
                "window_limit": In(64),
                "done": Out(1),
                "fails": Out(1),
                "code": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.extent = extent = self._extent
        misaligned = Signal()
        below = Signal()
        empty = Signal()
        m.d.sync += [  # long before ``done``
            misaligned.eq(self.base[: self._word_bits].any()),
            below.eq(self.base < self.window_base),
            empty.eq(self.length == 0),
        ]
        m.d.comb += [
            extent.start.eq(self.start),
            extent.base.eq(self.base),
            extent.count.eq(1),
            extent.length.eq(self.length << exact_log2(COMMAND_BYTES)),
            extent.limit.eq(self.window_limit),
            self.done.eq(extent.done),
            self.fails.eq(misaligned | empty | below | ~extent.ok),
            self.code.eq(Mux(misaligned, Code.MISALIGNED, Mux(empty, Code.BAD_FIELD, Code.DRAM_WINDOW))),
        ]
        return m


class DescriptorRequests(wiring.Component):
    """Requests the descriptors of a list in order, each as a transfer of its own, while it has credits.

    Parameters: config; max_credits, the number of credits.

    Members:
        start: one-cycle pulse: a new list. base, length: the list, in commands; must hold while it is requested.
        enable: request; in the cycle after it falls one more request may still be made.
        credit: one-cycle pulse: one more descriptor may be requested.
        o: the transfers.
        requested: how many transfers were taken.
        clear: all credits are there.
    """

    def __init__(self, config: Config, max_credits: int) -> None:
        self._config, self._max_credits = config, max_credits
        super().__init__(
            {
                "start": In(1),
                "base": In(64),
                "length": In(32),
                "enable": In(1),
                "credit": In(1),
                "o": Out(stream.Signature(Transfer)),
                "requested": Out(32),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        credits = Signal(range(self._max_credits + 1))
        remaining = Signal()
        address = Signal(64)
        request = Signal()
        request_r = Signal()  # ``remaining`` and ``credits`` do not count it yet
        m.d.sync += [
            remaining.eq(self.requested != self.length),
            request_r.eq(request),
            self.o.valid.eq(self.enable & remaining & (credits != 0) & ~request & ~request_r),
        ]
        m.d.comb += [
            request.eq(self.o.valid & self.o.ready),
            self.o.payload.address.eq(address),
            self.o.payload.rows.eq(1),
            self.o.payload.beats.eq(COMMAND_BYTES // self._config.bus_bytes),
        ]
        with m.If(request):
            m.d.sync += [self.requested.eq(self.requested + 1), address.eq(address + COMMAND_BYTES)]
        with m.If(request ^ self.credit):
            m.d.sync += credits.eq(Mux(self.credit, credits + 1, credits - 1))
        with m.If(self.start):
            m.d.sync += [self.requested.eq(0), address.eq(self.base)]
        with m.If(self.clear):
            m.d.sync += credits.eq(self._max_credits)
        return m
