"""The checks of LOAD and STORE of the vector unit's memories, written from docs/machine.md, with and without vector lanes."""

import random
from dataclasses import replace

import pytest

from loralith.rtl.transfer_check import TransferCheck
from loralith.spec.commands import COMMANDS, LoadTarget, Opcode, StoreSource
from loralith.spec.config import PRESETS
from loralith.spec.status import Check, Code
from loralith.verif.block_test import simulate

TINY = replace(PRESETS["tiny"], vector_lanes=4, v0_words=64, v1_words=128)
CONFIGS = [TINY, replace(PRESETS["base"], vector_lanes=2, v0_words=32768), PRESETS["tiny"]]
LIMIT = 1 << 40
TARGETS = {Opcode.LOAD: LoadTarget, Opcode.STORE: StoreSource}


def expected(config, opcode: Opcode, c: dict) -> tuple[int, int] | None:
    """Code and detail of the first check that a transfer of the vector unit fails; its address and stride are aligned and in the window."""
    name = TARGETS[opcode](c["target" if opcode is Opcode.LOAD else "source"]).name
    enum, size = (Code.BAD_FIELD, Check.ENUM), {0: 4, 1: 2, 2: 1}.get(c["format"])
    if not config.vector_lanes or c["transpose"] or any(c.get(flag) for flag in ("packed", "packed4", "pad_rows")):
        return enum
    if name in ("V0", "V1"):
        if size is None or c["row_bytes"] % size:
            return enum
        count = c["row_bytes"] // size
        length = count if c["broadcast"] else -(-count // config.vector_lanes)
        end = c["base"] + (c["rows"] - 1) * c["block_stride"] + length
        limit, detail = (config.v0_words, Check.V0) if name == "V0" else (config.v1_words, Check.V1)
    else:
        size, limit, detail = {"PROGRAM": (8, 64, Check.PROGRAM), "SCALARS": (4, 32, Check.SCALAR), "KEY": (8, 1, Check.SCALAR)}[name]
        if c["rows"] != 1 or c["block_stride"] or c["format"] or c["broadcast"] or c["row_bytes"] % size:
            return enum
        end = c["base"] + c["row_bytes"] // size
    if not c["rows"] or not c["row_bytes"]:
        return Code.BAD_FIELD, Check.SIZE
    return (Code.SCRATCHPAD_BOUNDS, detail) if end > limit else None


def draw(config, opcode: Opcode, rng: random.Random) -> dict:
    """A transfer of the vector unit that ends near the end of its memory, often with one field that may be wrong."""
    record, W = COMMANDS[opcode], config.bus_bytes
    choice = rng.choice([one for one in TARGETS[opcode] if one.name in ("V0", "V1", "PROGRAM", "SCALARS", "KEY")])
    c = dict.fromkeys(record.fields, 0) | {"opcode": int(opcode), "address": W * rng.randrange(64), "rows": 1}
    c |= {"target" if opcode is Opcode.LOAD else "source": int(choice), "row_stride": W * rng.randrange(4)}
    if choice.name in ("V0", "V1"):
        form, lanes = rng.randrange(3), config.vector_lanes or 4
        limit = config.v0_words if choice.name == "V0" else config.v1_words
        c |= {"format": form, "broadcast": rng.randrange(2), "rows": rng.randint(1, 6), "block_stride": rng.randrange(5)}
        count = rng.randint(1, 40)
        length = count if c["broadcast"] else -(-count // lanes)
        c["row_bytes"] = count * (4 >> form)
        c["base"] = max(limit - length - (c["rows"] - 1) * c["block_stride"] + rng.randint(-1, 1), 0)
    else:
        size, limit = {"PROGRAM": (8, 64), "SCALARS": (4, 32), "KEY": (8, 1)}[choice.name]
        count = 1 if choice.name == "KEY" else rng.randint(1, 20)
        c |= {"row_bytes": size * count, "base": max(limit - count + rng.randint(-1, 1), 0)}
    if rng.random() < 0.5:
        names = ("rows", "row_bytes", "block_stride", "format", "broadcast", "transpose", "packed", "packed4", "pad_rows", "base")
        field = rng.choice([name for name in names if name in record.fields])
        c[field] = rng.choice([0, 1, (1 << record.fields[field].width) - 1, rng.getrandbits(record.fields[field].width)])
        if field == "row_bytes" and rng.random() < 0.5:
            c[field] = rng.choice([1 << 22, 1 << 23, 3 << 22]) + rng.choice([0, 4, 8])  # more than fits, also in any part of the bits
    return c


async def verdict(ctx, dut, record, fields: dict) -> tuple[int, int] | None:
    """Code and detail, or None where ``fields`` pass."""
    ctx.set(dut.i.payload, {"bits": int.from_bytes(record.pack(fields), "little"), "index": 9})
    ctx.set(dut.i.valid, 1)
    await ctx.tick().until(dut.i.ready)
    ctx.set(dut.i.valid, 0)
    for _ in range(100):
        if ctx.get(dut.o.valid) or ctx.get(dut.fault.valid):
            break
        await ctx.tick()
    passed, failed = ctx.get(dut.o.valid), ctx.get(dut.fault.valid)
    assert passed ^ failed, fields
    found = (ctx.get(dut.fault.code), ctx.get(dut.fault.detail)) if failed else None
    assert not failed or (ctx.get(dut.fault.command), ctx.get(dut.fault.address)) == (9, 0)
    ctx.set(dut.clear, 1)
    ctx.set(dut.o.ready, 1)
    await ctx.tick()
    ctx.set(dut.clear, 0)
    ctx.set(dut.o.ready, 0)
    return found


def check_all(config, opcode: Opcode, commands: list[tuple[dict, tuple[int, int] | None]]) -> set:
    dut, seen = TransferCheck(config, opcode), set()

    async def bench(ctx):
        ctx.set(dut.window_limit, LIMIT)
        for fields, want in commands:
            assert await verdict(ctx, dut, COMMANDS[opcode], fields) == want, f"{want} is wanted of {fields}"
            seen.add(want)

    simulate(dut, bench)
    return seen


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
@pytest.mark.parametrize("config", CONFIGS, ids=["tiny", "base", "no-lanes"])
def test_a_transfer_of_the_vector_unit_passes_unless_the_page_refuses_it(config, opcode):
    rng = random.Random(config.vector_lanes)
    drawn = [draw(config, opcode, rng) for _ in range(120)]
    seen = check_all(config, opcode, [(c, expected(config, opcode, c)) for c in drawn])
    assert seen == {(Code.BAD_FIELD, Check.ENUM)} if not config.vector_lanes else len(seen) >= 5


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
@pytest.mark.parametrize("config", CONFIGS, ids=["tiny", "base", "no-lanes"])
def test_other_memories_have_no_format_and_unknown_ones_are_refused(config, opcode):
    plain = {"opcode": int(opcode), "rows": 1, "row_bytes": config.bus_bytes}
    name = "target" if opcode is Opcode.LOAD else "source"
    enum = (Code.BAD_FIELD, Check.ENUM)
    commands: list[tuple[dict, tuple[int, int] | None]] = [(plain, None)]
    commands += [(plain | {field: value}, enum) for field, value in (("format", 1), ("format", 2), ("format", 3), ("broadcast", 1))]
    commands += [(plain | {name: value}, enum) for value in range(max(TARGETS[opcode]) + 1, 16)]
    check_all(config, opcode, commands)


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
def test_a_row_of_many_elements_does_not_wrap_into_the_memory(opcode):
    """2^22 words and more of a row: the most that row_bytes can name."""
    name, v0 = ("target", LoadTarget.V0) if opcode is Opcode.LOAD else ("source", StoreSource.V0)
    outside = (Code.SCRATCHPAD_BOUNDS, Check.V0)
    rows = [(2, 1, (1 << 22) + 4), (2, 1, (1 << 23) + 4), (1, 1, (1 << 23) + 4), (2, 0, (1 << 23) + 4), (0, 1, (1 << 24) - 4)]
    plain = {"opcode": int(opcode), "rows": 1, name: int(v0)}
    config = replace(TINY, vector_lanes=2)
    check_all(config, opcode, [(plain | {"format": f, "broadcast": b, "row_bytes": count}, outside) for f, b, count in rows])
