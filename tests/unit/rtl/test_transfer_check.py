"""The checks of LOAD and STORE against the oracle of raw lists, which is written from docs/machine.md."""

import random

import pytest

from loralith.rtl.transfer_check import TransferCheck, TransferFieldCheck, TransferRegionCheck
from loralith.spec.commands import COMMANDS, LoadTarget, Opcode
from loralith.spec.config import PRESETS, Config
from loralith.spec.status import Check, Code
from loralith.verif.block_test import simulate
from loralith.verif.lists.oracle_checks import check_command

SIZES = {"left_bytes": 16384, "right_bytes": 16384, "out_bytes": 8192, "acc_bytes": 1024, "scale_bytes": 512, "max_fold": 4}
CONFIGS = [
    PRESETS["tiny"],
    Config("wide", rows=8, cols=4, bus_bytes=32, **SIZES),
    Config("square", rows=16, cols=16, bus_bytes=16, **SIZES),
]
WINDOW = 0x1_0000_0000 - 4096, 0x1_0000_0000 + 8192
OPCODES = [Opcode.LOAD, Opcode.STORE]


def draw(config: Config, opcode: Opcode, rng: random.Random) -> bytes:
    """A random transfer, mostly near the edges of its memories and of the window, often with one field that may be wrong."""
    W, record = config.bus_bytes, COMMANDS[opcode]
    rows, row_bytes, stride = rng.choice([1, rng.randint(1, 3 * W)]), rng.randint(1, 3 * W), W * rng.randint(1, 8)
    packed = opcode is Opcode.STORE and rng.random() < 0.3
    if packed:
        row_bytes = 1 << rng.randrange(W.bit_length() - 1)
        stride = row_bytes
    end = WINDOW[1] - (rows - 1) * stride - row_bytes
    address = rng.choice([WINDOW[0], end - W, end, end + W, rng.randrange(*WINDOW)]) // W * W
    fields = {"opcode": int(opcode), "address": address, "rows": rows, "row_bytes": row_bytes, "row_stride": stride}
    fields |= {"transpose": rng.randrange(2), "base": rng.randrange(40), "block_stride": rng.randrange(8)}
    kind = rng.randrange(4)
    if opcode is Opcode.LOAD:
        fields |= {"target": kind, "packed4": rng.randrange(2), "right_base": rng.randrange(40), "right_stride": rng.randrange(8)}
        fields["pad_rows"] = rng.choice([0, rng.randrange(W)])
        if kind == 2:
            fields |= {"rows": 1, "transpose": 0, "packed4": 0, "pad_rows": 0, "block_stride": 0}
        fields |= {"transpose": 1} if kind == 3 else {}
        fields |= {"pad_rows": 0} if fields["transpose"] else {}
    else:
        fields["packed"] = packed
        if kind == 0 and not packed:
            fields |= {"source": 1, "rows": 1, "transpose": 0, "block_stride": 0, "row_bytes": 16 * rng.randint(1, 4)}
    if rng.random() < 0.4:
        name = rng.choice([name for name in record.fields if name != "opcode"])
        fields[name] = rng.choice([0, (1 << record.fields[name].width) - 1, rng.getrandbits(record.fields[name].width)])
    data = int.from_bytes(record.pack(fields), "little")
    return (data | 1 << rng.randrange(8, 8 * record.size) if rng.random() < 0.05 else data).to_bytes(record.size, "little")


@pytest.mark.parametrize("opcode", OPCODES)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_a_transfer_passes_unless_the_oracle_refuses_it(config, opcode):
    rng = random.Random(config.name)
    dut, record = TransferCheck(config, opcode), COMMANDS[opcode]
    seen = set()

    async def bench(ctx):
        ctx.set(dut.window_base, WINDOW[0])
        ctx.set(dut.window_limit, WINDOW[1])
        for index in range(70):
            text = draw(config, opcode, rng)
            ctx.set(dut.i.payload, {"bits": int.from_bytes(text, "little"), "index": index})
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
            cycles = 1
            while not (ctx.get(dut.o.valid) or ctx.get(dut.fault.valid)) and cycles < 100:
                await ctx.tick()
                cycles += 1
            want = check_command(text, config, WINDOW)
            fields = record.unpack(text)
            what = f"{opcode.name} {index}, {fields}"
            seen.add(want and want.detail)
            if want is None:
                assert ctx.get(dut.o.valid), f"{what}: refused as {Check(ctx.get(dut.fault.detail)).name}"
                both = opcode is Opcode.LOAD and fields["target"] == LoadTarget.BOTH
                assert cycles == (dut.both_delay if both else dut.delay), what
                passed = ctx.get(dut.o.payload)
                assert {name: getattr(passed, name) for name in fields if name != "opcode"} == {
                    n: v for n, v in fields.items() if n != "opcode"
                }
                assert (passed.index, passed.beats) == (index, -(-fields["row_bytes"] // config.bus_bytes)), what
                ctx.set(dut.o.ready, 1)
                await ctx.tick()
                ctx.set(dut.o.ready, 0)
            else:
                fault = [ctx.get(getattr(dut.fault, name)) for name in ("valid", "code", "detail", "command", "address")]
                assert fault == [1, want.code, want.detail, index, want.address], f"{what}: want {want}"
                ctx.set(dut.clear, 1)
                await ctx.tick()
                ctx.set(dut.clear, 0)

    simulate(dut, bench)
    assert None in seen
    assert len(seen) >= 5, f"too few checks were reached: {seen}"


@pytest.mark.parametrize("opcode", OPCODES)
def test_the_fields_that_name_choices_are_told_apart_from_counts(opcode):
    """``choice`` alone, also where another check fails before or after it."""
    config, rng = PRESETS["tiny"], random.Random(7)
    dut, record = TransferFieldCheck(config, opcode), COMMANDS[opcode]

    async def bench(ctx):
        for _ in range(150):
            text = draw(config, opcode, rng)
            bits = int.from_bytes(text, "little") & ~record.reserved_mask
            for name, value in (("next_command", bits), ("decode", 1), ("size", 0)):
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            for name, value in (("next_command", rng.getrandbits(8 * record.size)), ("command", bits), ("decode", 0), ("size", 1)):
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            want = check_command(bits.to_bytes(record.size, "little"), config, (0, 1 << 65))
            fields = record.unpack(text)
            assert ctx.get(dut.choice) == bool(want and want.detail == Check.ENUM), fields
            assert ctx.get(dut.count) == (not fields["rows"] or not fields["row_bytes"]), fields
            assert ctx.get(dut.address) == bool(fields["address"] % config.bus_bytes), fields
            assert not ctx.get(dut.reserved)

    simulate(dut, bench)


@pytest.mark.parametrize("opcode", OPCODES)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_regions_end_inside_their_memory_or_are_named(config, opcode):
    rng = random.Random(config.name)
    dut, record = TransferRegionCheck(config, opcode), COMMANDS[opcode]

    async def pulse(ctx, name):
        ctx.set(getattr(dut, name), 1)
        await ctx.tick()
        ctx.set(getattr(dut, name), 0)

    async def bench(ctx):
        checked = 0
        while checked < 30:
            text = draw(config, opcode, rng)
            want = check_command(text, config, (0, 1 << 65))
            if want is not None and want.code != Code.SCRATCHPAD_BOUNDS:
                continue
            checked += 1
            bits = int.from_bytes(text, "little")
            ctx.set(dut.next_command, bits)
            await pulse(ctx, "decode")
            ctx.set(dut.command, bits)
            ctx.set(dut.next_command, rng.getrandbits(8 * record.size))
            more = True
            while more:
                await pulse(ctx, "size")
                await pulse(ctx, "start")
                await ctx.tick().repeat(dut.delay - 1)
                assert ctx.get(dut.done)
                more = ctx.get(dut.right_pending)
                if more:
                    await pulse(ctx, "start_right")
            found = Check.LEFT if ctx.get(dut.left_fails) else Check(ctx.get(dut.detail)) if ctx.get(dut.fails) else None
            assert found == (want and want.detail), record.unpack(text)

    simulate(dut, bench)
