"""The reference device's VECTOR, on whole arrays, equals the page's machine, which takes one element after the other."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.vector_machine import DEPTHS, LANES, Machine, assert_same_words, legal
from loralith.device.interpreter import vector
from loralith.device.interpreter.onchip import Memories
from loralith.device.interpreter.vector_transfers import VectorFault
from loralith.spec.config import PRESETS
from loralith.spec.status import Check, Code
from loralith.spec.vector import numbers
from loralith.spec.vector.program import INSTRUCTION, Function, Source, Target

CONFIG = replace(PRESETS["tiny"], name="two lanes", vector_lanes=LANES, v0_words=DEPTHS[0], v1_words=DEPTHS[1])
NOT_BUILT = {Source.OUT32, Source.ROW_MAX}
"""Sources whose integers the page's machine takes from a list of its own."""


def fields_of(command: Mapping[str, Any]) -> dict[str, int]:
    """A command as `run_vector` takes it; the page's machine has a mask where a command has a number of lanes."""
    names = ("first", "count", "outer", "inner", "partial_inner", "key0", "key1", "index_base", "index_outer", "index_inner")
    fields = {name: int(command.get(name, 0)) for name in names} | {"lanes": int(command["lanes"]).bit_length()}
    for i, region in enumerate(command["regions"]):
        fields |= {f"region{i}_{name.removesuffix('_stride')}": value for name, value in region.items()}
    return fields


def memories_of(machine: Machine, first: int, program: list[dict[str, Any]]) -> Memories:
    memories = Memories(CONFIG)
    unit = memories.vector
    assert unit is not None
    for scratchpad, words in zip(unit.scratchpads, machine.memories, strict=True):
        scratchpad[:] = np.array(words, np.uint32)
    unit.scalars[:] = machine.scalars
    unit.registers[:] = np.array(machine.registers, np.uint32)
    for i, code in enumerate(program):
        unit.program[first + i] = {name: int(code.get(name, 0)) for name in INSTRUCTION.fields}
    return memories


def draws(count: int):
    """Random legal programs without the left scratchpad and without integers."""
    rng = random.Random(7)
    while count:
        before, program, command, _, after = legal(rng)
        prefix = command["lanes"] & (command["lanes"] + 1) == 0
        if prefix and not any(code["target"] == Target.LEFT or code["x_source"] in NOT_BUILT for code in program):
            count -= 1
            yield before, program, command, after


def test_random_programs_equal_the_pages_machine() -> None:
    at_once = 0
    for number, (before, program, command, after) in enumerate(draws(60)):
        memories = memories_of(before, command["first"], program)
        fields = fields_of(command)
        unit = memories.vector
        assert unit is not None
        run = vector._Run(fields, unit.program[fields["first"] : fields["first"] + len(program)], memories, CONFIG)
        at_once += fields["outer"] > 1 and run.independent()
        clipped = vector.run_vector(fields, memories, CONFIG)
        assert clipped == after.saturations, (number, program, command)
        assert unit.scalars.tolist() == after.scalars, (number, program, command)
        assert_same_words(unit.registers.tolist(), after.registers, (number, program, command))
        for found, wanted in zip(unit.scratchpads, after.memories, strict=True):
            assert_same_words(found.tolist(), wanted, (number, program, command))
    assert at_once > 3, "too few programs ran over all outer iterations at once"


REGION = {"base": 0, "outer_stride": 4, "inner_stride": 1}
COMMAND = {"first": 2, "count": 2, "outer": 2, "inner": 3, "lanes": 3, "partial_inner": 0, "regions": [REGION] * 4}
COPY = {"x_source": Source.V0, "target": Target.V1}


@pytest.mark.parametrize(
    ("code", "command", "expected"),
    [
        ({"x_source": Source.V0, "function": Function.RECIPROCAL}, {}, (Code.VECTOR_RANGE, Check.NONE)),
        ({"x_source": 6}, {}, (Code.BAD_FIELD, Check.PROGRAM)),
        ({"x_source": Source.ROW_MAX}, {}, (Code.BAD_FIELD, Check.PROGRAM)),
        ({"x_source": Source.V0, "target": Target.LEFT}, {}, (Code.BAD_FIELD, Check.PROGRAM)),
        ({"x_source": Source.V0, "y_source": Source.V0}, {}, (Code.BAD_FIELD, Check.PROGRAM)),
        (COPY, {"inner": DEPTHS[1] + 1}, (Code.SCRATCHPAD_BOUNDS, Check.V1)),
        ({"x_source": Source.OUT32}, {"inner": 1 << 12}, (Code.SCRATCHPAD_BOUNDS, Check.OUT)),
        (
            {"x_source": Source.V0, "function": Function.RECIPROCAL, "target": Target.V1},
            {"inner": DEPTHS[1] + 1},
            (Code.VECTOR_RANGE, Check.NONE),
        ),
    ],
    ids=[
        "1 / 0",
        "unknown source",
        "row maxima",
        "left scratchpad",
        "one memory twice",
        "beyond V1",
        "beyond the output buffer",
        "1 / 0 ahead of a word beyond V1",
    ],
)
def test_a_fault_names_its_instruction(code: dict[str, int], command: dict[str, int], expected: tuple[Code, Check]) -> None:
    zeros = Machine([[[0] * LANES for _ in range(depth)] for depth in DEPTHS], [numbers.ONE] * 32)
    memories = memories_of(zeros, 2, [{"x_source": Source.SCALAR}, code])
    with pytest.raises(VectorFault) as raised:
        vector.run_vector(fields_of(COMMAND | command), memories, CONFIG)
    assert (raised.value.code, raised.value.detail, raised.value.instruction) == (*expected, 3)
