"""Tiles that go on with what another one has left on chip become one with it: a LOAD of what a STORE of the same tile has just written
brings nothing new, and a STORE that nobody reads any more is left out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import maxsize

from loralith.compiler.step.dependencies import Codes, Flow, flow_of, uses_of
from loralith.compiler.step.relocation import memory_of, shifted
from loralith.compiler.step.tiles import Draft, Tile
from loralith.compiler.tokens.footprint import memory_rows
from loralith.spec.commands import FORMAT_BYTES, Opcode, VectorFormat
from loralith.spec.config import Config
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, SCALARS

__all__ = ["fused"]

MOST_COMMANDS = 64
"""Of a tile that others join."""
MOST_INSTRUCTIONS = PROGRAM_INSTRUCTIONS // 2
MOST_SCALARS = SCALARS // 2
ARRAY = ("left", "right", "out", "acc")
GEOMETRY = ("rows", "row_bytes", "row_stride", "address", "format", "broadcast")


@dataclass
class _Group:
    """A tile and those that have joined it: ``drafts`` at its places; ``stores``, the place among them of each STORE by its number."""

    drafts: list[Draft] = field(default_factory=list)
    extents: dict[str, int] = field(default_factory=dict)
    scalars: int = 0
    instructions: int = 0
    stores: dict[int, int] = field(default_factory=dict)


class _Fusion:
    def __init__(self, tiles: Sequence[Tile], flow: Flow, config: Config) -> None:
        self.tiles, self.flow, self.config, self.codes = tiles, flow, config, Codes()
        self.group: list[int] = []  # by tile
        self.groups: dict[int, _Group] = {}
        self.gone: set[int] = set()  # LOADs that bring nothing new
        self.before: list[list[int]] = [[] for _ in flow.tile]
        for number, after in enumerate(flow.after):
            for other in after:
                self.before[other].append(number)
        first = 0
        self.own: list[range] = []
        for tile in tiles:
            self.own.append(range(first, first + len(tile.drafts)))
            first += len(tile.drafts)

    def run(self) -> None:
        for tile in range(len(self.tiles)):
            pairs = [(n, s) for n in self.own[tile] if (s := self._source(n)) is not None]
            pairs.sort(key=lambda pair: -self.flow.cycles[pair[0]])
            for into in dict.fromkeys(self.group[self.flow.tile[s]] for _, s in pairs):
                if self._joins(tile, into, [(n, s) for n, s in pairs if self.group[self.flow.tile[s]] == into]):
                    break
            else:
                self.group.append(tile)
                self.groups[tile] = _Group()
                self._add(tile, tile, dict.fromkeys(self.flow.extents[tile], 0), {}, [])

    def _source(self, number: int) -> int | None:
        """The one STORE that wrote what a LOAD brings back to where it came from, word by word."""
        flow = self.flow
        writers = flow.writers.get(number, ())
        if len(writers) != 1:
            return None
        (store,) = writers
        draft = flow.drafts[number]
        if store < 0 or memory_of(draft) not in ("v0", "v1", "scalars"):
            return None
        other = flow.drafts[store]
        if memory_of(other) != memory_of(draft) or any(draft.fields.get(name, 0) != other.fields.get(name, 0) for name in GEOMETRY):
            return None
        if draft.scalar:
            return store
        fields = draft.fields
        elements = fields["row_bytes"] // FORMAT_BYTES[VectorFormat(fields.get("format", 0))]
        even = elements % self.config.vector_lanes == 0 and fields.get("format") != VectorFormat.INT8 and not fields.get("broadcast")
        width = elements // self.config.vector_lanes
        return store if even and all(d.fields["rows"] == 1 or d.fields.get("block_stride", 0) == width for d in (draft, other)) else None

    def _joins(self, tile: int, into: int, pairs: Sequence[tuple[int, int]]) -> bool:
        """Whether ``tile`` becomes a part of the group ``into``, which has written what ``pairs`` bring."""
        flow, group, own, extents = self.flow, self.groups[into], self.tiles[tile], self.flow.extents[tile]
        if len(group.drafts) + len(own.drafts) > MOST_COMMANDS:
            return False
        if any(memory in extents for memory in ARRAY) and any(memory in group.extents for memory in ARRAY):
            return False
        # Whoever the tile waits for must come before the group, or tiles would wait for each other in a circle.
        others = {self.group[flow.tile[b]] for n in self.own[tile] if n not in self.gone for b in self.before[n] if flow.tile[b] != tile}
        if any(other >= into for other in others - {into}):
            return False
        bases = dict.fromkeys(extents, 0)
        scalars: dict[int, int] = {}
        taken: list[int] = []
        for memory in ("v0", "v1"):
            if memory in extents:
                base, found = self._base(memory, group, extents[memory], pairs)
                if base is None:
                    return False
                bases[memory] = base
                taken += found
        for number, store in pairs:
            if flow.drafts[number].scalar:
                at = group.stores[store]
                index = group.drafts[at].fields.get("base", 0)
                if self._intact(group, at, "scalars", index, index + 1):
                    scalars[flow.drafts[number].fields.get("base", 0)] = index
                    taken.append(number)
        count = group.scalars + own.scalars - len(scalars)
        instructions = sum(len(draft.program or ()) for draft in own.drafts)
        if not taken or count > MOST_SCALARS or group.instructions + instructions > MOST_INSTRUCTIONS:
            return False
        self.group.append(into)
        self._add(tile, into, bases, scalars, taken)
        return True

    def _base(self, memory: str, group: _Group, size: int, pairs: Sequence[tuple[int, int]]) -> tuple[int | None, list[int]]:
        """Where the tile's words of V0 or V1 begin in the group's, and the LOADs that find theirs there."""
        flow, depth = self.flow, memory_rows(memory, self.config)
        for number, store in pairs:
            if memory_of(flow.drafts[number]) != memory:
                continue
            base = self._shift(number, store, group)
            if base < 0 or base + size > depth:
                continue
            found = [n for n, s in pairs if memory_of(flow.drafts[n]) == memory and self._shift(n, s, group) == base]
            found = [n for n, s in pairs if n in found and self._there(n, group.stores[s], group, memory)]
            if found:
                return base, found
        base = group.extents.get(memory, 0)
        return (base if base + size <= depth else None), []

    def _shift(self, number: int, store: int, group: _Group) -> int:
        return group.drafts[group.stores[store]].fields.get("base", 0) - self.flow.drafts[number].fields.get("base", 0)

    def _there(self, number: int, at: int, group: _Group, memory: str) -> bool:
        """Whether what a LOAD would bring is still on chip when its turn comes."""
        fields = self.flow.drafts[number].fields
        size = FORMAT_BYTES[VectorFormat(fields.get("format", 0))]
        words = fields["rows"] * (fields["row_bytes"] // size // self.config.vector_lanes)
        first = group.drafts[at].fields.get("base", 0)
        if not self._intact(group, at, memory, first, first + words):
            return False
        start = fields.get("base", 0)
        earlier = self.flow.drafts[self.own[self.flow.tile[number]][0] : number]
        return not any(self._writes(draft, memory, start, start + words) for draft in earlier)

    def _intact(self, group: _Group, at: int, memory: str, start: int, stop: int) -> bool:
        return not any(self._writes(draft, memory, start, stop) for draft in group.drafts[at + 1 :])

    def _writes(self, draft: Draft, memory: str, start: int, stop: int) -> bool:
        uses, _, _ = uses_of(draft, self.config, self.codes)
        return any(use.write and use.memory == memory and any(a < stop and start < b for a, b in use.ranges) for use in uses)

    def _add(self, tile: int, into: int, bases: dict[str, int], scalars: dict[int, int], taken: Sequence[int]) -> None:
        group, own = self.groups[into], self.tiles[tile]
        numbers = dict(scalars)
        for index in range(own.scalars):
            if index not in numbers:
                numbers[index] = group.scalars
                group.scalars += 1
        for number in self.own[tile]:
            draft = self.flow.drafts[number]
            if number in taken:
                self.gone.add(number)
                continue
            if tile != into:
                draft = shifted(draft, bases, numbers.__getitem__, self.config, self.codes.of(draft.program or ()))
            if draft.opcode is Opcode.STORE:
                group.stores[number] = len(group.drafts)
            group.drafts.append(draft)
            group.instructions += len(draft.program or ())
        for memory, size in self.flow.extents[tile].items():
            group.extents[memory] = max(group.extents.get(memory, 0), bases[memory] + size)

    def tiles_of(self, kept: Sequence[tuple[int, int]] | None) -> list[Tile]:
        """The groups as tiles, without STOREs that nobody reads, but for those to the bytes ``kept``; None: without none."""
        found = []
        kept = None if kept is None else sorted(kept)
        read = {w for number, writers in self.flow.writers.items() if number not in self.gone for w in writers}
        for tile, group in self.groups.items():
            dead = {at for s, at in group.stores.items() if kept is not None and s not in read and not self._kept(s, kept)}
            if not dead and len(group.drafts) == len(self.own[tile]):
                found.append(self.tiles[tile])
            else:
                found.append(Tile([draft for at, draft in enumerate(group.drafts) if at not in dead], group.scalars))
        return found

    def _kept(self, store: int, kept: Sequence[tuple[int, int]]) -> bool:
        address = self.flow.drafts[store].fields.get("address", 0)
        place = bisect_right(kept, (address, maxsize)) - 1
        return place >= 0 and address < kept[place][1]


def fused(tiles: Sequence[Tile], config: Config, base: int, nbytes: int, kept: Sequence[tuple[int, int]] | None) -> list[Tile]:
    """``tiles``, in an order in which they may run, in fewer tiles with fewer commands that leave the same in DRAM: all of it, or, with
    ``kept``, ranges of bytes, what lies there."""
    fusion = _Fusion(tiles, flow_of(tiles, config, base, nbytes), config)
    fusion.run()
    return fusion.tiles_of(kept)
