"""Allocation of on-chip memory rows at compile time."""

from __future__ import annotations

from dataclasses import dataclass

from loralith.errors import LoralithError
from loralith.spec.config import Config

__all__ = ["MEMORIES", "FULL_WINDOW", "DoesNotFit", "Region", "Regions", "Window", "lanes_of", "rows_needed"]

MEMORIES = ("left", "right", "out", "acc", "scale")


class DoesNotFit(LoralithError):
    """A schedule needs more of an on-chip memory than there is."""


@dataclass(frozen=True)
class Window:
    """A part of every memory, in sixteenths of its rows, for one of several schedules that overlap in time."""

    first: int
    past: int

    def rows(self, depth: int) -> tuple[int, int]:
        """The window's first row, and the row after its last one, in a memory of `depth` rows."""
        return depth * self.first // 16, depth * self.past // 16

    def size(self, depth: int) -> int:
        first, past = self.rows(depth)
        return past - first


FULL_WINDOW = Window(0, 16)


@dataclass(frozen=True)
class Region:
    """Rows base .. base + rows - 1 of `memory`; blocks of lanes are `stride` rows apart."""

    memory: str
    base: int
    rows: int
    stride: int


def lanes_of(memory: str, config: Config) -> int:
    """Lanes of a word: columns C for right, rows R for the others."""
    return config.cols if memory == "right" else config.rows


def rows_needed(memory: str, lanes: int, seq: int, config: Config) -> tuple[int, int]:
    """(rows, stride) that `lanes` lane indices by `seq` positions take.

    An INT32 result of N columns is 4N positions of `out` and N of `acc`; a folded right operand is `steps` positions of tiles * C lanes.
    For `scale`, `lanes` is the number of entries and `seq` is 1.
    """
    blocks = -(-lanes // lanes_of(memory, config))
    stride = seq if memory in ("acc", "scale") else -(-seq // config.banks)
    return blocks * stride, stride


class Regions:
    """A stack of regions per memory: `take` from it, `release` back to a `mark`."""

    def __init__(self, config: Config, window: Window = FULL_WINDOW) -> None:
        self.config = config
        bounds = {memory: window.rows(config.depth(memory)) for memory in MEMORIES}
        self._next = {memory: first for memory, (first, _) in bounds.items()}
        self._past = {memory: past for memory, (_, past) in bounds.items()}

    def free_rows(self, memory: str) -> int:
        return self._past[memory] - self._next[memory]

    def take(self, memory: str, lanes: int, seq: int) -> Region:
        """Space for `lanes` x `seq` elements, see `rows_needed`. Raises DoesNotFit."""
        rows, stride = rows_needed(memory, lanes, seq, self.config)
        if rows > self.free_rows(memory):
            raise DoesNotFit(f"{lanes} lanes x {seq} need {rows} rows of {memory}; {self.free_rows(memory)} are free")
        base = self._next[memory]
        self._next[memory] += rows
        return Region(memory, base, rows, stride)

    def slots(self, memory: str, lanes: int, seq: int, count: int) -> list[Region]:
        """`count` equal regions: one is filled while another is used."""
        return [self.take(memory, lanes, seq) for _ in range(count)]

    def mark(self) -> dict[str, int]:
        return dict(self._next)

    def release(self, mark: dict[str, int]) -> None:
        """Give back everything taken since `mark`. Tokens still order later uses after earlier ones: they go by rows, not by regions."""
        self._next = dict(mark)
