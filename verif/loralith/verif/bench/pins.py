"""A memory that drives every ready and valid itself: replays a recorded pattern, and answers single beats with errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cocotb.triggers import RisingEdge

from loralith.spec.registers import REGISTERS

__all__ = ["CHANNELS", "DECERR", "OKAY", "SLVERR", "PinMemory"]

OKAY, SLVERR, DECERR = 0, 2, 3
AR, R, AW, W, B = (1 << i for i in range(5))
ALL = AR | R | AW | W | B
CHANNELS = {"ar": AR, "r": R, "aw": AW, "w": W, "b": B}
"""Bits of a trace and of `PinMemory.silent`."""


@dataclass
class _Write:
    address: int
    ident: int
    beats: int
    data: list[tuple[int, int]] = field(default_factory=list)  # (wdata, wstrb)


class PinMemory:
    """Answers in order, like the native model's memory: a read sees memory as of its address, a write is in memory when it is answered.

    Parameters: `dut`, with `base` and `image` (uint8) of the memory; `trace`, one byte per cycle from the one in which the doorbell is
    taken: bits ARREADY, RVALID, AWREADY, WREADY, BVALID. Without one, and after its end, nothing ever stalls.

    Attributes:
        respond: response to one read beat or one write burst, from (address, is_write).
        silent: channels (bits of `CHANNELS`) that stand still, whatever the trace says.
        cycles: clock cycles since the memory was started.
    """

    def __init__(self, dut, base: int, image: np.ndarray, trace: bytes = b"") -> None:
        self.dut, self.base, self.image, self.trace = dut, base, image.copy(), trace
        self.bus = len(dut.m_axi_gmem_rdata) // 8
        self.respond: Callable[[int, bool], int] = lambda address, is_write: OKAY
        self.silent = 0
        self.cycles = 0
        self.outside: list[tuple[int, int]] = []
        self._reads: deque[tuple[int, int, bytes, bool]] = deque()  # per beat: address, id, data, last
        self._writes: deque[_Write] = deque()
        self._early: deque[tuple[int, int, int]] = deque()
        self._answers: deque[_Write] = deque()
        self._offered = 0
        self._position: int | None = None  # in the trace

    def inside(self, address: int, length: int) -> bool:
        return self.base <= address and address + length <= self.base + self.image.size

    async def run(self) -> None:
        """Answer for ever; start it with `cocotb.start_soon` while the machine is in reset."""
        dut = self.dut
        dut.m_axi_gmem_rvalid.value = dut.m_axi_gmem_bvalid.value = 0
        driven = 0
        edge = RisingEdge(dut.aclk)
        ready = (dut.m_axi_gmem_arready, AR), (dut.m_axi_gmem_awready, AW), (dut.m_axi_gmem_wready, W)
        doorbell = _Doorbell(dut)
        while True:
            await edge
            self.cycles += 1
            if driven & AR and dut.m_axi_gmem_arvalid.value == 1:
                self._take_read()
            if driven & AW and dut.m_axi_gmem_awvalid.value == 1:
                beats = int(dut.m_axi_gmem_awlen.value) + 1
                self._writes.append(_Write(int(dut.m_axi_gmem_awaddr.value), int(dut.m_axi_gmem_awid.value), beats))
            if driven & W and dut.m_axi_gmem_wvalid.value == 1:
                beat = dut.m_axi_gmem_wdata.value, dut.m_axi_gmem_wstrb.value, dut.m_axi_gmem_wlast.value
                self._early.append((int(beat[0]), int(beat[1]), int(beat[2])))
            if self._offered & R and dut.m_axi_gmem_rready.value == 1:
                self._reads.popleft()
                self._offered &= ~R
            if self._offered & B and dut.m_axi_gmem_bready.value == 1:
                self._answers.popleft()
                self._offered &= ~B
            self._place_beats()
            if self._position is not None:
                self._position += 1
            elif self.trace and doorbell.taken():
                self._position = 1
            wanted = self._wanted()
            self._offer(wanted)
            for signal, bit in ready:
                if (wanted ^ driven) & bit or self.cycles == 1:
                    signal.value = int(bool(wanted & bit))
            driven = wanted

    def _wanted(self) -> int:
        if self._position is None or self._position >= len(self.trace):
            return ALL & ~self.silent
        return self.trace[self._position] & ~self.silent

    def _take_read(self) -> None:
        dut = self.dut
        address, beats = int(dut.m_axi_gmem_araddr.value), int(dut.m_axi_gmem_arlen.value) + 1
        ident = int(dut.m_axi_gmem_arid.value)
        length = beats * self.bus
        assert (address & 0xFFF) + length <= 0x1000, f"read of {beats} beats at {address:#x} crosses a 4 KiB boundary"
        assert address % self.bus == 0
        assert dut.m_axi_gmem_arburst.value == 1
        assert 1 << int(dut.m_axi_gmem_arsize.value) == self.bus
        inside = self.inside(address, length)
        if not inside:
            self.outside.append((address, length))
        for i in range(beats):
            start = address - self.base + i * self.bus
            data = self.image[start : start + self.bus].tobytes() if inside else b"\xa5" * self.bus
            self._reads.append((address + i * self.bus, ident, data, i == beats - 1))

    def _place_beats(self) -> None:
        while self._early and self._writes:
            write = self._writes[0]
            data, strobe, last = self._early.popleft()
            write.data.append((data, strobe))
            assert last == (len(write.data) == write.beats), f"WLAST is {last} in beat {len(write.data)} of {write.beats}"
            if last:
                self._answers.append(self._writes.popleft())

    def _offer(self, wanted: int) -> None:
        dut = self.dut
        traced = self._position is not None and self._position < len(self.trace)
        channels: list[tuple[int, deque[Any], Any, Callable[[Any], None]]] = [
            (R, self._reads, dut.m_axi_gmem_rvalid, self._offer_read),
            (B, self._answers, dut.m_axi_gmem_bvalid, self._offer_answer),
        ]
        for bit, queue, signal, offer in channels:
            before = self._offered & bit
            if not before and wanted & bit and queue:
                offer(queue[0])
                self._offered |= bit
            if traced:
                assert bool(self._offered & bit) == bool(wanted & bit), f"the replay goes another way in its cycle {self._position}"
            signal.value = int(bool(self._offered & bit))

    def _offer_read(self, beat: tuple[int, int, bytes, bool]) -> None:
        address, ident, data, last = beat
        dut = self.dut
        dut.m_axi_gmem_rdata.value = int.from_bytes(data, "little")
        dut.m_axi_gmem_rid.value = ident
        dut.m_axi_gmem_rlast.value = int(last)
        dut.m_axi_gmem_rresp.value = self.respond(address, False) if self.inside(address, self.bus) else DECERR

    def _offer_answer(self, write: _Write) -> None:
        length = write.beats * self.bus
        response = self.respond(write.address, True) if self.inside(write.address, length) else DECERR
        if not self.inside(write.address, length):
            self.outside.append((write.address, length))
        if response == OKAY:
            start = write.address - self.base
            for i, (data, strobe) in enumerate(write.data):
                word = np.frombuffer(data.to_bytes(self.bus, "little"), np.uint8)
                mask = np.array([strobe >> lane & 1 for lane in range(self.bus)], bool)
                self.image[start + i * self.bus : start + (i + 1) * self.bus][mask] = word[mask]
        self.dut.m_axi_gmem_bid.value = write.ident
        self.dut.m_axi_gmem_bresp.value = response


class _Doorbell:
    """Sees the write of CONTROL.start: call `taken` at every edge; true in the cycle in which its address and data have both been taken."""

    def __init__(self, dut) -> None:
        self._dut = dut
        self._address: int | None = None
        self._data: int | None = None

    def taken(self) -> bool:
        dut = self._dut
        if dut.s_axi_control_awvalid.value == 1 and dut.s_axi_control_awready.value == 1:
            self._address = int(dut.s_axi_control_awaddr.value)
        if dut.s_axi_control_wvalid.value == 1 and dut.s_axi_control_wready.value == 1:
            self._data = int(dut.s_axi_control_wdata.value)
        if self._address is None or self._data is None:
            return False
        start = self._address == REGISTERS["CONTROL"].offset and self._data & 1
        self._address = self._data = None
        return bool(start)
