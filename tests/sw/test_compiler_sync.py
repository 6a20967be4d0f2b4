"""Tokens found from what commands touch: enough for any speed, in random lists of legal commands."""

from __future__ import annotations

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.proof.rules import problems
from loralith.compiler.tokens.sync import synchronize
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS

CONFIG = PRESETS["tiny"]
EVERYWHERE = (0, 1 << 64)


def random_command(rng: np.random.Generator) -> Command:
    """Small regions on few rows, so that conflicts are common."""

    def below(n: int) -> int:
        return int(rng.integers(n))

    kind = rng.choice([Opcode.LOAD, Opcode.COMPUTE, Opcode.COMPUTE, Opcode.STORE])
    if kind == Opcode.COMPUTE:
        chained, mode = below(2), below(3)
        fields = {"m_rows": 1 + below(8), "n_cols": 1 + below(6), "k0": 1 + below(12), "chained": chained, "k1": chained * (1 + below(12))}
        fields |= {name: below(12) for name in ("left0_base", "right0_base", "left1_base", "right1_base")}
        fields |= dict.fromkeys(("left0_stride", "right0_stride", "left1_stride", "right1_stride"), 2)
        fields |= {"out_mode": mode, "fold_log2": below(3), "scale_mode": below(3), "scale_m": 32768, "scale_base": below(4)}
        fields |= {"to_out": int(mode > 0 and below(2)), "out_base": below(12), "out_stride": 3}
        fields |= {"to_left": int(mode == 1 and below(2)), "result_base": 14 + below(12), "result_stride": 1}
        fields |= {"acc_read": below(2), "acc_write": below(2), "acc_base": below(12), "acc_stride": 6}
        fields |= {"stat_enable": below(2), "stat_slot": below(4)}
        return Command.make(Opcode.COMPUTE, **fields)
    if kind == Opcode.STORE:
        if below(4) == 0:
            return Command.make(Opcode.STORE, source=1, rows=1, row_bytes=16 * (1 + below(2)), base=below(3), address=8 * below(20))
        return Command.make(Opcode.STORE, **matrix(rng), transpose=below(2))
    if below(4) == 0:
        return Command.make(Opcode.LOAD, target=2, rows=1, row_bytes=16, base=below(6), address=8 * below(20))
    return Command.make(Opcode.LOAD, **matrix(rng), target=below(2), transpose=below(2))


def matrix(rng: np.random.Generator) -> dict[str, int]:
    rows, row_bytes = rng.integers(1, 9, 2).tolist()
    return {
        "rows": rows,
        "row_bytes": row_bytes,
        "row_stride": 16 * int(rng.integers(1, 3)),
        "address": 8 * int(rng.integers(40)),
        "base": int(rng.integers(20)),
        "block_stride": 2,
    }


def legal(command: Command) -> bool:
    """By itself, its own results off its operands."""
    try:
        check(CommandList.of([command]), CONFIG)
    except IllegalList:
        return False
    return not list(problems(command, CONFIG, EVERYWHERE))


@pytest.mark.parametrize("seed", range(30))
def test_random_lists_become_race_free(seed: int) -> None:
    rng = np.random.default_rng(seed)
    commands = CommandList.of(c for c in (random_command(rng) for _ in range(150)) if legal(c))
    assert len(commands) > 60
    with pytest.raises(IllegalList, match="no token orders them"):
        check(commands, CONFIG)
    check(synchronize(commands, CONFIG), CONFIG)


def test_more_conflicts_at_once_than_a_semaphore_holds() -> None:
    """Twenty operands read, then each overwritten: the takes share tokens rather than pass 15."""
    reads = [Command.make(Opcode.COMPUTE, m_rows=1, n_cols=1, k0=8, left0_base=i) for i in range(20)]
    writes = [Command.make(Opcode.LOAD, rows=1, row_bytes=8, transpose=1, base=i) for i in range(20)]
    commands = synchronize(CommandList.of(reads + writes), CONFIG)
    check(commands, CONFIG)
    assert sum(c["wait"].bit_count() for c in commands) == 15


def test_order_that_tokens_imply_already_costs_none() -> None:
    load = Command.make(Opcode.LOAD, rows=1, row_bytes=8, transpose=1)
    compute = Command.make(Opcode.COMPUTE, m_rows=1, n_cols=1, k0=8)
    commands = synchronize(CommandList.of([load, compute, compute, compute, load]), CONFIG)
    assert [c["wait"].bit_count() for c in commands] == [0, 1, 0, 0, 1]
    assert [c["read_signal"] if c.opcode is Opcode.COMPUTE else 0 for c in commands][1:4] == [0, 0, commands[4]["wait"]]


def test_results_need_no_token_to_follow_the_operands_that_they_replace() -> None:
    read = Command.make(Opcode.COMPUTE, m_rows=1, n_cols=1, k0=8, left0_base=3)
    write = Command.make(Opcode.COMPUTE, m_rows=1, n_cols=1, k0=8, out_mode=1, scale_m=32768, to_left=1, result_base=3)
    commands = synchronize(CommandList.of([read, write]), CONFIG)
    assert [c["wait"] for c in commands] == [0, 0]
