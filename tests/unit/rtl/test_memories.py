"""Scratchpads hold what their contract says, whatever lanes, banks and bytes of a bus word they have."""

import random

import pytest
from amaranth.sim import Simulator

from loralith.rtl.memories import OperandMemory

DEPTH = 4


@pytest.mark.parametrize(
    ("lanes", "banks", "period"),
    [(4, 8, None), (8, 8, None), (16, 8, None), (16, 8, 8), (4, 8, 8)],
    ids=["few lanes", "as many", "many lanes", "many lanes, word repeats", "few lanes, word repeats"],
)
def test_an_operand_memory_holds_natural_and_transposed_writes(lanes: int, banks: int, period: int | None) -> None:
    dut = OperandMemory(lanes, DEPTH, banks, period)
    draw = random.Random(lanes * banks)
    held = [[[0] * lanes for _ in range(banks)] for _ in range(DEPTH)]

    async def bench(ctx):
        for _ in range(60):
            row, bank, lane, transpose = draw.randrange(DEPTH), draw.randrange(banks), draw.randrange(lanes), draw.randrange(2)
            bank_mask = draw.randrange(1 << banks) if transpose else 1 << bank
            lane_mask = 1 << lane if transpose else draw.randrange(1 << lanes)
            seq, bytes_ = draw.randbytes(banks), draw.randbytes(period or lanes)
            word = [bytes_[i % len(bytes_)] for i in range(lanes)]
            given = {
                "write_row": row,
                "bank_mask": bank_mask,
                "lane_mask": lane_mask,
                "transpose": transpose,
                "seq": list(seq),
                "word": word,
            }
            for name, value in given.items():
                ctx.set(getattr(dut, name), value)
            enabled = draw.randrange(4) != 0
            ctx.set(dut.write_en, enabled)
            for b in range(banks):
                for at in range(lanes):
                    if enabled and bank_mask >> b & 1 and lane_mask >> at & 1:
                        held[row][b][at] = seq[b] if transpose else word[at]
            await ctx.tick()
        ctx.set(dut.write_en, 0)
        await ctx.tick().repeat(dut.write_delay - 1)
        ctx.set(dut.read_en, (1 << banks) - 1)
        for row in range(DEPTH):
            ctx.set(dut.read_row, row)
            await ctx.tick().repeat(dut.delay)
            for b in range(banks):
                assert list(ctx.get(dut.read_data[b]).to_bytes(lanes, "little")) == held[row][b], (row, b)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
