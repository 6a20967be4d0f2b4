"""One lane by itself: the chain with its constants, its registers, its sum, maximum and faults, against the definitions."""

from __future__ import annotations

import random

import pytest

from loralith.rtl.vector.lane import CONSTANTS, Lane, LaneTiming
from loralith.rtl.vector.lane_settings import LaneSettings, OperandSelect, XSelect, YSelect
from loralith.spec.vector import numbers
from loralith.spec.vector.program import LANE_REGISTERS, Format, Function
from loralith.verif.block_test import design


async def enter(ctx, dut, pointer: int, element: dict, settings: dict, live: bool = True) -> tuple[int, list[tuple[int, int]]]:
    """One element and the cycles until its result: the ring's pointer after it, and the faults with the cycles that they were seen in."""
    faults = []
    ctx.set(dut.settings, LaneSettings.const(settings))
    ctx.set(dut.integer, element["integer"] % 2**32)
    for cycle in range(LaneTiming.result):
        ctx.set(dut.pointer, (pointer + cycle) % 16)
        ctx.set(dut.live, sum(1 << i for i, at in enumerate(LaneTiming.faults) if live and at == cycle))
        if cycle == LaneTiming.vectors:
            for name in ("v0", "v1"):
                ctx.set(getattr(dut, name).as_value(), element[name])
        await ctx.tick()
        ctx.set(dut.integer, 0)
        faults += [(cycle, ctx.get(dut.fault))] * bool(ctx.get(dut.fault))
    return (pointer + LaneTiming.result) % 16, faults


async def load(ctx, dut, constants: dict[str, dict], registers: list[int]) -> None:
    """Lane registers first, then each operand's constant: a word, or a lane register."""
    for number in range(LANE_REGISTERS):
        ctx.set(dut.register_write, 1)
        ctx.set(dut.register_number, number)
        ctx.set(dut.register_word, registers[number])
        await ctx.tick()
    ctx.set(dut.register_write, 0)
    for at, name in enumerate(CONSTANTS):
        source = constants[name]
        ctx.set(dut.constant_load, 1 << at)
        ctx.set(dut.constant_lane, source["lane"] is not None)
        ctx.set(dut.constant_register, source["lane"] or 0)
        ctx.set(dut.constant, source["word"])
        await ctx.tick()
    ctx.set(dut.constant_load, 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_result_is_the_chain_of_its_element_and_constants(bench, seed):
    """Y takes part as operand of any stage; constants are words or lane registers."""
    rng = random.Random(seed)
    block = design(Lane)
    dut = block.dut

    async def scenario(ctx):
        ctx.set(dut.enable, 1)
        pointer = 0
        for _ in range(12):
            word = lambda: bench.random_word(rng, 120, 131)  # noqa: E731
            registers = [word() for _ in range(LANE_REGISTERS)]
            constants = {name: {"word": word(), "lane": rng.choice([None, *range(LANE_REGISTERS)])} for name in CONSTANTS}
            selects = {name: rng.choice(list(OperandSelect)) for name in CONSTANTS}
            negate = {name: rng.getrandbits(1) for name in "abd"}
            x, y = rng.choice([XSelect.V0, XSelect.V1, XSelect.INTEGER]), rng.choice(list(YSelect))
            element = {"integer": rng.randrange(-5000, 5000), "v0": word(), "v1": word()}
            settings = {"x": x, "y": y, **selects, **{f"{name}_negate": value for name, value in negate.items()}}
            settings |= {"function": Function.PASS, "packing": Format.WORD, "summing": 0, "comparing": 0, "scale": 127}
            await load(ctx, dut, constants, registers)
            # A constant may be loaded in the cycle before its first element reaches it.
            pointer, _ = await enter(ctx, dut, pointer, element, settings)
            a = {XSelect.V0: element["v0"], XSelect.V1: element["v1"], XSelect.INTEGER: numbers.from_integer(element["integer"])}[x]
            b = {YSelect.ZERO: 0, YSelect.V0: element["v0"], YSelect.V1: element["v1"]}[y]
            operands = {}
            for name in CONSTANTS:
                source = constants[name]
                constant = source["word"] if source["lane"] is None else registers[source["lane"]]
                operands[name] = {OperandSelect.X: a, OperandSelect.Y: b}.get(selects[name], constant)
                if negate.get(name):
                    operands[name] = numbers.negate(operands[name])
            want = numbers.multiply(a, operands["a"])
            want = numbers.add(want, operands["b"])
            want = numbers.add(numbers.multiply(want, operands["c"]), operands["d"])
            assert bench.bits_of(ctx.get(dut.word)) == bench.bits_of(want), (settings, element, constants)

    block.simulate(scenario)


PLAIN = dict.fromkeys(("a_negate", "b_negate", "d_negate", "summing", "comparing", "signed"), 0) | {
    **{"x": XSelect.V0, "y": YSelect.V1, "function": Function.PASS, "packing": Format.WORD, "scale": numbers.BIAS},
    **{"a": OperandSelect.CONSTANT, "b": OperandSelect.CONSTANT, "c": OperandSelect.CONSTANT, "d": OperandSelect.CONSTANT},
}


def neutral(**changed: int) -> dict[str, dict]:
    """Constants that change nothing, but for those of ``changed``."""
    usual = {"a": numbers.ONE, "b": 0, "c": numbers.ONE, "d": 0}
    return {name: {"word": changed.get(name, word), "lane": None} for name, word in usual.items()}


def test_the_maximum_is_that_of_live_elements_since_it_was_cleared(bench):
    rng = random.Random(1)
    block = design(Lane)
    dut = block.dut

    async def scenario(ctx):
        ctx.set(dut.enable, 1)
        await load(ctx, dut, neutral(), [0] * LANE_REGISTERS)
        pointer = 0
        for _ in range(3):
            ctx.set(dut.clear_maximum, 1)
            await ctx.tick()
            ctx.set(dut.clear_maximum, 0)
            pointer = (pointer + 1) % 16
            largest = 0
            for _ in range(6):
                element, live = {"integer": 0, "v0": bench.random_word(rng, 100, 140), "v1": 0}, rng.random() < 0.6
                pointer, _ = await enter(ctx, dut, pointer, element, PLAIN | {"comparing": 1}, live)
                largest = max(largest, element["v0"] % 2**24) if live else largest
            await ctx.tick()
            pointer = (pointer + 1) % 16
            assert ctx.get(dut.maximum) == largest

    block.simulate(scenario)


@pytest.mark.parametrize(
    ("stage", "constants", "word"),
    [(0, {"a": 254 << 16}, 254 << 16), (1, {"b": 254 << 16 | 0xFFFF}, 254 << 16 | 0xFFFF), (3, {"c": 254 << 16}, 254 << 16)],
    ids=["product", "sum", "second product"],
)
@pytest.mark.parametrize("live", [True, False])
def test_a_stage_that_leaves_the_range_of_numbers_is_a_fault_of_a_live_element(stage, constants, word, live):
    """Bit i of ``fault`` is that of LaneTiming.faults[i], a cycle after the stage's end."""
    block = design(Lane)
    dut = block.dut

    async def scenario(ctx):
        ctx.set(dut.enable, 1)
        await load(ctx, dut, neutral(**constants), [0] * LANE_REGISTERS)
        _, faults = await enter(ctx, dut, 0, {"integer": 0, "v0": word, "v1": 0}, PLAIN, live)
        assert faults[:1] == ([(LaneTiming.faults[stage], 1 << stage)] if live else [])

    block.simulate(scenario)
