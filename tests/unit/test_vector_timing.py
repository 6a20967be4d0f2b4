"""Cycles of the vector unit's commands against docs/vector_unit.md, by hand; on the RTL: tests/sw/test_step_rtl.py."""

from dataclasses import replace

import pytest

from loralith.compiler.cycles import model
from loralith.compiler.lists.command_list import CommandList, Fields
from loralith.compiler.vector_timing import row_cycles, vector_cycles
from loralith.spec.commands import Command, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import PRESETS
from loralith.spec.vector.program import Reduce

BASE = replace(PRESETS["base"], vector_lanes=16)
TINY = replace(PRESETS["tiny"], vector_lanes=4)
PLAIN = {"once": 0, "reduce": 0, "over_outer": 0}


def vector(**fields: int) -> Fields:
    return Fields(Command.make(Opcode.VECTOR, **{"count": 1, "lanes": 16, **fields}))


def test_from_an_instructions_last_element_to_the_next_ones_first_are_58_cycles() -> None:
    one = vector_cycles(vector(outer=1, inner=40), [PLAIN], BASE)
    assert vector_cycles(vector(outer=1, inner=41), [PLAIN], BASE) == one + 1
    assert vector_cycles(vector(outer=1, inner=40, count=2), [PLAIN, PLAIN], BASE) == one + 57 + 40
    assert vector_cycles(vector(outer=1, inner=40, count=2), [PLAIN, {**PLAIN, "once": 1}], BASE) == one + 57 + 1


def test_an_outer_iteration_takes_4_more_and_a_reduction_6_and_the_lanes() -> None:
    one, two = (vector_cycles(vector(outer=outer, inner=8), [PLAIN], BASE) for outer in (1, 2))
    assert two - one == 4 + 57 + 8
    summed = {**PLAIN, "reduce": Reduce.SUM_ALL}
    for config in (BASE, TINY):
        assert vector_cycles(vector(outer=3, inner=8), [summed], config) - vector_cycles(vector(outer=3, inner=8), [PLAIN], config) == 3 * (
            6 + config.vector_lanes
        )
        over = vector_cycles(vector(outer=3, inner=8), [{**summed, "over_outer": 1}], config)
        assert over - vector_cycles(vector(outer=3, inner=8), [PLAIN], config) == 6 + config.vector_lanes


@pytest.mark.parametrize(
    ("opcode", "fields", "base", "tiny"),
    [
        (Opcode.LOAD, {"format": VectorFormat.FP32, "row_bytes": 256}, 16, 32),  # a bus word a cycle
        (Opcode.LOAD, {"format": VectorFormat.INT8, "row_bytes": 64}, 4, 16),  # tiny: two words of four lanes in a bus word
        (Opcode.LOAD, {"format": VectorFormat.BF16, "row_bytes": 128, "broadcast": 1}, 64, 64),  # an element a word
        (Opcode.STORE, {"format": VectorFormat.FP32, "row_bytes": 256}, 16, 32),
        (Opcode.STORE, {"format": VectorFormat.INT8, "row_bytes": 64}, 4, 16),
        (Opcode.STORE, {"format": VectorFormat.INT8, "row_bytes": 64, "broadcast": 1}, 64, 64),
    ],
)
def test_a_row_takes_a_cycle_a_bus_word_and_a_word(opcode: Opcode, fields: dict[str, int], base: int, tiny: int) -> None:
    place = {"target": LoadTarget.V0} if opcode is Opcode.LOAD else {"source": StoreSource.V0}
    row = Fields(Command.make(opcode, rows=1, **place, **{name: int(value) for name, value in fields.items()}))
    assert [row_cycles(row, config) for config in (BASE, TINY)] == [base, tiny]


def test_a_program_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="command 0 runs instructions of which the bytes are not known"):
        model(CommandList.of([Command.make(Opcode.VECTOR, count=1, lanes=16, outer=1, inner=1)]), BASE)
