"""VECTOR commands from their queue to their tokens: checks, faults, key, tokens, stop; INT32 words between STORE's reads."""

import random
from collections.abc import Callable

import pytest

from helpers.vector_side import CONFIG, LANES, Side, SideAndOutput
from loralith.compiler.lists.command_list import Fields
from loralith.compiler.vector_timing import vector_cycles
from loralith.rtl.memories import OutputMemory
from loralith.rtl.vector.integer_reader import IntegerReader
from loralith.spec.commands import VECTOR, Command, Opcode
from loralith.spec.numerics import hash32
from loralith.spec.status import Check, Code
from loralith.spec.vector import numbers
from loralith.spec.vector.program import INSTRUCTION, Format, Operand, Reduce, Source, Target
from loralith.verif.block_test import design

OUT_WORDS = CONFIG.out_bytes // (4 * LANES)
COPY = {"x_source": Source.V0, "target": Target.V1, "x_region": 0, "target_region": 1}
PLACES = {"region0_inner": 1, "region1_inner": 1}
SIMPLE = {"count": 1, "outer": 1, "inner": 4, "lanes": LANES, **PLACES}


@pytest.fixture
def on_side() -> Callable:
    def simulate(scenario: Callable) -> None:
        both = design(SideAndOutput)

        async def bench(ctx) -> None:
            await scenario(Side(ctx, both.dut.side, both.dut.out))

        both.simulate(bench)

    return simulate


def word(value: float) -> int:
    return numbers.from_float(value)


ROWS = [[word(1 + 2 * i), word(-2.0 - i)] for i in range(4)]


async def copies(side: Side) -> None:
    """A command that is right runs and does what it says."""
    await side.program(COPY)
    await side.words(0, 0, ROWS)
    await side.words(1, 0, [[0, 0]] * 4)
    assert await side.run(**SIMPLE) is None
    assert await side.stored(1, 0, 4) == ROWS


RESERVED = (VECTOR.reserved_mask & -VECTOR.reserved_mask, 1 << 1023)
BAD = Code.BAD_FIELD
BOUNDS = Code.SCRATCHPAD_BOUNDS
COMMANDS = {
    "lowest reserved bit": ({"reserved": RESERVED[0]}, (BAD, Check.RESERVED, 7, 0)),
    "highest reserved bit": ({"reserved": RESERVED[1]}, (BAD, Check.RESERVED, 7, 0)),
    "reserved bit before a count": ({"reserved": RESERVED[1], "inner": 0}, (BAD, Check.RESERVED, 7, 0)),
    "count 0": ({"count": 0}, (BAD, Check.SIZE, 7, 0)),
    "outer 0": ({"outer": 0}, (BAD, Check.SIZE, 7, 0)),
    "inner 0": ({"inner": 0}, (BAD, Check.SIZE, 7, 0)),
    "lanes 0": ({"lanes": 0}, (BAD, Check.SIZE, 7, 0)),
    "lanes above": ({"lanes": LANES + 1}, (BAD, Check.SIZE, 7, 0)),
    "count before the program's end": ({"lanes": 0, "first": 63, "count": 2}, (BAD, Check.SIZE, 7, 0)),
    "past the program": ({"first": 63, "count": 2}, (BOUNDS, Check.PROGRAM, 7, 0)),
    "the whole program and one": ({"first": 0, "count": 65}, (BOUNDS, Check.PROGRAM, 7, 0)),
}


def test_a_command_that_is_wrong_is_refused_and_the_next_list_is_right(on_side):
    async def scenario(side: Side) -> None:
        for name, (change, wanted) in COMMANDS.items():
            assert await side.run(**(SIMPLE | {"index": 7} | change)) == wanted, name
            await side.end_list()
            await copies(side)

    on_side(scenario)


INSTRUCTIONS = {
    "source 6": ({"x_source": 6}, (BAD, Check.PROGRAM)),
    "row maxima": ({"x_source": Source.ROW_MAX}, (BAD, Check.PROGRAM)),
    "y source 3": ({"y_source": 3}, (BAD, Check.PROGRAM)),
    "x and y from one memory": ({"y_source": Source.V0}, (BAD, Check.PROGRAM)),
    "function 6": ({"function": 6}, (BAD, Check.PROGRAM)),
    "reduce 7": ({"reduce": 7}, (BAD, Check.PROGRAM)),
    "target 6": ({"target": 6}, (BAD, Check.PROGRAM)),
    "left scratchpad": ({"target": Target.LEFT}, (BAD, Check.PROGRAM)),
    "x beyond V0": ({"x_region": 2}, (BOUNDS, Check.V0)),
    "x beyond V1": ({"x_source": Source.V1, "x_region": 3, "target": Target.V0}, (BOUNDS, Check.V1)),
    "x beyond the output buffer": ({"x_source": Source.OUT32, "x_region": 3}, (BOUNDS, Check.OUT)),
    "y beyond V1": ({"y_source": Source.V1, "y_region": 3}, (BOUNDS, Check.V1)),
    "target beyond V0": ({"target": Target.V0, "target_region": 2}, (BOUNDS, Check.V0)),
    "target beyond V1": ({"target_region": 3}, (BOUNDS, Check.V1)),
    "out of range": ({"a": Operand.SCALAR, "s0": 5}, (Code.VECTOR_RANGE, Check.NONE)),
    "out of range, then beyond": ({"a": Operand.SCALAR, "s0": 5, "target_region": 2}, (Code.VECTOR_RANGE, Check.NONE)),
}


def test_an_instruction_that_is_wrong_ends_the_list_with_its_number(on_side):
    """Region 2 leaves V0 with its third word, region 3 every memory with its second one. Scalar 5 is too large for ROWS[1]."""

    async def scenario(side: Side) -> None:
        await side.scalar(5, word(2.0**127))
        for name, (change, wanted) in INSTRUCTIONS.items():
            last = OUT_WORDS - 1 if "output" in name else 31
            places = {"region2_base": 30 if "then" in name else 14, "region2_inner": 1, "region3_base": last, "region3_inner": 1}
            await side.program(COPY, COPY | change, COPY)
            await side.words(0, 0, ROWS)
            await side.words(0, 14, ROWS[:2])
            assert await side.run(**(SIMPLE | places | {"count": 3, "index": 3})) == (*wanted, 3, 1), name
            await side.end_list()
            await copies(side)

    on_side(scenario)


EARLIER = {stage: {stage: Operand.X} for stage in "abcd"}
"""Where an instruction's last word leaves the range of numbers."""
LATER = {
    "leaves the range in its first stage": {"a": Operand.SCALAR, "s0": 5},
    "has no meaning": {"x_source": 6},
    "reads beyond its memory": {"x_region": 3},
}


def test_the_earliest_word_that_leaves_the_range_is_named_whatever_later_instructions_do_meanwhile(on_side):
    """A fault late in the pipeline is seen after one of the next instruction, which has begun."""

    async def scenario(side: Side) -> None:
        await side.scalar(5, word(2.0**127))
        rows = [[word(4.0)] * LANES] * 3 + [[word(4.0), word(1.5 * 2.0**127)]]
        for stage, first in EARLIER.items():
            for name, second in LATER.items():
                await side.program(COPY | {"target": Target.NONE, "once": 1}, COPY | first, COPY | second)
                await side.words(0, 0, rows)
                places = {"region3_base": 31, "count": 3, "index": 9}
                assert await side.run(**(SIMPLE | places)) == (Code.VECTOR_RANGE, Check.NONE, 9, 1), (stage, name)
                await side.end_list()
        await copies(side)

    on_side(scenario)


OUT = {"x_source": Source.OUT32, "target": Target.V1, "target_region": 1}
READERS = {
    "one word": ([OUT | {"once": 1}], 1, 1),
    "words of one instruction after the other": ([OUT, OUT, OUT], 1, 6),
    "as many as are read ahead": ([OUT, OUT], 2, IntegerReader.ahead),
    "one more": ([OUT], 3, IntegerReader.ahead + 1),
    "iterations": ([OUT], 5, 4),
    "between others": ([COPY | {"once": 1}, OUT, COPY, OUT | {"once": 1}], 2, 12),
}


def test_integers_are_there_when_their_instruction_may_begin(on_side):
    """No reads of STORE: the cycles are those of the model."""

    async def scenario(side: Side) -> None:
        ctx, dut = side.ctx, side.dut
        ctx.set(dut.vector_wait.ready, 1)
        ctx.set(dut.vector_done.ready, 1)
        for name, (codes, outer, inner) in READERS.items():
            await side.program(*codes)
            fields = SIMPLE | {"count": len(codes), "outer": outer, "inner": inner}
            await side.offer(**fields)
            active = 0
            for _ in range(2000):
                _, _, running, taken = await ctx.tick().sample(dut.vector_active, dut.vector_commands.ready)
                active += running
                if taken:
                    ctx.set(dut.vector_commands.valid, 0)
                    break
            program = [dict.fromkeys((field.name for field in INSTRUCTION.fields.values()), 0) | code for code in codes]
            assert active == vector_cycles(Fields(Command.make(Opcode.VECTOR, **fields)), program, CONFIG), name
            await ctx.tick().repeat(5)

    on_side(scenario)


def test_tokens_are_taken_before_the_first_instruction_and_given_when_results_are_readable(on_side):
    async def scenario(side: Side) -> None:
        ctx, dut = side.ctx, side.dut
        await side.program(COPY)
        await side.words(0, 0, ROWS)
        await side.offer(**(SIMPLE | {"wait": 0x8001, "signal": 0x0110}))
        await side.until(dut.vector_wait.valid)
        assert ctx.get(dut.vector_wait.mask) == 0x8001
        for _ in range(100):
            _, _, active, given = await ctx.tick().sample(dut.vector_active, dut.vector_done.valid)
            assert not active
            assert not given
        ctx.set(dut.vector_wait.ready, 1)
        await ctx.tick()
        ctx.set(dut.vector_wait.ready, 0)
        await side.until(dut.vector_done.valid)
        assert ctx.get(dut.vector_done.mask) == 0x0110
        assert ctx.get(dut.vector.busy)
        assert not ctx.get(dut.vector.complete)
        assert await side.stored(1, 0, 4) == ROWS

    on_side(scenario)


def test_a_stopped_command_of_2_to_the_31_elements_ends_and_the_next_list_is_right(on_side):
    async def scenario(side: Side) -> None:
        ctx, dut = side.ctx, side.dut
        await side.program(COPY)
        ctx.set(dut.vector_wait.ready, 1)
        await side.offer(**{**SIMPLE, "outer": 2**16 - 1, "inner": 2**15, "region0_inner": 0, "region1_inner": 0})
        await side.until(dut.vector_active)
        for _ in range(100):
            _, _, progress, busy = await ctx.tick().sample(dut.vector.progress, dut.vector.busy)
        assert progress, "the watchdog must see that the unit works"
        assert busy
        await side.end_list()
        await copies(side)

    on_side(scenario)


def test_the_loaded_key_is_mixed_into_the_commands(on_side):
    """Stochastic rounding of 0.5 + 1/4 by the byte of the hash with both keys."""
    keys, loaded = (0x12345678, 0x9ABCDEF0), (0x0F0F1111, 0x2222F0F0)
    code = COPY | {"format": Format.INT8_STOCHASTIC, "s2": 1}
    value = word(0.75)

    async def scenario(side: Side) -> None:
        dut = side.dut
        await side.program(code)
        await side.words(0, 0, [[value] * LANES] * 8)
        await side.scalar(1, numbers.ONE)
        for which, data in enumerate(loaded):
            await side.write(dut.key_write, which=which, data=data)
        index = {"key0": keys[0], "key1": keys[1], "index_base": 77, "index_inner": 5}
        assert await side.run(**(SIMPLE | index | {"inner": 8})) is None
        mixed = (keys[0] ^ loaded[0], keys[1] ^ loaded[1])
        wanted = []
        for inner in range(8):
            hashed = hash32(mixed, 77 + 5 * inner)
            wanted.append([numbers.quantize(value, 0, hashed >> 8 * lane & 0xFF)[0] for lane in range(LANES)])
        assert [[lane & 0xFF for lane in row] for row in await side.stored(1, 0, 8)] == wanted
        assert 0 < sum(map(sum, wanted)) < 8 * LANES, "some are rounded up, some down"

    on_side(scenario)


@pytest.mark.parametrize("once", [0, 1])
def test_integers_come_in_order_between_reads_of_store(once, on_side):
    """Each INT32 of the output buffer tells its column and row; STORE reads in most cycles, and finds its own words."""
    rng = random.Random(3)
    R, W = CONFIG.rows, CONFIG.banks

    def value(column: int, row: int) -> int:
        return (column << 8 | row) * (-1 if row % 2 else 1)

    async def scenario(side: Side) -> None:
        ctx, out = side.ctx, side.out
        for column in range(OUT_WORDS * LANES // R):
            columns = [value(column, row) % 2**32 for row in range(R)]
            words = [sum((number >> 8 * byte & 0xFF) << 8 * row for row, number in enumerate(columns)) for byte in range(4)]
            ctx.set(out.words, words)
            ctx.set(out.write_row, 4 * column // W)
            ctx.set(out.bank_mask, 0xF << 4 * column % W)
            ctx.set(out.write_en, 1)
            await ctx.tick()
        ctx.set(out.write_en, 0)
        code = COPY | {"x_source": Source.OUT32, "once": once, "reduce": Reduce.TOP_LANE, "lane": 2}
        await side.program(code, {"b": Operand.L2, "target": Target.V1, "target_region": 2, "once": 1})
        base, stride = 5, 3
        places = {
            "region0_base": base,
            "region0_inner": stride,
            "region0_outer": 7,
            "region1_outer": 8,
            "region2_base": 24,
            "region2_outer": 1,
        }
        await side.offer(**(SIMPLE | places | {"count": 2, "inner": 8, "outer": 2}))
        ctx.set(side.dut.vector_wait.ready, 1)
        ctx.set(side.dut.vector_done.ready, 1)
        requested: list[tuple[int, int] | None] = [None] * OutputMemory.delay
        for _ in range(3000):
            request = rng.random() < 0.8
            row, bank = rng.randrange(CONFIG.out_depth), rng.randrange(W)
            ctx.set(out.read.en, request)
            ctx.set(out.read.row, row)
            ctx.set(out.read.bank, bank)
            requested.append((row, bank) if request else None)
            _, _, complete = await ctx.tick().sample(side.dut.vector.complete)
            due = requested[-OutputMemory.delay]
            if due is not None:
                column, byte = (due[0] * W + due[1]) // 4, due[1] % 4
                assert list(ctx.get(out.read.word)) == [value(column, lane) >> 8 * byte & 0xFF for lane in range(R)]
            if complete:
                break
        else:
            raise AssertionError("the command does not end")
        ctx.set(out.read.en, 0)
        ctx.set(side.dut.vector_commands.valid, 0)
        for outer in range(2):
            rows = []
            for inner in range(1 if once else 8):
                at = base + 7 * outer + stride * inner
                rows.append([value(at // (R // LANES), at % (R // LANES) * LANES + lane) for lane in range(LANES)])
            words = [[numbers.from_integer(number) for number in row] for row in rows]
            assert await side.stored(1, 8 * outer, len(words)) == words
            assert await side.stored(1, 24 + outer, 1) == [[numbers.from_integer(max(column)) for column in zip(*rows, strict=True)]]

    on_side(scenario)
