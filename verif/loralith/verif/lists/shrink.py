"""Makes a failing case small: fewer commands, smaller sizes, fewer flags, a plain memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from loralith.spec.commands import VECTOR_REGIONS
from loralith.spec.vector.program import INSTRUCTION, INSTRUCTION_BYTES
from loralith.verif.lists.case import BASE, Case
from loralith.verif.lists.drawn_compute import UNUSED
from loralith.verif.lists.drawn_places import Fields, pack
from loralith.verif.lists.drawn_tokens import place_tokens
from loralith.verif.lists.oracle_checks import check_command
from loralith.verif.lists.vector_state import Unspecified

__all__ = ["shrink"]

SIZES = ("rows", "row_bytes", "pad_rows", "m_rows", "n_cols", "k0", "k1", "outer", "inner", "count", "lanes")
FLAGS = ("transpose", "packed4", "packed", "fold_log2", "shift", "acc_read", "acc_write", "to_out", "to_left", "scale_mode",
         "stat_enable", "device_shift", "block_stride", "base", "right_base", "right_stride", "format", "broadcast", "partial_inner",
         *(f"region{i}_{name}" for i in range(VECTOR_REGIONS) for name in ("outer", "inner", "base")),
         "index_base", "index_outer", "index_inner")  # fmt: skip
ATTEMPTS = 2
"""Drawings of tokens for each smaller list: a fault of timing may need a certain order."""


def shrink(case: Case, fails: Callable[[Case], bool], most: int = 2000) -> Case:
    """The smallest case found that still fails, after at most ``most`` calls of ``fails``; ``case`` itself must fail."""
    return _Search(case, fails, most).run()


class _Search:
    """Attributes: `case`, the smallest one so far. Candidates are legal but for what `case` has broken."""

    def __init__(self, case: Case, fails: Callable[[Case], bool], most: int) -> None:
        self.case, self._fails, self._left = case, fails, most

    def run(self) -> Case:
        self._drop_lists()
        for _ in range(2):
            self._drop_commands()
            self._simplify()
            self._simplify_programs()
        return self.case

    def _try(self, smaller: Case) -> bool:
        if self._left <= 0 or not self._fails_counted(smaller):
            return False
        self.case = smaller
        return True

    def _fails_counted(self, case: Case) -> bool:
        self._left -= 1
        try:
            return self._fails(case)
        except Unspecified:  # a VECTOR without what it needs
            return False

    def _drop_lists(self) -> None:
        i = 0
        while self.case.broken is None and len(self.case.lists) > 1 and i < len(self.case.lists):
            lists = self.case.lists
            i += not self._try(replace(self.case, lists=lists[:i] + lists[i + 1 :]))

    def _drop_commands(self) -> None:
        for i in range(len(self.case.lists)):
            size = max(1, len(self.case.lists[i]) // 2)
            while size:
                start = 0
                while start < len(self.case.lists[i]):
                    start += 0 if self._drop(i, start, size) else size
                size //= 2

    def _drop(self, i: int, start: int, size: int) -> bool:
        commands, broken = self.case.lists[i], self.case.broken
        kept = commands[:start] + commands[start + size :]
        if not kept:
            return False
        if broken and broken[0] == i and start <= broken[1]:
            if broken[1] < start + size:
                return False
            broken = (i, broken[1] - size, broken[2])
        return any(self._try(smaller) for smaller in _ordered(replace(self.case, broken=broken), i, kept))

    def _simplify(self) -> None:
        """A plain memory, and every field of every command as small as it can be."""
        plain = {"read_latency": 1, "write_latency": 1}
        if self.case.timing != plain:
            self._try(replace(self.case, timing=plain))
        for i, commands in enumerate(self.case.lists):
            for j in range(len(commands)):
                while (self.case.broken is None or self.case.broken[:2] != (i, j)) and self._simplify_command(i, j):
                    pass

    def _simplify_programs(self) -> None:
        """Every field of every instruction as zero, where the case still fails; programs that nothing loads go."""
        loaded = {c["address"] - BASE for commands in self.case.lists for c in commands if "address" in c}
        self.case = replace(self.case, data=tuple((at, text) for at, text in self.case.data if at in loaded))
        for at, text in self.case.data:
            for place in range(0, len(text), 2 * INSTRUCTION_BYTES):
                for name in INSTRUCTION.fields:
                    self._simplify_instruction(at, place, name)

    def _simplify_instruction(self, at: int, place: int, name: str) -> None:
        case, end = self.case, place + 2 * INSTRUCTION_BYTES
        text = dict(case.data)[at]
        code = INSTRUCTION.unpack(bytes.fromhex(text[place:end]))
        if not code[name]:
            return
        changed = text[:place] + INSTRUCTION.pack({**code, name: 0}).hex() + text[end:]
        smaller = replace(case, data=tuple((offset, changed if offset == at else old) for offset, old in case.data))
        for i, commands in enumerate(smaller.lists):
            if any(self._try(ordered) for ordered in _ordered(smaller, i, commands)):
                return

    def _simplify_command(self, i: int, j: int) -> bool:
        case = self.case
        commands, window = case.lists[i], (BASE + case.window[0], BASE + case.window[1])
        for change in _simpler(commands[j]):
            changed = {**commands[j], **change}
            if check_command(pack(changed), case.config, window) is None:
                if any(self._try(smaller) for smaller in _ordered(case, i, (*commands[:j], changed, *commands[j + 1 :]))):
                    return True
        return False


def _simpler(command: Fields) -> Iterator[dict[str, int]]:
    unused = {name: 0 for name in UNUSED if command.get(name)}
    if len(unused) > 1:
        yield unused
    yield from ({name: 0} for name in unused)
    if command.get("chained"):
        yield {"chained": 0, "k1": 0, "shift": 0, "segment_wait": 0, "device_shift": 0}
    for name in SIZES:
        value = command.get(name, 0)
        yield from ({name: smaller} for smaller in dict.fromkeys((1, value // 2, value - 1)) if 0 < smaller < value)
    for name in FLAGS:
        if command.get(name):
            yield {name: 0}


def _ordered(case: Case, index: int, commands: tuple[Fields, ...]) -> Iterator[Case]:
    """The case with these commands as list ``index``, with tokens drawn anew."""
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng((case.seed, attempt, len(commands)))
        placed = place_tokens(list(commands), case.config, BASE, rng, spare=0.0, programs=case.programs)
        if placed is not None:
            yield replace(case, lists=(*case.lists[:index], tuple(placed), *case.lists[index + 1 :]))
