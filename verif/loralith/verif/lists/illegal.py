"""Breaks one command of a legal case so that a check refuses it, or takes a token that it needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loralith.spec.commands import COMMAND_BYTES, COMMANDS, Opcode
from loralith.verif.lists.case import BASE, Case
from loralith.verif.lists.drawn_places import Fields, pack
from loralith.verif.lists.generate import generate
from loralith.verif.lists.legal import loosen, starved
from loralith.verif.lists.oracle_checks import check_command, dram_row_bytes

__all__ = ["break_case", "illegal"]

STARVED = 0.08
"""How many of the illegal cases have a list that waits for ever in place of a command that a check refuses."""
# Not checked: a list that waits for other tokens may hang.
TOKENS = ("wait", "signal", "segment_wait", "read_signal")


def illegal(config, seed: int, most: int = 12) -> Case:
    """The illegal case of a seed: one list."""
    rng = np.random.default_rng((seed, 1))
    case = generate(config, seed, most)
    if rng.random() < STARVED:
        for _ in range(20):
            loose = loosen(case, rng)
            if starved(loose.lists[0]):
                return loose
    return break_case(case, rng)


def break_case(case: Case, rng: np.random.Generator) -> Case:
    """The first list of a case with a window that ends where its transfers do, and one command that a check refuses."""
    commands = case.lists[0]
    limit = max((_end(c) for c in commands if "address" in c), default=0)
    limit = max(limit, BASE + case.place(0) + COMMAND_BYTES * len(commands))
    if rng.random() < 0.5:
        limit += int(rng.integers(0, BASE + case.window[1] - limit + 1))
    case = replace(case, lists=(commands,), window=(0, limit - BASE))
    while True:
        at = int(rng.integers(len(commands)))
        data = pack(commands[at])
        changed = _broken(commands[at], data, case, rng)
        if check_command(changed, case.config, (BASE, limit)) is not None:
            return replace(case, broken=(0, at, bytes(a ^ b for a, b in zip(data, changed, strict=True)).hex()))


def _end(c: Fields) -> int:
    return c["address"] + (c["rows"] - 1) * c["row_stride"] + dram_row_bytes(c)


def _broken(command: Fields, data: bytes, case: Case, rng: np.random.Generator) -> bytes:
    """The descriptor with one bit, the opcode, or one to three fields changed; most often to what lies just past a limit."""
    record = COMMANDS[Opcode(command["opcode"])]
    kind = rng.random()
    if kind < 0.05:
        return bytes([int(rng.integers(256))]) + data[1:]
    if kind < 0.15:
        reserved = [bit for bit in range(8 * COMMAND_BYTES) if record.reserved_mask >> bit & 1]
        return (int.from_bytes(data, "little") ^ 1 << int(rng.choice(reserved))).to_bytes(COMMAND_BYTES, "little")
    names = [name for name in record.fields if name not in TOKENS and name != "opcode"]
    values = dict(command)
    for name in rng.choice(names, int(rng.choice([1, 1, 2, 3])), replace=False):
        width = record.fields[name].width
        values[str(name)] = _value(values[str(name)], str(name), width, case, rng) & ((1 << width) - 1)
    return pack(values)


def _value(value: int, name: str, width: int, case: Case, rng: np.random.Generator) -> int:
    config = case.config
    depths = [config.depth(m) for m in ("left", "right", "out", "acc", "scale")] + [config.stat_slots]
    choices = [
        0,
        value + 1,
        value - 1,
        value ^ 1 << int(rng.integers(width)),
        int(rng.integers(0, 1 << width, dtype=np.uint64)),
        (1 << width) - 1,
        int(rng.choice(depths)) - int(rng.integers(0, 8)),
    ]
    if name == "address":
        choices += [
            value | int(rng.integers(config.bus_bytes)),
            BASE + case.window[1] - config.bus_bytes * int(rng.integers(8)),
            BASE - config.bus_bytes,
        ]
    return int(rng.choice(np.array(choices, dtype=object)))
