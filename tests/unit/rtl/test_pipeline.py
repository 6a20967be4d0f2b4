"""Pipeline registers against lists of what went in."""

import random

import pytest
from amaranth.hdl import Fragment, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.pipeline import delayed, valid_bits
from loralith.verif.block_test import simulate

ITEM = data.StructLayout({"number": unsigned(8), "flag": 1})


class Pipe(wiring.Component):
    """Items of one struct, delayed by up to ``stages`` cycles; with ``gated`` their registers change with the items only."""

    def __init__(self, stages: int, gated: bool) -> None:
        self.stages, self.gated = stages, gated
        super().__init__(
            {
                "valid": In(1),
                "item": In(ITEM),
                "valids": Out(stages + 1),
                "items": Out(data.ArrayLayout(ITEM, stages + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valid = valid_bits(m, self.valid, self.stages)
        items = delayed(m, self.item, self.stages, name="item", enables=valid if self.gated else None)
        m.d.comb += [self.valids.eq(valid), *(port.eq(item) for port, item in zip(self.items, items, strict=True))]
        return m


def model(inputs, stages, gated):
    """(valid bits, items of all stages) before each cycle's clock edge, for ``inputs`` of (valid, item)."""
    valids, items, seen = [0] * stages, [(0, 0)] * stages, []
    for valid, item in inputs:
        before_valid, before_items = [valid, *valids], [item, *items]
        seen.append((before_valid, before_items))
        items = [new if not gated or enable else old for enable, new, old in zip(before_valid, before_items, items, strict=False)]
        valids = before_valid[:stages]
    return seen


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_items_arrive_stages_cycles_later(stages, gated):
    rng = random.Random(stages)
    inputs = [(rng.randrange(2), (rng.randrange(256), rng.randrange(2))) for _ in range(60)]
    pipe, seen = Pipe(stages, gated), []

    async def bench(ctx):
        for valid, (number, flag) in inputs:
            ctx.set(pipe.valid, valid)
            ctx.set(pipe.item, {"number": number, "flag": flag})
            items = [ctx.get(item) for item in pipe.items]
            seen.append(([ctx.get(pipe.valids) >> i & 1 for i in range(stages + 1)], [(item.number, item.flag) for item in items]))
            await ctx.tick()

    simulate(pipe, bench)
    for cycle, (got, want) in enumerate(zip(seen, model(inputs, stages, gated), strict=True)):
        assert got == want, f"cycle {cycle} after {inputs[max(cycle - stages, 0) : cycle + 1]}"


def test_impossible_pipelines_are_refused():
    m, value = Module(), Signal(8)
    with pytest.raises(ValueError, match="no fewer than 0 stages, not -1"):
        valid_bits(m, value[0], -1)
    with pytest.raises(ValueError, match="no fewer than 0 stages, not -2"):
        delayed(m, value, -2, name="value")
    with pytest.raises(ValueError, match="3 registers of value need as many enables, not 2"):
        delayed(m, value, 3, name="value", enables=value[:2])
    assert not Fragment.get(m, None).statements, "a refused pipeline leaves registers behind"


def test_no_stage_is_the_value_itself_and_reset_less_registers_are_so():
    m, value = Module(), Signal(8)
    assert delayed(m, value, 0, name="value") == [value]
    for keep in (False, True):
        assert delayed(m, value, 1, name=f"value{keep}", reset_less=keep)[1].reset_less == keep
    Fragment.get(m, None)
