"""Breaks one command of a legal case so that a check refuses it, or takes a token that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loralith.spec.commands import COMMAND_BYTES, COMMANDS, LoadTarget, Opcode
from loralith.spec.status import Code
from loralith.spec.vector.program import INSTRUCTION, INSTRUCTION_BYTES, PROGRAM_INSTRUCTIONS, SCALARS
from loralith.verif.lists.case import BASE, Case, Layout
from loralith.verif.lists.drawn_places import Fields, pack
from loralith.verif.lists.drawn_tokens import place_tokens
from loralith.verif.lists.expect import expect
from loralith.verif.lists.generate import generate
from loralith.verif.lists.legal import loosen, starve, starved
from loralith.verif.lists.oracle_checks import check_command, dram_row_bytes
from loralith.verif.lists.vector_state import Unspecified

__all__ = ["break_case", "illegal"]

STARVED = 0.08
"""How many of the illegal cases have a list that waits for ever in place of a command that a check refuses."""
WHILE_RUNNING = 0.4
"""How many of those with vector lanes have a command that ends the list while it runs."""
LONGEST = 4096
"""Words of such a VECTOR, at most."""
# Not checked: a list that waits for other tokens may hang.
NUMBERS = (LoadTarget.V0, LoadTarget.V1, LoadTarget.SCALARS)
TOKENS = ("wait", "signal", "segment_wait", "read_signal")


def illegal(config, seed: int, most: int = 12) -> Case:
    """The illegal case of a seed: one list."""
    rng = np.random.default_rng((seed, 1))
    case = generate(config, seed, most)
    if rng.random() < STARVED:
        # A vector unit that runs ahead of its operands may end the list by itself: there, commands only wait longer.
        change = starve if config.vector_lanes else loosen
        for _ in range(20):
            loose = change(case, rng)
            if starved(loose.lists[0]):
                return loose
    if config.vector_lanes and rng.random() < WHILE_RUNNING:
        for _ in range(30):
            faulty = _fault_case(case, rng)
            if faulty is not None:
                return faulty
    return break_case(case, rng)


def _fault_case(case: Case, rng: np.random.Generator) -> Case | None:
    """The first list with a program, a VECTOR or a LOAD of numbers changed so that it faults while it runs; None where it does not."""
    commands = [dict(c) for c in case.lists[0]]
    vectors = [i for i, c in enumerate(commands) if c["opcode"] == Opcode.VECTOR]
    loads = [i for i, c in enumerate(commands) if c["opcode"] == Opcode.LOAD and c["target"] in NUMBERS]
    data = list(case.data)
    kind = rng.random()
    if kind < 0.35 and data:
        at = int(rng.integers(len(data)))
        data[at] = (data[at][0], _broken_program(data[at][1], rng))
    elif kind < 0.8 and vectors:
        c = commands[int(rng.choice(vectors))]
        for _ in range(int(rng.choice([1, 1, 2]))):
            name = str(rng.choice(["outer", "inner", *(f"region{i}_{part}" for i in range(4) for part in ("base", "outer", "inner"))]))
            c[name] = _value(c[name], name, 16, case, rng) & 0xFFFF
        if not 0 < c["outer"] * c["inner"] * c["count"] <= LONGEST:
            return None
    elif loads:
        c = commands[int(rng.choice(loads))]
        layout, size = Layout(), (c["rows"] - 1) * c["row_stride"] * (c["rows"] > 1) + c["row_bytes"]
        blocks = (layout.dump - layout.data - size) // case.config.bus_bytes
        if blocks < 1:
            return None
        c["address"] = BASE + layout.data + case.config.bus_bytes * int(rng.integers(blocks))
    changed = replace(case, data=tuple(data))
    placed = place_tokens(commands, case.config, BASE, rng, programs=changed.programs)
    if placed is None:
        return None
    changed = replace(changed, lists=(tuple(placed),))
    try:
        ending = expect(changed).endings[-1]
    except Unspecified:
        return None
    return None if ending.code is Code.OK else changed


def _broken_program(text: str, rng: np.random.Generator) -> str:
    """The bytes of a program with one field of an instruction changed."""
    place = 2 * INSTRUCTION_BYTES * int(rng.integers(len(text) // (2 * INSTRUCTION_BYTES)))
    code = INSTRUCTION.unpack(bytes.fromhex(text[place : place + 2 * INSTRUCTION_BYTES]))
    names = ["x_source", "y_source", *["function"] * 4, "target", "reduce", *"abcd", *["s2"] * 2, "x_region", "y_region", "target_region"]
    name = str(rng.choice(names))
    code[name] = int(rng.integers(1 << INSTRUCTION.fields[name].width))
    return text[:place] + INSTRUCTION.pack(code).hex() + text[place + 2 * INSTRUCTION_BYTES :]


def break_case(case: Case, rng: np.random.Generator) -> Case:
    """The first list of a case with a window that ends where its transfers do, and one command that a check refuses."""
    commands = case.lists[0]
    limit = max((_end(c) for c in commands if "address" in c), default=0)
    limit = max(limit, BASE + case.place(0) + COMMAND_BYTES * len(commands))
    if rng.random() < 0.5:
        limit += int(rng.integers(0, BASE + case.window[1] - limit + 1))
    case = replace(case, lists=(commands,), window=(0, limit - BASE))
    at = _which(commands, case, rng)
    data = pack(commands[at])
    while True:
        changed = _broken(commands[at], data, case, rng)
        if check_command(changed, case.config, (BASE, limit)) is not None:
            return replace(case, broken=(0, at, bytes(a ^ b for a, b in zip(data, changed, strict=True)).hex()))


def _which(commands: Sequence[Fields], case: Case, rng: np.random.Generator) -> int:
    """Any command; with vector lanes half the time one of any queue, since lists end with many that show memories."""
    if case.config.vector_lanes and rng.random() < 0.5:
        opcode = rng.choice(sorted({c["opcode"] for c in commands}))
        return int(rng.choice([i for i, c in enumerate(commands) if c["opcode"] == opcode]))
    return int(rng.integers(len(commands)))


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
    if config.vector_lanes:
        out_words = config.out_depth * config.bus_bytes // 4 * (config.rows // config.vector_lanes)
        depths += [config.v0_words, config.v1_words, out_words, PROGRAM_INSTRUCTIONS, SCALARS]
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
