"""Cycles of the vector unit's commands against docs/vector_unit.md, by hand; on the RTL: tests/sw/test_step_rtl.py."""

import random
from dataclasses import replace

import pytest

from loralith.compiler.cycles import model
from loralith.compiler.lists.command_list import CommandList, Fields
from loralith.compiler.vector_timing import row_cycles, vector_cycles
from loralith.spec.commands import Command, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import PRESETS
from loralith.spec.vector.program import INSTRUCTION, Operand, Reduce, Source, Target

BASE = replace(PRESETS["base"], vector_lanes=16)
TINY = replace(PRESETS["tiny"], vector_lanes=4)
NOTHING = dict.fromkeys((field.name for field in INSTRUCTION.fields.values()), 0)
COPY = {**NOTHING, "x_source": Source.V0, "target": Target.V1, "target_region": 1}
MOVES = {f"region{region}_inner": 1 for region in range(4)}


def vector(**fields: int) -> Fields:
    return Fields(Command.make(Opcode.VECTOR, **({"count": 1, "lanes": 16} | fields)))


def test_a_command_of_one_instruction_takes_55_cycles_and_its_words() -> None:
    assert vector_cycles(vector(outer=1, inner=40), [COPY], BASE) == 55 + 40
    assert vector_cycles(vector(outer=1, inner=40), [{**COPY, "once": 1}], BASE) == 55 + 1
    late = {**COPY, "x_source": Source.OUT32}
    assert vector_cycles(vector(outer=1, inner=40), [late], BASE) == 56 + 40, "the first integer"


def test_the_next_instruction_begins_4_cycles_after_the_last_element_or_8_after_the_first_one() -> None:
    """10 after the first one of the iteration before."""
    one = vector_cycles(vector(outer=1, inner=40), [COPY], BASE)
    assert vector_cycles(vector(outer=1, inner=40), [COPY, COPY], BASE) == one + 3 + 40
    assert vector_cycles(vector(outer=1, inner=40), [COPY, {**COPY, "once": 1}], BASE) == one + 3 + 1
    once = {**COPY, "once": 1}
    assert vector_cycles(vector(outer=1, inner=40), [once, once], BASE) == 55 + 8 + 1
    assert vector_cycles(vector(outer=2, inner=4), [COPY], BASE) == 55 + 10 + 4
    assert vector_cycles(vector(outer=1000, inner=40), [COPY], BASE) == 55 + 40 + 999 * 43


def test_an_instruction_waits_for_what_it_reads() -> None:
    """41 cycles from a word to its reader, 42 from a lane register, 43 from a scalar, which is read four cycles before it is of use."""
    one = vector_cycles(vector(outer=1, inner=40), [COPY], BASE)

    def more(first: dict[str, int], second: dict[str, int], **fields: int) -> int:
        """From the first instruction's last element to the second one's first."""
        return vector_cycles(vector(outer=1, inner=40, **(MOVES | fields)), [first, second], BASE) - one - 39

    back = {**NOTHING, "x_source": Source.V1, "x_region": 1}
    assert more(COPY, back) == 4, "words in order, as many as take 41 cycles, less those before the last"
    assert more(COPY, {**NOTHING, "y_source": Source.V1, "y_region": 1}) == 4
    assert more({**COPY, "once": 1}, back) == 41 - 39, "the first instruction has 39 words less"
    assert more(COPY, {**back, "x_region": 2}) == 41
    assert more(COPY, back, region1_inner=0) == 41
    assert more({**COPY, "target": Target.LANE}, {**NOTHING, "d": Operand.L3}) == 42
    assert more({**COPY, "target": Target.LANE}, NOTHING) == 4
    assert more({**COPY, "target": Target.SCALAR}, NOTHING) == 43 + 5
    few = vector_cycles(vector(outer=1, inner=5, **MOVES), [COPY, back], BASE)
    assert few == 55 + 5 + 41, "41 cycles from first word to first word"
    again = vector_cycles(vector(outer=2, inner=5, **MOVES), [COPY, back], BASE)
    assert again == few + 10 + 41, "the next iteration reads another memory"
    addresses = vector_cycles(vector(outer=2, inner=5, **MOVES), [back, COPY], BASE) - vector_cycles(
        vector(outer=1, inner=5, **MOVES), [back, COPY], BASE
    )
    assert addresses == 8 + 4 + 41, "its words are those of another iteration"


def test_a_reduction_takes_what_is_inside_7_cycles_and_the_lanes() -> None:
    summed = {**COPY, "reduce": Reduce.SUM_ALL}
    for config in (BASE, TINY):
        plain = vector_cycles(vector(outer=3, inner=8), [COPY], config)
        each = 43 + 7 + config.vector_lanes
        assert vector_cycles(vector(outer=3, inner=8), [summed], config) == 55 + 8 + 2 * (each + 8) + each - 43
        assert vector_cycles(vector(outer=3, inner=8), [{**summed, "over_outer": 1}], config) - plain == each - 43
        scalar = {**summed, "reduce_to": 1}
        assert vector_cycles(vector(outer=3, inner=8), [scalar], config) == 55 + 8 + 2 * (each + 4 + 8) + each - 43


def test_many_iterations_take_what_each_takes() -> None:
    """The jump over iterations that are alike leaves nothing out."""
    rng = random.Random(4)
    for _ in range(300):
        codes = [
            {
                **NOTHING,
                **{name: rng.randrange(2) for name in ("once", "over_outer", "reduce_to")},
                **{name: rng.randrange(4) for name in ("x_region", "target_region")},
                "x_source": rng.randrange(4),
                "target": rng.choice([Target.NONE, Target.V0, Target.V1, Target.LANE, Target.SCALAR]),
                "reduce": rng.choice([Reduce.NONE, Reduce.NONE, Reduce.NONE, Reduce.SUM_LANE]),
                "a": rng.choice([Operand.NONE, Operand.NONE, Operand.L1]),
            }
            for _ in range(rng.randint(1, 4))
        ]
        inner = rng.choice([1, 3, 9, 30, 50])
        found = [vector_cycles(vector(outer=outer, inner=inner, **MOVES), codes, BASE) for outer in (8, 9, 10, 50)]
        assert found[1] - found[0] == found[2] - found[1] == (found[3] - found[2]) / 40


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
