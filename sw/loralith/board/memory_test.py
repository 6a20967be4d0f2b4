"""Whether a board's memory holds what is written: data pins, byte masks, address lines, and a march over all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loralith.board.raw_link import SPAN, RawLink
from loralith.errors import LoralithError
from loralith.progress import Steps
from loralith.spec.sdram import BEAT_BYTES, ULX3S, SdramChip

__all__ = ["MemoryFailure", "address_pin", "byte_masks", "data_lines", "address_lines", "march"]

WORD_BITS = 16
PATTERNS = (0x00000000, 0xFFFFFFFF, 0xA5C35A3C)
"""Of the march, each after the one before: every bit is written as 0 and 1 over the other value."""


class MemoryFailure(LoralithError):
    """Memory that does not hold what was written. ``advice``: what to look at."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


SOLDER = "look at the memory chip's solder joints with a magnifier; try a bitstream of a lower --frequency"
CLOCK = "the chip's clock or the I/O delays do not fit this board: build one of a lower --frequency, or of another `phase`"


def address_pin(bit: int, chip: SdramChip = ULX3S) -> str:
    """The pin of the chip that a bit of a byte's address goes to, by the controller's placement: columns, banks, rows from low to high."""
    word = bit - 1
    if word < 0:
        return "DQML/DQMH"
    if word < chip.column_bits:
        return f"A{word} (column)"
    bank_bits = chip.banks.bit_length() - 1
    if word < chip.column_bits + bank_bits:
        return f"BA{word - chip.column_bits}"
    return f"A{word - chip.column_bits - bank_bits} (row)"


def data_lines(raw: RawLink, base: int) -> str:
    """Each data pin at 0 and 1 with all others at the opposite. Raises MemoryFailure, which names pins that are stuck."""
    words = [value for bit in range(WORD_BITS) for value in (1 << bit, 0xFFFF ^ 1 << bit)]
    data = b"".join(word.to_bytes(2, "little") for word in words)
    raw.write(base, data)
    found = raw.read(base, len(data))
    read = [int.from_bytes(found[i : i + 2], "little") for i in range(0, len(found), 2)]
    wrong = [(wrote, got) for wrote, got in zip(words, read, strict=True) if wrote != got]
    if not wrong:
        return f"{WORD_BITS} data pins"
    every = [got for _, got in zip(words, read, strict=True)]
    high = [bit for bit in range(WORD_BITS) if all(got >> bit & 1 for got in every)]
    low = [bit for bit in range(WORD_BITS) if not any(got >> bit & 1 for got in every)]
    stuck = [f"D{bit} always reads 1" for bit in high] + [f"D{bit} always reads 0" for bit in low]
    if stuck and len(stuck) < WORD_BITS:
        raise MemoryFailure("; ".join(stuck), SOLDER)
    bits = sorted({bit for wrote, got in wrong for bit in range(WORD_BITS) if (wrote ^ got) >> bit & 1})
    example = f"{wrong[0][0]:#06x} was written and {wrong[0][1]:#06x} read"
    if len(bits) == 2:
        raise MemoryFailure(f"D{bits[0]} and D{bits[1]} disturb each other: {example}", SOLDER)
    raise MemoryFailure(f"{len(wrong)} of {len(words)} words differ: {example}", CLOCK)


def byte_masks(raw: RawLink, base: int) -> str:
    """Single bytes written between others. Raises MemoryFailure, which names the mask."""
    raw.write(base, bytes(2 * BEAT_BYTES))
    expected = bytearray(2 * BEAT_BYTES)
    for at in (1, 2, 7, 8, 13):
        raw.write(base + at, bytes([0xA0 + at]))
        expected[at] = 0xA0 + at
    found = raw.read(base, len(expected))
    if found != expected:
        at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        raise MemoryFailure(
            f"byte {at} beside single bytes that were written is {found[at]:#04x} and must be {expected[at]:#04x}: the mask pin "
            f"{'DQML' if at % 2 == 0 else 'DQMH'} does not work",
            SOLDER,
        )
    return "byte masks"


@dataclass(frozen=True)
class Alias:
    """What was written to one address is read at another."""

    read_at: int
    written_at: int

    @property
    def bit(self) -> int:
        """The highest bit in which they differ: lower ones differ too, as the controller XORs bank bits with row bits."""
        return (self.read_at ^ self.written_at).bit_length() - 1


def address_lines(raw: RawLink, base: int, nbytes: int, chip: SdramChip = ULX3S) -> str:
    """Different words at 0 and at each power of two of memory, all read after all have been written.

    Raises MemoryFailure, which names the lines that have no effect.
    """
    bits = range(1, (nbytes - 1).bit_length())
    places = [0, *(1 << bit for bit in bits)]
    patterns = {place: (0x5A01 + 0x0337 * i) & 0xFFFF for i, place in enumerate(places)}
    for place, pattern in patterns.items():
        raw.write(base + place, pattern.to_bytes(2, "little"))
    found = {place: int.from_bytes(raw.read(base + place, 2), "little") for place in places}
    wrong = [place for place in places if found[place] != patterns[place]]
    if not wrong:
        return f"{len(bits)} address lines, bits 1 to {bits[-1]} of an address"
    written_at = {pattern: place for place, pattern in patterns.items()}
    aliases = [Alias(place, written_at[found[place]]) for place in wrong if found[place] in written_at]
    if len(aliases) < len(wrong):
        place = next(place for place in wrong if found[place] not in written_at)
        raise MemoryFailure(f"at {base + place:#x} {patterns[place]:#06x} was written and {found[place]:#06x} read", CLOCK)
    lines = sorted({alias.bit for alias in aliases})
    first = aliases[0]
    names = ", ".join(f"bit {bit}, pin {address_pin(bit, chip)}" for bit in lines)
    raise MemoryFailure(
        f"address lines without effect: {names}; what was written to {base + first.written_at:#x} is found at "
        f"{base + first.read_at:#x} too",
        SOLDER,
    )


def march(raw: RawLink, base: int, nbytes: int) -> str:
    """Upwards and downwards over memory: each stretch is compared and then filled with the next pattern before the next one is looked at,
    so that a write which reaches another place is seen there; then one stretch with every word's own address.

    Raises MemoryFailure with the first word that differs.
    """
    spans = list(_spans(base, nbytes))
    steps = Steps(f"march over {nbytes:,} bytes", len(spans) * (len(PATTERNS) + 1))
    for address, size in spans:
        raw.fill(address, size, PATTERNS[0])
        steps.step()
    for turn, pattern in enumerate(PATTERNS):
        following = PATTERNS[(turn + 1) % len(PATTERNS)]
        for address, size in spans if turn % 2 == 0 else reversed(spans):
            _compare(raw, address, pattern.to_bytes(4, "little") * (size // 4))
            raw.fill(address, size, following)
            steps.step()
    address, size = spans[-1]
    own = b"".join((address + at).to_bytes(4, "little") for at in range(0, min(size, 1 << 14), 4))
    raw.write(address, own)
    _compare(raw, address, own)
    return f"a march of {len(PATTERNS)} patterns over {nbytes:,} bytes"


def _spans(base: int, nbytes: int) -> Iterator[tuple[int, int]]:
    for at in range(0, nbytes, SPAN):
        yield base + at, min(SPAN, nbytes - at)


def _compare(raw: RawLink, address: int, expected: bytes) -> None:
    if raw.holds(address, expected):
        return
    found = raw.read(address, len(expected))
    for at in range(0, len(expected), 4):
        wrote, got = expected[at : at + 4], found[at : at + 4]
        if wrote != got:
            raise MemoryFailure(
                f"at {address + at:#x} {wrote[::-1].hex()} was written and {got[::-1].hex()} read",
                "if it differs from run to run, " + CLOCK + "; if it is always this place, the chip has a defect there",
            )
    raise MemoryFailure(
        f"{len(expected):,} bytes at {address:#x} are read right over the link, and the board's own sum of them is wrong",
        "reads in long bursts fail: " + CLOCK,
    )
