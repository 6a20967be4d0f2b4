"""Makes a failing case small: fewer commands, smaller sizes, fewer flags, a plain memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from loralith.verif.lists.case import BASE, Case
from loralith.verif.lists.checks import check_command
from loralith.verif.lists.compute import UNUSED
from loralith.verif.lists.places import Fields, pack
from loralith.verif.lists.tokens import place_tokens

__all__ = ["shrink"]

SIZES = ("rows", "row_bytes", "pad_rows", "m_rows", "n_cols", "k0", "k1")
FLAGS = ("transpose", "packed4", "packed", "fold_log2", "shift", "acc_read", "acc_write", "to_out", "to_left", "scale_mode",
         "stat_enable", "device_shift", "block_stride", "base", "right_base", "right_stride")  # fmt: skip
ATTEMPTS = 2
"""Drawings of tokens for each smaller list: a fault of timing may need a certain order."""


def shrink(case: Case, fails: Callable[[Case], bool], most: int = 2000) -> Case:
    """The smallest case found that still fails, after at most ``most`` calls of ``fails``; ``case`` itself must fail."""
    calls = 0
    for step in (_fewer, _simpler_values, _fewer, _simpler_values):
        progress = True
        while progress:
            progress = False
            for smaller in step(case):
                if calls >= most:
                    return case
                calls += 1
                if fails(smaller):
                    case, progress = smaller, True
                    break
    return case


def _fewer(case: Case) -> Iterator[Case]:
    """The case without a list or some commands, the most reducing ones first. All are legal but for what `case` has broken."""
    keep = case.broken[:2] if case.broken else None
    if len(case.lists) > 1:
        for i in range(len(case.lists)):
            if keep is None:
                yield replace(case, lists=case.lists[:i] + case.lists[i + 1 :])
    for i, commands in enumerate(case.lists):
        size = len(commands) // 2
        while size >= 1:
            for start in range(0, len(commands), size):
                kept = commands[:start] + commands[start + size :]
                if not kept or (keep and keep[0] == i and start <= keep[1] < start + size):
                    continue
                broken = case.broken
                if broken and broken[0] == i and start < broken[1]:
                    broken = (i, broken[1] - min(size, len(commands) - start), broken[2])
                yield from _ordered(replace(case, broken=broken), i, kept)
            size //= 2


def _simpler_values(case: Case) -> Iterator[Case]:
    """The case with a plain memory, or with one field of one command smaller."""
    keep = case.broken[:2] if case.broken else None
    plain = {"read_latency": 1, "write_latency": 1}
    if case.timing != plain:
        yield replace(case, timing=plain)
    for i, commands in enumerate(case.lists):
        for j, command in enumerate(commands):
            if keep == (i, j):
                continue
            for change in _simpler(command):
                changed = {**command, **change}
                if check_command(pack(changed), case.config, (BASE + case.window[0], BASE + case.window[1])) is None:
                    yield from _ordered(case, i, (*commands[:j], changed, *commands[j + 1 :]))


def _simpler(command: Fields) -> Iterator[dict[str, int]]:
    unused = {name: 0 for name in UNUSED if command.get(name)}
    if unused:
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
        placed = place_tokens(list(commands), case.config, BASE, rng, spare=0.0)
        if placed is not None:
            yield replace(case, lists=(*case.lists[:index], tuple(placed), *case.lists[index + 1 :]))
