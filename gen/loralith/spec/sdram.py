"""SDR SDRAM: what a data sheet says of a chip, and the same in cycles of a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["BEAT_BYTES", "BURST", "MEMORY_BASE", "MOST_POSTPONED", "ULX3S", "SdramChip", "SdramTiming"]

BURST = 4
"""Words of a column command: a bus beat of `BEAT_BYTES`."""
BEAT_BYTES = 8
MEMORY_BASE = 0x4000_0000
"""The board's memory begins here: address 0 is nobody's, so that a forgotten address is a bus error."""
MOST_POSTPONED = 8
"""Refreshes that may be due at once."""


@dataclass(frozen=True)
class SdramChip:
    """A chip with words of 16 bits.

    Attributes:
        name: of the parts. banks, row_bits, column_bits: geometry.
        rc, ras, rp, rcd, wr, rrd, rfc: nanoseconds from ACTIVE to ACTIVE of a bank, ACTIVE to PRECHARGE, PRECHARGE to ACTIVE, ACTIVE to
            READ or WRITE, the last word written to PRECHARGE, ACTIVE to ACTIVE of two banks, and REFRESH to any command.
        mrd: cycles from MODE to any command.
        refresh_ms, refreshes: all rows are refreshed by so many REFRESH commands in that time.
        power_up_us: from a stable clock to the first command.
        cycle_ns: shortest clock period by CAS latency. access_ns, hold_ns: from the clock's edge to a word, and to its end, also by it.
        setup_ns, hold_input_ns: of the chip's inputs.
    """

    name: str
    banks: int = 4
    row_bits: int = 13
    column_bits: int = 9
    rc: float = 66
    ras: float = 45
    rp: float = 20
    rcd: float = 20
    wr: float = 15
    rrd: float = 15
    rfc: float = 70
    mrd: int = 2
    refresh_ms: float = 64
    refreshes: int = 8192
    power_up_us: float = 200
    cycle_ns: tuple[tuple[int, float], ...] = ((2, 10.0), (3, 7.5))
    access_ns: tuple[tuple[int, float], ...] = ((2, 6.0), (3, 5.4))
    hold_ns: float = 2.5
    setup_ns: float = 1.5
    hold_input_ns: float = 0.8

    @property
    def bytes(self) -> int:
        return 2 * self.banks << (self.row_bits + self.column_bits)

    @property
    def row_beats(self) -> int:
        """Beats of a row."""
        return (1 << self.column_bits) // BURST


ULX3S = SdramChip("MT48LC16M16A2-75 or IS42S16160G-7")
"""The slower value of each of the two chips that the board is sold with. LiteDRAM's modules of both names have none that is slower, but 20
ns for `wr` of the second, of which the data sheet says 14."""


@dataclass(frozen=True)
class SdramTiming:
    """The chip's times in cycles of ``mhz``, rounded up, at the CAS latency ``cas``.

    ``ras`` is so long that ACTIVE to ACTIVE is kept with ``rp``. ``interval``: cycles between two refreshes, so short that `MOST_POSTPONED`
    late ones are within the chip's time.

    Raises ValueError for a clock or a latency that the chip does not take.
    """

    mhz: float
    cas: int
    rc: int
    ras: int
    rp: int
    rcd: int
    wr: int
    rrd: int
    rfc: int
    mrd: int
    interval: int
    power_up: int

    @classmethod
    def of(cls, chip: SdramChip, mhz: float, cas: int = 3) -> SdramTiming:
        fastest = dict(chip.cycle_ns)
        if cas not in fastest:
            raise ValueError(f"CAS latency must be one of {', '.join(map(str, fastest))}, not {cas}")
        if not 10 <= mhz <= 1000 / fastest[cas]:
            raise ValueError(f"at CAS latency {cas} the clock must be in 10..{1000 / fastest[cas]:g} MHz, not {mhz:g}")

        def cycles(ns: float) -> int:
            return math.ceil(ns * mhz / 1000 - 1e-9)

        rc, rp, rcd = cycles(chip.rc), cycles(chip.rp), cycles(chip.rcd)
        return cls(
            mhz=mhz,
            cas=cas,
            rc=rc,
            ras=max(cycles(chip.ras), rc - rp),
            rp=rp,
            rcd=rcd,
            wr=cycles(chip.wr),
            rrd=cycles(chip.rrd),
            rfc=cycles(chip.rfc),
            mrd=chip.mrd,
            interval=math.floor(chip.refresh_ms * 1000 * mhz / (chip.refreshes + 2 * MOST_POSTPONED)),
            power_up=cycles(1000 * chip.power_up_us),
        )
