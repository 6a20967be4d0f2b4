"""Gradients between the blocks of a pass: what they take of the memories, when they ask for their operands, and what they cost."""

import pytest

from loralith.compiler.schedules.gradient import plan_gradient
from loralith.compiler.schedules.training_step import ALTERNATING, Linear, compile_step, parts_for, place, tried_plans
from loralith.spec.commands import Opcode
from loralith.spec.config import load_config


@pytest.mark.parametrize("rank", [3, 4])
def test_sums_of_a_low_rank_take_the_columns_that_they_fill(rank: int) -> None:
    """Two blocks of INT32 [m, 4] in an eighth of the output buffer; as wide as the array, m = 32 would be the most."""
    config = load_config("base")
    assert plan_gradient(1024, 640, rank, config, ALTERNATING.gradients[0]).m > 32


def test_operands_of_the_next_block_stand_before_the_loads_of_the_work_in_between() -> None:
    config = load_config("base")
    linear = Linear("high rank", 1024, 128, 192, 128)
    commands = compile_step([(linear, place(linear, 0, config)[0])], config)
    loads = [note for c, note in zip(commands.commands, commands.notes, strict=True) if c.opcode == Opcode.LOAD]
    first = loads.index("dB left 0,0")
    following = loads.index("dB left 0,1")
    assert not [note for note in loads[first:following] if note.startswith("base")]


def test_backward_plans_are_tried_with_the_gradients_between_their_blocks() -> None:
    config = load_config("base")
    linear = Linear("", 512, 256, 192, 128)
    outputs = linear.I * linear.O + linear.rank * (linear.I + linear.O)
    gradients = linear.rank * (linear.I + linear.O)
    best, _ = tried_plans(linear, True, config, parts_for(linear.rank)[0])[0]
    assert best >= (outputs + gradients) / (config.rows * config.cols)
