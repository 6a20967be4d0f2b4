"""Random LOAD, COMPUTE and STORE commands for the smallest configuration."""

from __future__ import annotations

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.proof.rules import problems
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import Config

__all__ = ["legal", "random_command"]


def random_command(rng: np.random.Generator, places: int = 40) -> Command:
    """Small regions on few rows, so that conflicts are common; DRAM at ``places`` bus words."""

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
            return Command.make(
                Opcode.STORE, source=1, rows=1, row_bytes=16 * (1 + below(2)), base=below(3), address=8 * below(places // 2)
            )
        return Command.make(Opcode.STORE, **_matrix(rng, places), transpose=below(2))
    if below(4) == 0:
        return Command.make(Opcode.LOAD, target=2, rows=1, row_bytes=16, base=below(6), address=8 * below(places // 2))
    return Command.make(Opcode.LOAD, **_matrix(rng, places), target=below(2), transpose=below(2))


def _matrix(rng: np.random.Generator, places: int) -> dict[str, int]:
    rows, row_bytes = rng.integers(1, 9, 2).tolist()
    return {
        "rows": rows,
        "row_bytes": row_bytes,
        "row_stride": 16 * int(rng.integers(1, 3)),
        "address": 8 * int(rng.integers(places)),
        "base": int(rng.integers(20)),
        "block_stride": 2,
    }


def legal(command: Command, config: Config) -> bool:
    """By itself, its own results off its operands."""
    try:
        check(CommandList.of([command]), config)
    except IllegalList:
        return False
    return not list(problems(command, config, (0, 1 << 64)))
