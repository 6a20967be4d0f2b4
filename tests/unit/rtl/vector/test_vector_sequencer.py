"""The vector unit's control by itself: which elements enter, in which order, what ends a command, and what is said of it."""

from __future__ import annotations

import random

import pytest

from loralith.rtl.vector.command import VectorCommand
from loralith.rtl.vector.sequencer import VectorSequencer
from loralith.spec.status import Check, Code
from loralith.spec.vector.program import INSTRUCTION, Reduce, Source, Target
from loralith.verif.block_test import assert_each_equal, design

NOTHING = dict.fromkeys(INSTRUCTION.fields, 0)


def packed(code: dict[str, int]) -> int:
    return sum(value << INSTRUCTION.fields[name].offset for name, value in code.items())


class Rig:
    """The control with a program, integers that stall, and a reduction of three cycles.

    ``entered``: (instruction, first of it, partial, its target) of every element; ``reduced``: instructions whose reductions were started.
    """

    def __init__(self, program: list[dict[str, int]], seed: int = 0, stall: float = 0.0) -> None:
        self.block = design(VectorSequencer)
        self.dut, self.program = self.block.dut, program
        self.rng, self.stall = random.Random(seed), stall
        self.entered: list[tuple[int, bool, bool, int]] = []
        self.reduced: list[int] = []
        self.ended: dict[str, int] = {}

    async def memories(self, ctx):
        dut, reduction = self.dut, 0
        while True:
            ctx.set(dut.integers_valid, self.rng.random() >= self.stall)
            ctx.set(dut.fetch.ready, self.rng.random() >= self.stall)
            ctx.set(dut.reduce_last, reduction == 1)
            _, _, address, issue, number, first, partial, target, start, request = await ctx.tick().sample(
                *(dut.program_address, dut.issue, dut.number, dut.first, dut.partial, dut.instruction.target, dut.reduce_start),
                dut.fetch.valid & dut.fetch.ready,
            )
            ctx.set(dut.program_data, packed(self.program[address >> 1]) >> 32 * (address & 1) & 0xFFFFFFFF)
            reduction = max(reduction - 1, 0)
            if issue:
                self.entered.append((number, bool(first), bool(partial), target))
            if start:
                self.reduced.append(number)
                reduction = 3
            self.ended["requests"] = self.ended.get("requests", 0) + request

    async def command(
        self, ctx, command: dict, *, stop_after: int | None = None, beyond_after: int | None = None, fault_after: int | None = None
    ):
        """Runs it until it is done; ``stop``, an address beyond its memory, or an element outside of the range of numbers after so many
        elements."""
        dut = self.dut
        ctx.set(dut.command.payload, VectorCommand.const(command))
        ctx.set(dut.command.valid, 1)
        for _ in range(3000):
            ctx.set(dut.stop, stop_after is not None and len(self.entered) >= stop_after)
            ctx.set(dut.out_of_bounds, beyond_after is not None and len(self.entered) >= beyond_after)
            ctx.set(dut.bounds_detail, Check.V1)
            ctx.set(dut.range_fault, fault_after is not None and len(self.entered) >= fault_after)
            ctx.set(dut.range_number, 5)
            done = ctx.get(dut.done)
            if done:
                names = ("fault", "fault_code", "fault_detail", "fault_instruction")
                self.ended |= {name: ctx.get(getattr(dut, name)) for name in names}
                assert ctx.get(dut.command.ready)
            await ctx.tick()
            if done:
                break
        else:
            raise AssertionError("the command does not end")
        for name in ("stop", "out_of_bounds", "range_fault"):
            ctx.set(getattr(dut, name), 0)
        ctx.set(dut.command.valid, 0)
        await ctx.tick()
        assert not ctx.get(dut.busy)

    def run(self, command: dict, **ends: int) -> None:
        async def bench(ctx):
            await self.command(ctx, command, **ends)

        self.block.simulate(bench, background=[self.memories])


def drawn(rng: random.Random) -> dict[str, int]:
    x = rng.choice([Source.V0, Source.V1, Source.OUT32, Source.SCALAR])
    reduce = rng.choice([Reduce.NONE, Reduce.NONE, Reduce.SUM_LANE, Reduce.MAX_ALL])
    chosen = {"x_source": x, "once": rng.random() < 0.3, "target": rng.choice([Target.NONE, Target.V0, Target.LANE])}
    return NOTHING | chosen | {"reduce": reduce, "over_outer": rng.getrandbits(1)}


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("partial_inner", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_elements_enter_as_two_nested_loops_say(seed, partial_inner, stall):
    rng = random.Random(seed)
    program = [drawn(rng) for _ in range(64)]
    first, count, outer, inner = rng.randrange(50), rng.randint(1, 6), rng.randint(1, 4), rng.randint(1, 8)
    command = {"first": first, "count": count, "outer": outer, "inner": inner, "partial_inner": partial_inner}
    entered, reduced, jobs = [], [], 0
    for o in range(outer):
        for number in range(first, first + count):
            code = program[number]
            words = 1 if code["once"] else inner
            for i in range(words):
                last = i == words - 1 and not code["once"] if partial_inner else o == outer - 1
                entered.append((number, i == 0, last, int(code["target"])))
            jobs += code["x_source"] == Source.OUT32
            reduced += [number] * (code["reduce"] != Reduce.NONE and (not code["over_outer"] or o == outer - 1))
    rig = Rig(program, seed, stall)
    rig.run(command)
    assert_each_equal("element", rig.entered, entered)
    assert_each_equal("reduction", rig.reduced, reduced)
    assert rig.ended["requests"] == jobs
    assert rig.ended["fault"] == 0


LOOP = {"first": 2, "count": 2, "outer": 3, "inner": 6}
TWO = {2: {"x_source": Source.V0, "target": Target.V1}, 3: {"x_source": Source.V0, "target": Target.NONE}}


def program_of(codes: dict[int, dict[str, int]]) -> list[dict[str, int]]:
    return [NOTHING | codes.get(number, {}) for number in range(64)]


def test_an_instruction_without_a_meaning_ends_the_command_before_any_of_its_elements():
    """The next command has no fault."""
    rig = Rig(program_of(TWO | {3: {"x_source": 7}}))

    async def bench(ctx):
        await rig.command(ctx, LOOP)
        assert [number for number, *_ in rig.entered] == [2] * 6
        want = {"fault": 1, "fault_code": Code.BAD_FIELD, "fault_detail": Check.PROGRAM, "fault_instruction": 3}
        assert {name: rig.ended[name] for name in want} == want
        await rig.command(ctx, LOOP | {"count": 1})
        assert rig.ended["fault"] == 0

    rig.block.simulate(bench, background=[rig.memories])


def test_an_address_beyond_its_memory_ends_the_command_at_the_element():
    rig = Rig(program_of(TWO))
    rig.run(LOOP, beyond_after=9)
    assert len(rig.entered) == 9
    want = {"fault": 1, "fault_code": Code.SCRATCHPAD_BOUNDS, "fault_detail": Check.V1, "fault_instruction": 3}
    assert {name: rig.ended[name] for name in want} == want


def test_the_first_element_outside_of_the_range_of_numbers_is_the_one_that_counts():
    """Its instruction is the one that the lanes name, not the one whose elements enter."""
    rig = Rig(program_of(TWO))
    rig.run(LOOP, fault_after=4)
    assert len(rig.entered) < 36
    want = {"fault": 1, "fault_code": Code.VECTOR_RANGE, "fault_detail": Check.NONE, "fault_instruction": 5}
    assert {name: rig.ended[name] for name in want} == want


def test_a_stopped_command_ends_without_a_fault_and_the_next_one_is_whole():
    rig = Rig(program_of(TWO))

    async def bench(ctx):
        await rig.command(ctx, LOOP, stop_after=4)
        assert len(rig.entered) <= 6
        assert rig.ended["fault"] == 0
        rig.entered.clear()
        await rig.command(ctx, LOOP)

    rig.block.simulate(bench, background=[rig.memories])
    assert [number for number, *_ in rig.entered] == ([2] * 6 + [3] * 6) * 3
