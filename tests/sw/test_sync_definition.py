"""Tokens as they are defined, each command against all before it, beside the compiler's, which looks back only as far as it must."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest

from helpers.random_commands import legal, random_command
from helpers.vector_lists import TINY, Draw
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.tokens.footprint import Footprint, ProgramMemory, Use, footprint
from loralith.compiler.tokens.stages import Stage, last_stage
from loralith.compiler.tokens.sync import synchronize
from loralith.spec.commands import SEMAPHORE_MAX, Command, Opcode
from loralith.spec.config import PRESETS, Config

Touched = tuple[list[Use], Footprint | None]


def meet(use: Use, earlier: Use) -> bool:
    """Whether two uses of on-chip rows conflict and no queue's own order stands between them."""
    ordered = earlier.stage is use.stage or (use.stage is Stage.DONE and earlier.stage is Stage.READ)
    if ordered or earlier.memory != use.memory or not (earlier.write or use.write):
        return False
    return any(a < d and c < b for a, b in use.ranges for c, d in earlier.ranges)


def defined(commands: CommandList, config: Config, programs: Mapping[int, bytes]) -> CommandList:
    """The list with tokens: of each other stage the latest earlier command that conflicts is waited for, stages from the last to the first,
    unless it is known to have ended."""
    program = ProgramMemory(programs)
    touched: list[Touched] = []
    for command in commands:
        touched.append(footprint(command, config, program))
        program.follow(command)
    fields = [dict(command.fields) for command in commands]
    ends: dict[tuple[int, Stage], set[tuple[int, Stage]]] = {}  # what is known to have ended when a command ends a stage
    known: dict[Opcode, set[tuple[int, Stage]]] = {opcode: set() for opcode in Opcode}
    tokens: dict[tuple[Stage, Opcode, str], list[tuple[int, int]]] = {}
    for index, command in enumerate(commands):
        for where in ("wait", "segment_wait"):
            second = where == "segment_wait"
            mine = [use for use in touched[index][0] if use.second == second]
            latest = {
                stage: max((i for i in range(index) if conflict(commands, touched, i, index, stage, mine, second)), default=-1)
                for stage in Stage
            }
            for stage in reversed(Stage):
                giver = latest[stage]
                if giver >= 0 and (giver, stage) not in known[command.opcode]:
                    pairs = tokens.setdefault((stage, command.opcode, where), [])
                    number = list(tokens).index((stage, command.opcode, where))
                    give(fields, pairs, giver, index, 1 << number, "read_signal" if stage is Stage.READ else "signal", where)
                    known[command.opcode] |= ends[giver, stage]
        if command.opcode is Opcode.COMPUTE:
            known_at_end = ended(ends, known[command.opcode], commands, index, Stage.READ)
            ended(ends, known_at_end, commands, index, Stage.DONE)
        else:
            ended(ends, known[command.opcode], commands, index, last_stage(command))
    return CommandList.of(Command.make(c.opcode, **f) for c, f in zip(commands, fields, strict=True))


def conflict(commands: CommandList, touched: list[Touched], i: int, index: int, stage: Stage, mine: list[Use], second: bool) -> bool:
    uses, matrix = touched[i]
    if any(use.stage is stage and meet(own, use) for own in mine for use in uses):
        return True
    own = touched[index][1]
    transfers = {commands[i].opcode, commands[index].opcode} == {Opcode.LOAD, Opcode.STORE}
    return bool(not second and transfers and stage is last_stage(commands[i]) and own and matrix and own.overlaps(matrix))


def ended(
    ends: dict[tuple[int, Stage], set[tuple[int, Stage]]], known: set[tuple[int, Stage]], commands: CommandList, index: int, stage: Stage
) -> set[tuple[int, Stage]]:
    """What the end of a stage tells: what its command knew, and that every earlier command of the queue has ended it."""
    opcode = commands[index].opcode
    ends[index, stage] = known | {(i, stage) for i in range(index + 1) if commands[i].opcode is opcode}
    return ends[index, stage]


def give(fields: list[dict[str, int]], pairs: list[tuple[int, int]], giver: int, taker: int, bit: int, signal: str, where: str) -> None:
    """One token more; of a full semaphore the latest one instead, which comes from the new giver then."""
    if sum(take > giver for _, take in pairs) == SEMAPHORE_MAX:
        old, taker = pairs.pop()
        fields[old][signal] ^= bit
    else:
        fields[taker][where] = fields[taker].get(where, 0) | bit
    fields[giver][signal] = fields[giver].get(signal, 0) | bit
    pairs.append((giver, taker))


def masks(commands: CommandList) -> list[tuple[int, ...]]:
    return [(c["wait"], c["signal"], *((c["read_signal"], c["segment_wait"]) if c.opcode is Opcode.COMPUTE else ())) for c in commands]


@pytest.mark.parametrize("places", [40, 4000])
@pytest.mark.parametrize("seed", range(2))
def test_products_and_transfers(seed: int, places: int) -> None:
    """With few places DRAM conflicts all the time, with many of them seldom, so that the look back is long."""
    config, rng = PRESETS["tiny"], np.random.default_rng(seed)
    commands = CommandList.of(c for c in (random_command(rng, places) for _ in range(150)) if legal(c, config))
    found = synchronize(commands, config)
    assert masks(found) == masks(defined(commands, config, {}))


@pytest.mark.parametrize("seed", range(4))
def test_lists_of_the_vector_unit(seed: int) -> None:
    draw = Draw(random.Random(seed), TINY, 0)
    commands = draw.list()
    found = synchronize(commands, TINY, draw.programs)
    assert masks(found) == masks(defined(commands, TINY, draw.programs))


@pytest.mark.parametrize("back", [0, 1, 63, 64, 65, 191, 192, 193, 599])
def test_the_latest_store_of_the_same_bytes_is_found_however_far_back(back: int) -> None:
    """A LOAD of what one of 600 STOREs has written, which nothing has waited for."""
    config, last = PRESETS["tiny"], 599
    stores = [Command.make(Opcode.STORE, rows=1, row_bytes=8, address=8 * i) for i in range(last + 1)]
    load = Command.make(Opcode.LOAD, rows=1, row_bytes=8, transpose=1, address=8 * (last - back))
    commands = CommandList.of([*stores, load])
    with pytest.raises(IllegalList, match=f"that command {last - back} touches too"):
        check(commands, config)
    commands = synchronize(commands, config)
    assert [i for i, c in enumerate(commands) if c["signal"]] == [last - back]
    check(commands, config)
