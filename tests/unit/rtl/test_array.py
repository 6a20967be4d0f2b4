"""The processing elements against integer sums."""

import random

import pytest

from loralith.rtl.array import AccumulateMode, Columns, ProcessingArray
from loralith.spec.config import PRESETS
from loralith.verif.block_test import assert_each_equal, simulate

MASK32 = (1 << 32) - 1


def signed8(byte):
    return byte - 256 if byte > 127 else byte


class Elements:
    """acc and shadow of rows x cols elements, modulo 2**32."""

    def __init__(self, rows, cols):
        self.acc = [[0] * rows for _ in range(cols)]
        self.shadow = [[0] * rows for _ in range(cols)]

    def step(self, base, lefts, rights):
        """``lefts``: of each column the rows' operands."""
        for j, right in enumerate(rights):
            for i, left in enumerate(lefts[j]):
                start = {
                    AccumulateMode.KEEP: self.acc[j][i],
                    AccumulateMode.CLEAR: 0,
                    AccumulateMode.SHIFT1: self.acc[j][i] << 1,
                    AccumulateMode.SHIFT4: self.acc[j][i] << 4,
                }[base]
                self.acc[j][i] = start + signed8(left) * signed8(right) & MASK32

    def capture(self):
        self.shadow = [list(column) for column in self.acc]

    def shift(self, neighbour):
        self.shadow = [*self.shadow[1:], neighbour]


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_tiles_of_random_steps_leave_column_by_column(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    R, C, groups = config.rows, config.cols, config.max_fold
    dut, elements = ProcessingArray(config), Elements(config.rows, config.cols)
    got, want, stimuli = [], [], []

    async def bench(ctx):
        for tile in range(3):
            steps = [(rng.choice(list(AccumulateMode)) if number else AccumulateMode.CLEAR) for number in range(rng.randint(1, 5))]
            for base in steps:
                ctx.set(dut.valid, 1)
                ctx.set(dut.accumulate_mode, base)
                await ctx.tick()
                ctx.set(dut.valid, 0)
                ctx.set(dut.accumulate_mode, rng.randrange(4))
                left = [[rng.randrange(256) for _ in range(R)] for _ in range(groups)]
                right = [rng.randrange(256) for _ in range(C)]
                ctx.set(dut.left, [int.from_bytes(bytes(lane), "little") for lane in left])
                ctx.set(dut.right, right)
                elements.step(base, [left[j * groups // C] for j in range(C)], right)
                if rng.randrange(2):  # a cycle without a step
                    await ctx.tick()
                    ctx.set(dut.right, [rng.randrange(256) for _ in range(C)])
            # Of the last step's ``valid`` at least one cycle has passed.
            await ctx.tick().repeat(dut.accumulate_delay)
            ctx.set(dut.capture, 1)
            await ctx.tick()
            ctx.set(dut.capture, 0)
            elements.capture()
            await ctx.tick()
            for column in range(C):
                got.append([ctx.get(value) for value in dut.drain_out])
                columns = [elements.shadow[group * (C // groups)] for group in range(groups)]
                want.append([sum(value << 32 * i for i, value in enumerate(values)) for values in columns])
                stimuli.append((tile, column, [base.name for base in steps]))
                ctx.set(dut.shift, 1)
                await ctx.tick()
                ctx.set(dut.shift, 0)
                await ctx.tick()
                elements.shift([0] * R)

    simulate(dut, bench)
    assert_each_equal("column", got, want, stimuli)


def test_a_capture_takes_the_sums_in_the_cycle_in_which_the_next_tile_begins():
    """Steps without a gap: the first step of the next tile overwrites an accumulator as it is captured."""
    rng, config = random.Random(3), PRESETS["tiny"]
    dut, elements, got, want = ProcessingArray(config), Elements(config.rows, config.cols), [], []

    async def bench(ctx):
        last, pending = -100, []
        for cycle in range(60):
            ends = cycle % 6 == 5
            ctx.set(dut.valid, cycle < 48)
            ctx.set(dut.accumulate_mode, AccumulateMode.CLEAR if cycle % 6 == 0 else AccumulateMode.KEEP)
            ctx.set(dut.capture, last == cycle - dut.accumulate_delay)
            if ends:
                last = cycle
            if pending and pending[0][0] == cycle:
                got.append([ctx.get(value) for value in dut.drain_out])
                want.append(pending.pop(0)[1])
            if 0 < cycle <= 48:
                left = [[rng.randrange(256) for _ in range(config.rows)] for _ in range(config.max_fold)]
                right = [rng.randrange(256) for _ in range(config.cols)]
                ctx.set(dut.left, [int.from_bytes(bytes(lane), "little") for lane in left])
                ctx.set(dut.right, right)
                base = AccumulateMode.CLEAR if (cycle - 1) % 6 == 0 else AccumulateMode.KEEP
                elements.step(base, [left[j * config.max_fold // config.cols] for j in range(config.cols)], right)
                if (cycle - 1) % 6 == 5:
                    drain_out = [elements.acc[group * config.cols // config.max_fold] for group in range(config.max_fold)]
                    pending.append((cycle - 1 + dut.accumulate_delay + 2, [sum(v << 32 * i for i, v in enumerate(h)) for h in drain_out]))
            await ctx.tick()

    simulate(dut, bench)
    assert_each_equal("tile", got, want)
    assert len(got) == 8


def test_columns_take_their_neighbour_s_shadow_from_the_right():
    rng, dut, got, want = random.Random(5), Columns(2, 2, 1), [], []

    async def bench(ctx):
        shadow = [[0, 0], [0, 0]]
        for _ in range(20):
            neighbour = [rng.getrandbits(32) for _ in range(2)]
            for port, value in zip(dut.neighbour, neighbour, strict=True):
                ctx.set(port, value)
            ctx.set(dut.shift, 1)
            await ctx.tick()
            ctx.set(dut.shift, 0)
            await ctx.tick()
            shadow = [shadow[1], neighbour]
            got.append([[ctx.get(dut.shadow[j][i]) for i in range(2)] for j in range(2)])
            want.append(shadow)

    simulate(dut, bench)
    assert_each_equal("shift", got, want)
