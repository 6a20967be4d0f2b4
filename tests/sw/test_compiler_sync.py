"""Tokens found from what commands touch: enough for any speed, in random lists of legal commands."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.random_commands import legal, random_command
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.tokens.sync import synchronize
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS

CONFIG = PRESETS["tiny"]


@pytest.mark.parametrize("seed", range(30))
def test_random_lists_become_race_free(seed: int) -> None:
    rng = np.random.default_rng(seed)
    commands = CommandList.of(c for c in (random_command(rng) for _ in range(150)) if legal(c, CONFIG))
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
