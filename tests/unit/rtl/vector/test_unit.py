"""The vector unit runs random programs as docs/vector_unit.md says, with stalls of its integers and of its neighbours' accesses."""

import random

import pytest

from helpers.vector_machine import DEPTHS, LANES, assert_same_words, legal, machine
from loralith.spec.vector import numbers
from loralith.spec.vector.program import (
    INSTRUCTION,
    Format,
    Function,
    Operand,
    Reduce,
    Source,
    Target,
)


@pytest.mark.parametrize("seed", range(3))
def test_random_programs_equal_the_page(seed, on_unit):
    rng = random.Random(seed)

    async def scenario(driver) -> None:
        for case in range(5):
            before, program, command, integers, after = legal(rng)
            await driver.registers(before)
            await driver.load(before)
            await driver.program(command["first"], program)
            seen = await driver.command(command, integers)
            assert seen["fault"] is None, (case, program, command)
            assert seen["left"] == after.left, (case, program, command)
            assert seen["unused"] == len(after.integers)
            assert seen["saturations"] == after.saturations
            assert await driver.scalars() == after.scalars, (case, program, command)
            for number in range(2):
                assert_same_words(await driver.stored(number), after.memories[number], (case, number, program, command))

    on_unit(scenario, LANES, DEPTHS, rng)


def test_a_softmax_row_and_a_maximum_over_all_iterations(on_unit):
    """P = 127 exp(x - largest), its row sums in a lane register, then a scalar's reciprocal; the largest sum over the outer loop."""
    rng = random.Random(11)
    program = [
        {"x_source": Source.OUT32, "a": Operand.SCALAR, "b": Operand.L0, "b_negate": 1, "function": Function.EXP2, "c": Operand.SCALAR}
        | {"s0": 0, "s1": 1, "s2": 2, "format": Format.INT8, "target": Target.LEFT, "reduce": Reduce.SUM_LANE, "lane": 1},
        {"x_source": Source.NONE, "b": Operand.L1, "function": Function.RECIPROCAL, "target": Target.V0, "once": 1},
        {"x_source": Source.V0, "reduce": Reduce.MAX_ALL, "over_outer": 1, "reduce_to": 1, "s3": 5, "once": 1, "target": Target.NONE},
    ]
    names = [f.name for f in INSTRUCTION.fields.values()]
    program = [dict.fromkeys(names, 0) | code for code in program]
    region = {"base": 3, "outer_stride": 8, "inner_stride": 1}
    command = {"first": 4, "count": 3, "outer": 2, "inner": 7, "regions": [region] * 4, "lanes": 1, "partial_inner": 0}
    command |= dict.fromkeys(("key0", "key1", "index_base", "index_outer", "index_inner"), 0)
    state = machine(rng)
    state.scalars[:3] = [numbers.from_float(value) for value in (1 / 16, 127, 1)]
    state.registers[0] = [numbers.from_float(2.0)] * LANES
    # The first iteration's sums are the smaller ones, their reciprocals the larger ones: the maximum has to be kept.
    integers = [[rng.randrange(-60, 0) + 30 * (at > 6) for _ in range(LANES)] for at in range(14)]

    async def scenario(driver) -> None:
        await driver.registers(state)
        await driver.load(state)
        await driver.program(4, program)
        seen = await driver.command(command, integers)
        state.integers, state.key = [list(row) for row in integers], (0, 0)
        assert state.run([{}] * 4 + program, command) is None
        assert seen["left"] == state.left
        assert [row[1] for row in seen["left"]] == [3] * 7 + [1] * 7
        found = await driver.scalars()
        assert found == state.scalars
        assert found[5] != 0
        assert_same_words(await driver.stored(0), state.memories[0], (program, command))

    on_unit(scenario, LANES, DEPTHS, rng)


@pytest.mark.parametrize("outside", [False, True], ids=["of the tensor", "outside of the tensor"])
def test_what_leaves_the_range_of_numbers_ends_the_command_with_the_instruction(outside, on_unit):
    """1 / 0 in the second lane is a fault unless that lane is outside of the tensor; the next command runs as ever."""
    names = [f.name for f in INSTRUCTION.fields.values()]
    code = dict.fromkeys(names, 0) | {"x_source": Source.OUT32, "target": Target.V1}
    program = [code, code | {"function": Function.RECIPROCAL}, code]
    command = {"first": 1, "count": 3, "outer": 1, "inner": 4, "regions": [{"base": 2, "outer_stride": 0, "inner_stride": 1}] * 4}
    command |= {"lanes": 1 if outside else 3, "partial_inner": 0}
    integers = [[5, 6]] * 4 + [[1, 0], [2, 3], [4, 5], [6, 7]] + [[7, 8]] * 30

    async def scenario(driver) -> None:
        await driver.program(1, program)
        seen = await driver.command(command, integers)
        assert seen["fault"] == (None if outside else 2)
        seen = await driver.command(command | {"count": 1}, [[-3, 4]] * 4)
        assert (seen["fault"], seen["unused"]) == (None, 0)
        assert (await driver.stored(1))[2:6] == [[numbers.from_integer(-3), numbers.from_integer(4)]] * 4

    on_unit(scenario, LANES, DEPTHS, random.Random(1))
