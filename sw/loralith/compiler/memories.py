"""Memories that the cycle model may assume: an even one, and the SDR SDRAM of a board behind `soc.sdram`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from loralith.spec.config import Config
from loralith.spec.sdram import BEAT_BYTES, BURST, MOST_POSTPONED, ULX3S, SdramChip, SdramTiming

__all__ = ["Memory", "Sdr16", "Server"]


class Server(Protocol):
    """A memory during a modelled run; it is asked in about the order of time."""

    def read(self, cycle: int, address: int, beats: int) -> tuple[int, int]:
        """Cycles of the first and the last word of a burst whose address is on the bus in ``cycle``."""
        ...

    def write(self, first: int, end: int, address: int, rows: int, beats: int, stride: int) -> tuple[int, int]:
        """A store's words, ``beats`` in each row, which are ready from cycle ``first`` to ``end``: when all are taken, and the response."""
        ...


@dataclass(frozen=True)
class Memory:
    """Latencies in cycles; each channel moves one word per cycle."""

    read_latency: int = 100
    write_latency: int = 20

    def server(self, config: Config) -> Server:
        return _FixedLatency(self)


class _FixedLatency:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def read(self, cycle: int, address: int, beats: int) -> tuple[int, int]:
        first = cycle + self._memory.read_latency
        return first, first + beats - 1

    def write(self, first: int, end: int, address: int, rows: int, beats: int, stride: int) -> tuple[int, int]:
        return end, end - 1 + self._memory.write_latency


READ_PIPELINE = 22
"""Cycles from an address on the bus to its first word, in an open row."""
WRITE_PIPELINE = 10
"""Cycles from a word on the bus to its WRITE, and from a burst's last WRITE to its response, together."""
FIFO_BEATS = 32
"""Words that wait in the controller."""
DRAINED = 12
"""Cycles from the last command before a refresh to the first one after it, refreshes and row opening apart."""


@dataclass(frozen=True)
class Sdr16:
    """``chip`` behind the board's memory controller, on a bus of 8 bytes: a word takes four cycles; reads and writes share them."""

    timing: SdramTiming = field(default_factory=lambda: SdramTiming.of(ULX3S, 80))
    chip: SdramChip = ULX3S

    def server(self, config: Config) -> Server:
        """Raises ValueError for another bus."""
        if config.bus_bytes != BEAT_BYTES:
            raise ValueError(f"the memory controller's bus has {BEAT_BYTES} bytes, not {config.bus_bytes}")
        return _Sdr16(self)


class _Sdr16:
    def __init__(self, memory: Sdr16) -> None:
        self._chip, self._timing = memory.chip, memory.timing
        self._rows: dict[int, int] = {}
        self._bus_free_at = 0
        self._writing = False
        self._last_bank = -1
        self._batch = (MOST_POSTPONED - 1) * self._timing.interval
        self._refresh = self._batch

    def read(self, cycle: int, address: int, beats: int) -> tuple[int, int]:
        begin, end = self._move(cycle + READ_PIPELINE - BURST, address, beats, write=False)
        return begin + BURST, end

    def write(self, first: int, end: int, address: int, rows: int, beats: int, stride: int) -> tuple[int, int]:
        ready, done = first, first
        for row in range(rows):
            done = self._move(ready + WRITE_PIPELINE - BURST, address + row * stride, beats, write=True)[1]
            ready += beats
        return max(end, done - BURST * FIFO_BEATS), done + BURST

    def _move(self, ready: int, address: int, beats: int, *, write: bool) -> tuple[int, int]:
        """Begin and end on the data bus."""
        timing, chip = self._timing, self._chip
        begin = max(ready, self._bus_free_at + (timing.cas + 1 if write and not self._writing else 0))
        if begin >= self._refresh:
            begin += timing.rp + (MOST_POSTPONED - 1) * timing.rfc + DRAINED
            self._refresh = begin + self._batch
            self._rows.clear()
        end, beat = begin, address // BEAT_BYTES
        while beats:
            part = min(beats, chip.row_beats - beat % chip.row_beats)
            bank, row = self._map_address(beat)
            if self._rows.get(bank) != row:
                closes = timing.rp if bank in self._rows else 0
                hidden = end - ready if bank != self._last_bank else 0
                end += max(closes + timing.rcd - max(hidden, 0), 0)
                self._rows[bank] = row
            self._last_bank = bank
            end += BURST * part
            beat, beats = beat + part, beats - part
        self._bus_free_at, self._writing = end, write
        return begin, end

    def _map_address(self, beat: int) -> tuple[int, int]:
        """Bank and row, as `soc.sdram.split.map_address` has them."""
        rest = beat // self._chip.row_beats
        row = rest // self._chip.banks
        return rest % self._chip.banks ^ row % self._chip.banks, row
