"""An instruction begins while the one before it drains, unless it reads what that makes: docs/vector_unit.md, Hazards."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from helpers.vector_machine import DEPTHS, LANES, Machine, assert_same_words, legal, machine
from loralith.compiler.lists.command_list import Fields
from loralith.compiler.vector_timing import vector_cycles
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.vector import numbers
from loralith.spec.vector.program import INSTRUCTION, Format, Function, Operand, Reduce, Source, Target

CONFIG = PRESETS["tiny-vector"]
ONLY = dict.fromkeys((field.name for field in INSTRUCTION.fields.values()), 0)
V0, V1 = {"x_source": Source.V0, "x_region": 0}, {"x_source": Source.V1, "x_region": 1}
TO_V0, TO_V1 = {"target": Target.V0, "target_region": 2}, {"target": Target.V1, "target_region": 1}
ADD = {"b": Operand.SCALAR, "s0": 1}
ONCE = {"once": 1}


def cycles(program: list[dict], command: dict) -> int:
    """Of the command by the cycle model."""
    names = {f"region{i}_{name}": region[key] for i, region in enumerate(command["regions"]) for name, key in STRIDES}
    counts = {name: command[name] for name in ("count", "outer", "inner")}
    return vector_cycles(Fields(Command.make(Opcode.VECTOR, **counts, lanes=1, **names)), program, replace(CONFIG, vector_lanes=LANES))


STRIDES = (("base", "base"), ("outer", "outer_stride"), ("inner", "inner_stride"))


async def run(driver, before: Machine, program: list[dict], command: dict, integers: list[list[int]], after: Machine) -> dict:
    """What the command does is what ``after`` has."""
    await driver.registers(before)
    await driver.load(before)
    await driver.program(command["first"], program)
    seen = await driver.command(command, integers)
    assert seen["fault"] is None, (program, command)
    assert seen["left"] == after.left, (program, command)
    assert seen["saturations"] == after.saturations
    assert await driver.scalars() == after.scalars, (program, command)
    for number in range(2):
        assert_same_words(await driver.stored(number), after.memories[number], (number, program, command))
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_random_programs_that_read_what_they_write_equal_the_page(seed, on_unit):
    rng = random.Random(100 + seed)

    async def scenario(driver) -> None:
        for _ in range(10):
            before, program, command, integers, after = legal(rng, dependent=True)
            await run(driver, before, program, command, integers, after)

    on_unit(scenario, LANES, DEPTHS, rng)


@pytest.mark.parametrize("seed", range(2))
def test_random_programs_take_the_cycles_of_the_model(seed, on_unit):
    """Without integers, which the test gives with stalls."""
    rng = random.Random(200 + seed)

    async def scenario(driver) -> None:
        for _ in range(10):
            before, program, command, integers, after = legal(rng, dependent=True, integers=False)
            seen = await run(driver, before, program, command, integers, after)
            assert seen["cycles"] == cycles(program, command), (program, command)

    on_unit(scenario, LANES, DEPTHS, rng)


SAME = [V0 | TO_V1, V1 | ADD | TO_V0]
"""The second one reads what the first one writes."""
HAZARDS: dict[str, tuple[list[dict], dict]] = {
    "another memory": ([V0 | TO_V1, V0 | ADD | TO_V0], {}),
    "its words in order": (SAME, {}),
    "its words in order, of one": ([SAME[0] | ONCE, SAME[1] | ONCE], {}),
    "its first word": ([SAME[0], SAME[1] | ONCE], {}),
    "one word of it, then others": ([SAME[0] | ONCE, SAME[1]], {}),
    "as Y": ([V0 | TO_V1, {"y_source": Source.V1, "y_region": 1, "b": Operand.Y} | TO_V0], {}),
    "one word that is written again and again": (SAME, {"stride1": 0}),
    "other words of the memory": ([V0 | TO_V1, V1 | {"x_region": 3} | TO_V0], {}),
    "the same words by another region": ([V0 | TO_V1, V1 | {"x_region": 3} | ADD | TO_V0], {"base3": 0}),
    "behind an instruction of one word": ([V0 | TO_V1, V0 | ONCE | {"target": Target.NONE}, V1 | ADD | TO_V0], {}),
    "behind one that writes the memory too": ([V0 | TO_V1, V0 | TO_V1 | ADD | ONCE, V1 | ADD | TO_V0], {}),
    "another region, behind one that writes the memory too": (
        [V0 | TO_V1, V0 | TO_V1 | {"target_region": 3}, V1 | {"x_region": 1} | ADD | TO_V0],
        {},
    ),
    "a lane register": ([V0 | {"target": Target.LANE, "lane": 2}, V0 | {"d": Operand.L2} | TO_V0], {}),
    "another lane register": ([V0 | {"target": Target.LANE, "lane": 2}, V0 | {"d": Operand.L1} | TO_V0], {}),
    "no lane register": ([V0 | {"target": Target.LANE, "lane": 2}, V0 | TO_V0], {}),
    "a lane's maximum": ([V0 | {"reduce": Reduce.TOP_LANE, "lane": 3}, V0 | {"b": Operand.L3, "b_negate": 1} | TO_V0], {}),
    "a scalar": ([V0 | {"target": Target.SCALAR, "s3": 7}, V0 | {"b": Operand.SCALAR, "s0": 7} | TO_V0], {}),
    "a scalar as X": ([V0 | {"target": Target.SCALAR, "s3": 7}, {"x_source": Source.SCALAR, "s0": 7} | TO_V0], {}),
    "a scalar behind an instruction of one word": (
        [V0 | {"target": Target.SCALAR, "s3": 7}, V0 | ONCE, V0 | {"d": Operand.SCALAR, "s1": 7} | TO_V0],
        {},
    ),
    "a maximum's scale": (
        [
            V0 | {"reduce": Reduce.MAX_ALL, "reduce_to": 1, "s3": 7},
            {"x_source": Source.SCALAR, "s0": 7, "function": Function.SCALE, "target": Target.SCALAR, "s3": 8} | ONCE,
            V0 | {"format": Format.INT8, "s2": 8} | TO_V0,
        ],
        {},
    ),
    "what the iteration before has written": ([V1 | ADD | {"target": Target.V1, "target_region": 3}], {"base1": 8, "base3": 8}),
    "what the iteration before has written last": (
        [V1 | {"x_region": 1, "target": Target.NONE}, V0 | TO_V1, V1 | ADD | TO_V0],
        {"outer1": 0},
    ),
    "the region that the iteration before has written": ([V1 | TO_V0, V0 | ADD | TO_V1], {}),
    "every function, one after the other": (
        [V0 | {"function": f, "a": Operand.X, "a_negate": f == Function.EXP2} | TO_V0 | {"target_region": 2} for f in (4, 1, 4, 0, 5, 1)],
        {},
    ),
    "every format, one after the other": (
        [V0 | {"format": f, "s2": 2} | {"target": Target.LEFT, "target_region": r} for f, r in ((3, 0), (2, 1), (1, 2), (3, 3), (0, 0))],
        {},
    ),
}


@pytest.mark.parametrize("name", HAZARDS)
def test_an_instruction_waits_for_what_it_reads_and_for_nothing_else(name, on_unit):
    """With fewer words than a lane's pipeline is deep, with about as many and with more."""
    codes, places = HAZARDS[name]
    program = [ONLY | code for code in codes]
    rng = random.Random(name)
    bases, strides = [places.get(f"base{i}", 64 * (i // 2)) for i in range(4)], [places.get(f"stride{i}", 1) for i in range(4)]
    outers = [places.get(f"outer{i}", 2) for i in range(4)]
    regions = [{"base": bases[i], "outer_stride": outers[i], "inner_stride": strides[i]} for i in range(4)]

    async def scenario(driver) -> None:
        state = machine(rng, (128, 128))
        state.scalars[2] = numbers.from_float(2.0**-5)
        await driver.registers(state)
        await driver.load(state)
        await driver.program(3, program)
        for inner, outer in ((3, 3), (39, 1), (42, 3), (45, 1)):
            command = {"first": 3, "count": len(program), "outer": outer, "inner": inner, "regions": regions}
            command |= {"lanes": 3, "partial_inner": 1}
            command |= {field: rng.getrandbits(32) for field in ("key0", "key1", "index_base", "index_outer", "index_inner")}
            state.key = (command["key0"], command["key1"])
            assert state.run([{}] * 3 + program, command) is None
            seen = await driver.command(command, [])
            assert (seen["fault"], seen["left"]) == (None, state.left)
            assert seen["cycles"] == cycles(program, command), (inner, outer)
        assert await driver.scalars() == state.scalars
        for number in range(2):
            assert_same_words(await driver.stored(number), state.memories[number], number)

    on_unit(scenario, LANES, (128, 128), rng)


@pytest.mark.parametrize("words", [5, 20, 45])
def test_a_word_whose_integer_is_late_is_written_before_it_is_read(words, on_unit):
    """Most of the pauses lie behind the first word, by which the next instruction is held up."""
    rng = random.Random(words)
    program = [ONLY | {"x_source": Source.OUT32} | TO_V1, ONLY | V1 | ADD | TO_V0]
    regions = [{"base": 0, "outer_stride": 0, "inner_stride": 1}] * 4
    command = {"first": 1, "count": 2, "outer": 1, "inner": words, "regions": regions, "lanes": 3, "partial_inner": 0}
    command |= dict.fromkeys(("key0", "key1", "index_base", "index_outer", "index_inner"), 0)

    async def scenario(driver) -> None:
        state = machine(rng, (64, 64))
        await driver.load(state)
        await driver.program(1, program)
        for late in range(4):
            pauses = [40 if at == late else rng.choice([0, 0, 0, 2]) for at in range(words)]
            state.integers = [[rng.randrange(-300, 300) for _ in range(LANES)] for _ in range(words)]
            integers = [list(row) for row in state.integers]
            state.key = (0, 0)
            assert state.run([{}, *program], command) is None
            seen = await driver.command(command, integers, pauses)
            assert (seen["fault"], seen["unused"]) == (None, 0)
            for number in range(2):
                assert_same_words(await driver.stored(number), state.memories[number], (late, number))

    on_unit(scenario, LANES, (64, 64), rng)
