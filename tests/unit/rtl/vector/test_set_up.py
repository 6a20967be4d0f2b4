"""The set-up of instructions, and what the next one waits for, against lists and cycles made by hand from docs/vector_unit.md."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In

from loralith.rtl.vector.command import VectorCommand
from loralith.rtl.vector.hazards import VectorHazards
from loralith.rtl.vector.set_up import VectorSetUp
from loralith.spec.vector.program import INSTRUCTION, REGIONS, SCALARS, Operand, Source, Target
from loralith.verif.block_test import assert_each_equal, design

FIELDS = {name: (1 << field.width) - 1 for name, field in INSTRUCTION.fields.items()}


def drawn_instruction(rng: random.Random) -> dict[str, int]:
    """Every field at random, but with sources that there are."""
    code = {name: rng.randint(0, top) for name, top in FIELDS.items()}
    x = rng.choice([Source.NONE, Source.V0, Source.V1, Source.OUT32, Source.SCALAR])
    y = rng.choice([source for source in (Source.NONE, Source.V0, Source.V1) if source != x or source == Source.NONE])
    return code | {"x_source": x, "y_source": y, "function": rng.randrange(6), "reduce": rng.randrange(7), "target": Target.V0}


def packed(code: dict[str, int]) -> int:
    return sum(value << INSTRUCTION.fields[name].offset for name, value in code.items())


def drawn_command(rng: random.Random) -> dict:
    regions = [{name: rng.getrandbits(16) for name in ("base", "outer_stride", "inner_stride")} for _ in range(REGIONS)]
    first = rng.randrange(60)
    command = {"first": first, "count": rng.randint(1, min(5, 64 - first)), "outer": rng.randint(1, 4), "inner": rng.randint(1, 9)}
    return command | {"regions": regions}


def expected(command: dict, program: list[dict[str, int]], scalars: list[int]) -> list[dict]:
    """What each instruction of a command is set up with, in the order in which they run."""
    found = []
    for outer in range(command["outer"]):
        for at in range(command["count"]):
            number = command["first"] + at
            code = program[number]
            regions = [command["regions"][code[name]] for name in ("x_region", "y_region", "target_region")]
            addresses = [(region["base"] + outer * region["outer_stride"]) % 2**16 for region in regions]
            fetch = None
            if code["x_source"] == Source.OUT32:
                fetch = (addresses[0], regions[0]["inner_stride"], 1 if code["once"] else command["inner"])
            found.append(
                {
                    "number": number,
                    "instruction": packed(code),
                    "starts_iteration": at == 0,
                    "last": outer == command["outer"] - 1 and at == command["count"] - 1,
                    "first_iteration": outer == 0,
                    "last_iteration": outer == command["outer"] - 1,
                    "addresses": addresses,
                    "strides": [region["inner_stride"] for region in regions],
                    "scale": scalars[code["s2"]] >> 16 & 0xFF,
                    "scalars": [scalars[code["s0"]], scalars[code["s1"]]],
                    "fetch": fetch,
                }
            )
    return found


@pytest.mark.parametrize("seed", range(4))
def test_instructions_are_set_up_in_order_each_with_its_own_fields_scalars_and_addresses(seed):
    rng = random.Random(seed)
    block = design(VectorSetUp)
    dut = block.dut
    program = [drawn_instruction(rng) for _ in range(64)]
    scalars = [rng.getrandbits(25) for _ in range(SCALARS)]
    fetched: list[tuple[int, int, int]] = []

    async def memories(ctx):
        while True:
            taken = dut.fetch.valid & dut.fetch.ready
            _, _, address, scalar, valid, request = await ctx.tick().sample(
                dut.program_address, dut.scalar_address, taken, dut.fetch.payload
            )
            ctx.set(dut.program_data, packed(program[address >> 1]) >> 32 * (address & 1) & 0xFFFFFFFF)
            ctx.set(dut.scalar_data, scalars[scalar])
            if valid:
                fetched.append((request.address, request.stride, request.count))
            ctx.set(dut.fetch.ready, rng.random() < 0.6)

    async def bench(ctx):
        for _ in range(6):
            command = drawn_command(rng)
            want = expected(command, program, scalars)
            ctx.set(dut.command, VectorCommand.const(command))
            ctx.set(dut.begin, 1)
            await ctx.tick()
            ctx.set(dut.begin, 0)
            before = len(fetched)
            for step in want:
                while rng.random() < 0.3:  # what runs may take its time
                    await ctx.tick()
                for _ in range(200):
                    if ctx.get(dut.valid):
                        break
                    ctx.set(dut.scalar_pending, rng.random() < 0.2)
                    await ctx.tick()
                ctx.set(dut.scalar_pending, 0)
                assert ctx.get(dut.valid), "no instruction is ready"
                got = {
                    name: ctx.get(getattr(dut, name))
                    for name in ("number", "starts_iteration", "last", "first_iteration", "last_iteration", "scale")
                }
                got |= {"instruction": ctx.get(dut.instruction.as_value())}
                got |= {name: [ctx.get(word) for word in getattr(dut, name)] for name in ("addresses", "strides", "scalars")}
                got |= {"fetch": fetched[-1] if step["fetch"] else None}
                assert got == step
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
            assert_each_equal("fetch", fetched[before:], [step["fetch"] for step in want if step["fetch"]])
            for _ in range(30):
                assert not ctx.get(dut.valid), "an instruction beyond the last one"
                await ctx.tick()

    block.simulate(bench, background=[memories])


def test_an_instruction_is_ready_after_the_cycles_that_the_model_has_and_none_after_cancel():
    block = design(VectorSetUp)
    dut = block.dut

    async def ready(ctx) -> int:
        """Cycles from the one after now until an instruction is ready."""
        for cycle in range(1, 50):
            await ctx.tick()
            if ctx.get(dut.valid):
                return cycle
        return 0

    async def bench(ctx):
        ctx.set(dut.fetch.ready, 1)
        ctx.set(dut.command, VectorCommand.const({"first": 3, "count": 2, "outer": 2, "inner": 4}))
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        await ready(ctx)
        for wanted in (dut.delay, dut.delay_iteration, dut.delay):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            assert 1 + await ready(ctx) == wanted
        ctx.set(dut.cancel, 1)
        await ctx.tick()
        ctx.set(dut.cancel, 0)
        assert await ready(ctx) == 0

    block.simulate(bench)


class Hazards(Component):
    """`VectorHazards` with plain numbers for the two instructions."""

    def __init__(self) -> None:
        self.block = VectorHazards()
        fields = {
            f"{which}_{name}": In(field.width) for which in ("next_instruction", "running") for name, field in INSTRUCTION.fields.items()
        }
        super().__init__(fields)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.block = block = self.block
        for which in ("next_instruction", "running"):
            for name in INSTRUCTION.fields:
                m.d.comb += getattr(block, which)[name].eq(getattr(self, f"{which}_{name}"))
        return m


READERS = ("x_source", "x_region", "y_source", "y_region", "target", "target_region", "a", "b", "c", "d")


class Model:
    """When the page allows an element to enter: cycles of the latest writers."""

    def __init__(self) -> None:
        self.lanes = self.scalars = -1000
        self.memories = {
            target: {"last": -1000, "start": -1000, "stalls": 0, "region": 0, "in_order": False} for target in (Target.V0, Target.V1)
        }

    def waits(self, cycle: int, code: dict[str, int], starts_iteration: bool) -> bool:
        """Whether an instruction that starts in ``cycle`` would have its first element too early."""
        entry, late = cycle + 1, False
        for target, source in ((Target.V0, Source.V0), (Target.V1, Source.V1)):
            memory = self.memories[target]
            if source not in (code["x_source"], code["y_source"]):
                continue
            region = code["x_region"] if code["x_source"] == source else code["y_region"]
            if memory["in_order"] and not starts_iteration and region == memory["region"]:
                late |= entry < memory["start"] + 1 + 41 + memory["stalls"]
            else:
                late |= entry < memory["last"] + 41
        registers = any(code[name] >= Operand.L0 for name in "abcd")
        return late or (registers and entry < self.lanes + 42)

    def started(self, cycle: int, code: dict[str, int], starts_iteration: bool, target_advances: bool) -> None:
        for target, memory in self.memories.items():
            if code["target"] == target:
                memory |= {"start": cycle, "stalls": 0, "region": code["target_region"], "in_order": target_advances}
            elif starts_iteration:
                memory["in_order"] = False

    def cycle(self, cycle: int, code: dict[str, int], issue: bool, stalled: bool) -> None:
        for target, memory in self.memories.items():
            memory["stalls"] += stalled and memory["start"] < cycle < memory["start"] + 41 + memory["stalls"]
            if issue and code["target"] == target:
                memory["last"] = cycle
        if issue and code["target"] == Target.LANE:
            self.lanes = cycle
        if issue and code["target"] == Target.SCALAR:
            self.scalars = cycle


@pytest.mark.parametrize("seed", range(6))
def test_an_instruction_waits_for_what_it_reads_and_for_nothing_else(seed):
    """Instructions with random sources, targets and regions; elements with stalls. The verdict is compared in every cycle in which the next
    instruction might start."""
    rng = random.Random(seed)
    block = design(Hazards)
    dut, hazards = block.dut, block.dut.block

    def drawn() -> dict[str, int]:
        x = rng.choice([Source.V0, Source.V1, Source.OUT32])
        y = rng.choice([source for source in (Source.NONE, Source.V0, Source.V1) if source != x])
        operands = {name: rng.choice([Operand.NONE, Operand.X, Operand.SCALAR, Operand.L2]) if rng.random() < 0.3 else 0 for name in "abcd"}
        regions = {name: rng.randrange(2) for name in ("x_region", "y_region", "target_region")}
        return {
            "x_source": x,
            "y_source": y,
            "target": rng.choice([Target.V0, Target.V1, Target.LANE, Target.SCALAR]),
            **regions,
            **operands,
        }

    async def bench(ctx):
        model, now, seen = Model(), 0, {True: 0, False: 0}
        running = drawn() | {"target": Target.NONE}

        async def tick(issue: bool = False, stalled: bool = False) -> None:
            nonlocal now
            ctx.set(hazards.issue, issue)
            ctx.set(hazards.stalled, stalled)
            model.cycle(now, running, issue, stalled)
            await ctx.tick()
            now += 1

        def show(which: str, code: dict[str, int]) -> None:
            for name in READERS:
                ctx.set(getattr(dut, f"{which}_{name}"), code[name])

        for _ in range(60):
            next_instruction, starts_iteration, target_advances = drawn(), rng.random() < 0.2, rng.random() < 0.8
            show("next_instruction", next_instruction)
            ctx.set(hazards.starts_iteration, starts_iteration)
            ctx.set(hazards.target_advances, target_advances)
            for _ in range(2):
                await tick()
            late = rng.choice([0, 0, 5, 60])  # the control may start it later
            for _ in range(200):
                waits = model.waits(now, next_instruction, starts_iteration)
                assert ctx.get(hazards.stall) == waits, (now, running, next_instruction, starts_iteration)
                assert ctx.get(hazards.scalar_pending) == (now < model.scalars + 43)
                seen[waits] += 1
                if not waits and not late:
                    break
                late -= late > 0 and not waits
                await tick()
            ctx.set(hazards.start, 1)
            model.started(now, next_instruction, starts_iteration, target_advances)
            await tick()
            ctx.set(hazards.start, 0)
            running = next_instruction
            show("running", running)
            for _ in range(rng.choice([1, 2, 10, 45])):
                while rng.random() < 0.2:
                    await tick(stalled=True)
                await tick(issue=True)
            ctx.set(hazards.issue, 0)
        assert min(seen.values()) > 50, seen

    block.simulate(bench)
