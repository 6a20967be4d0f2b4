"""The proof of legality: what it refuses, and that it misses no token that matters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.schedules.matmul import compile_matmul, plan_matmul
from loralith.spec.commands import Command, LoadTarget, Opcode, OutMode, ScaleMode
from loralith.spec.config import PRESETS, Config

CONFIG = PRESETS["tiny"]


def load(**fields: int) -> Command:
    return Command.make(Opcode.LOAD, **{"rows": 4, "row_bytes": 8, "row_stride": 8, "transpose": 1} | fields)


def right(**fields: int) -> Command:
    return Command.make(Opcode.LOAD, **{"target": LoadTarget.RIGHT, "rows": 8, "row_bytes": 4, "row_stride": 8, "address": 256} | fields)


def compute(**fields: int) -> Command:
    defaults = {"m_rows": 4, "n_cols": 4, "k0": 8, "out_mode": OutMode.INT32, "to_out": 1, "left0_base": 0}
    return Command.make(Opcode.COMPUTE, **defaults | fields)


def store(**fields: int) -> Command:
    return Command.make(Opcode.STORE, **{"rows": 4, "row_bytes": 16, "row_stride": 16, "address": 1024} | fields)


def refuse(*commands: Command, config: Config = CONFIG) -> IllegalList:
    with pytest.raises(IllegalList) as caught:
        check(CommandList.of(commands), config)
    return caught.value


def accept(*commands: Command) -> None:
    check(CommandList.of(commands), CONFIG)


# Tokens.


def test_a_wait_that_nothing_meets() -> None:
    assert refuse(load(wait=1)).index == 0
    error = refuse(load(signal=2), compute(wait=2), compute(wait=2, left0_base=9))
    assert error.index == 2
    assert "semaphore 1" in error.reason
    assert refuse(compute(chained=1, k1=8, segment_wait=4, signal=4)).index == 0


def test_a_sixteenth_token() -> None:
    accept(*[load(signal=1)] * 15)
    error = refuse(*[load(signal=1)] * 16)
    assert error.index == 15
    assert "more than 15" in error.reason


@pytest.mark.parametrize(
    "commands",
    [
        (load(signal=1), compute(signal=1, left0_base=9)),
        (compute(signal=1), compute(read_signal=1)),
        (compute(signal=1, read_signal=1),),
        (store(signal=1), load(signal=1)),
    ],
)
def test_two_kinds_of_givers(commands: tuple[Command, ...]) -> None:
    assert "is given by" in refuse(*commands).reason


def test_two_takers() -> None:
    assert "is taken by" in refuse(load(signal=1), load(signal=1), compute(wait=1, left0_base=9), store(wait=1, base=32)).reason


def test_a_command_that_is_illegal_by_itself() -> None:
    error = refuse(load(), load(base=128))
    assert error.index == 1
    assert "row 128 of left, which has 128" in error.reason
    with pytest.raises(IllegalList, match="not all in the window"):
        check(CommandList.of([load(address=64)]), CONFIG, (0, 64))


def test_sums_that_may_wrap() -> None:
    longest = {"chained": 1, "shift": 16, "k0": 1}
    assert "may wrap INT32" in refuse(compute(**longest, k1=65_536)).reason
    assert "wrap" not in refuse(compute(**longest, k1=65_535)).reason


# Races.

CHAIN = {"chained": 1, "k1": 8, "left1_base": 5, "right1_base": 5}


@pytest.mark.parametrize(
    ("unordered", "ordered", "what"),
    [
        ((load(), compute()), (load(signal=1), compute(wait=1)), "rows 0..0 of left"),
        ((right(), compute()), (right(signal=1), compute(wait=1)), "of right"),
        ((compute(), load()), (compute(read_signal=1), load(wait=1)), "of left"),
        ((compute(), store()), (compute(signal=1), store(wait=1)), "of out"),
        ((store(), compute()), (store(signal=1), compute(wait=1)), "of out"),
        ((load(base=5), compute(**CHAIN)), (load(base=5, signal=1), compute(**CHAIN, segment_wait=1)), "rows 5..5 of left"),
    ],
)
def test_operands_and_results(unordered: tuple[Command, ...], ordered: tuple[Command, ...], what: str) -> None:
    error = refuse(*unordered)
    assert error.index == 1
    assert what in error.reason
    assert "command 0" in error.reason
    accept(*ordered)


def test_the_first_segment_does_not_wait_for_the_second_ones_tokens() -> None:
    assert refuse(load(signal=1), compute(**CHAIN, segment_wait=1)).index == 1


def test_a_results_end_is_not_a_reads_end() -> None:
    """Data behind a read token may still be on its way through the post-processing unit."""
    assert "of out" in refuse(compute(read_signal=1), store(wait=1)).reason
    accept(compute(signal=1), load(wait=1))


def test_result_in_left() -> None:
    int8 = {"out_mode": OutMode.INT8, "scale_m": 32768, "to_out": 0, "to_left": 1, "result_base": 20}
    assert "of left" in refuse(compute(**int8), compute(left0_base=20)).reason
    accept(compute(**int8, signal=1), compute(left0_base=20, wait=1))
    accept(compute(left0_base=20), compute(**int8))
    assert "also reads as operand" in refuse(compute(**int8 | {"result_base": 0})).reason


def test_scale_vector_and_slots() -> None:
    vector = Command.make(Opcode.LOAD, target=LoadTarget.SCALE, rows=1, row_bytes=16, address=0)
    scaled = compute(out_mode=OutMode.INT8, scale_mode=ScaleMode.ROW)
    assert "of scale" in refuse(vector, scaled).reason
    assert "of scale" in refuse(scaled, vector).reason
    slots = Command.make(Opcode.STORE, source=1, rows=1, row_bytes=16, address=0, base=3)
    assert "of stat" in refuse(compute(stat_enable=1, stat_slot=3), slots).reason
    accept(compute(stat_enable=1, stat_slot=4), slots)


def test_dram_written_and_read_again() -> None:
    assert "DRAM" in refuse(store(), load(address=1024)).reason
    accept(store(signal=1), load(address=1024, wait=1))
    assert "DRAM" in refuse(load(address=1024), store()).reason
    interleaved = {"row_stride": 32, "address": 1024}
    accept(store(**interleaved), load(**interleaved | {"address": 1040}))
    assert "DRAM" in refuse(store(**interleaved), load(**interleaved | {"address": 1032})).reason


def test_a_token_orders_what_came_before_its_giver_too() -> None:
    accept(load(), right(signal=1), compute(wait=1))
    assert "of right" in refuse(load(signal=1), right(), compute(wait=1)).reason
    accept(compute(signal=1), store(wait=1, signal=2), load(wait=2))


def test_the_first_take_follows_the_first_give_only() -> None:
    assert refuse(load(signal=1), load(base=5, signal=1), compute(wait=1, left0_base=5)).index == 2
    accept(load(signal=1), load(base=5, signal=1), compute(wait=1), compute(wait=1, left0_base=5))


def test_blocks_that_overlap() -> None:
    assert "stride is too small" in refuse(load(rows=5)).reason
    assert "stride is too small" in refuse(compute(m_rows=5, out_stride=1)).reason
    accept(compute(m_rows=5, out_stride=2))


# Every token of a compiled list matters.


def without_one_token(commands: CommandList) -> Iterator[tuple[int, int, CommandList]]:
    """The list with one take and the give that it matches left out, for every take."""
    for s in range(16):
        gives = [(i, name) for i, c in enumerate(commands) for name in ("read_signal", "signal") if _has(c, name) and c[name] >> s & 1]
        takes = [(i, name) for i, c in enumerate(commands) for name in ("wait", "segment_wait") if _has(c, name) and c[name] >> s & 1]
        assert len(takes) == len(gives)
        for (i, given), (j, taken) in zip(gives, takes, strict=True):
            changed = list(commands.commands)
            for index, name in ((i, given), (j, taken)):
                fields = dict(changed[index].fields)
                fields[name] ^= 1 << s
                changed[index] = Command.make(changed[index].opcode, **fields)
            yield i, j, CommandList.of(changed)


def _has(command: Command, name: str) -> bool:
    return command.opcode is Opcode.COMPUTE or name in ("wait", "signal")


@pytest.mark.parametrize("shape", [(9, 17, 300), (20, 3, 700), (4, 40, 5)])
def test_without_any_token_a_product_races(shape: tuple[int, int, int]) -> None:
    plan = plan_matmul(*shape, CONFIG)
    left, right, _ = plan.layouts(CONFIG)
    commands = compile_matmul(plan, 0, left.nbytes, left.nbytes + right.nbytes, CONFIG)
    check(commands, CONFIG)
    seen = 0
    for give, take, changed in without_one_token(commands):
        with pytest.raises(IllegalList, match="no token orders them") as caught:
            check(changed, CONFIG)
        assert caught.value.index >= take > give
        seen += 1
    assert seen > 3
