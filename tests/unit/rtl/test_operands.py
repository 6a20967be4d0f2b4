"""The operand path against words looked up in the two scratchpads, and the count of multiply-accumulates against products."""

import random

import pytest

from loralith.rtl.mac_counter import MacCounter
from loralith.rtl.memories import OperandMemory
from loralith.rtl.operands import BankSelect, OperandPath
from loralith.spec.config import PRESETS
from loralith.verif.block_test import assert_each_equal, simulate


class Scratchpad:
    """Words that depend on row and bank alone; answers a read ``OperandMemory.delay`` cycles later and holds its answer."""

    def __init__(self, width, banks, seed):
        self.width, self.banks, self.seed = width, banks, seed
        self.answers = [[None] * banks for _ in range(OperandMemory.delay)]

    def word(self, row, bank):
        return random.Random(f"{self.seed} {row} {bank}").getrandbits(self.width)

    def cycle(self, ctx, enables, row, data):
        """Shows what was read ``delay`` cycles ago, and takes the reads of this cycle."""
        for bank, word in enumerate(self.answers.pop(0)):
            if word is not None:
                ctx.set(data[bank], word)
        self.answers.append([self.word(row, bank) if enables >> bank & 1 else None for bank in range(self.banks)])


def draw_step(rng, config):
    fold_log2 = rng.randrange(config.max_fold.bit_length())
    return {
        "reads": int(rng.random() < 0.8),
        "accumulate_mode": rng.randrange(4),
        "fold_log2": fold_log2,
        "left_row": rng.randrange(100),
        "left_position": rng.randrange(200) << fold_log2,
        "right_row": rng.randrange(100),
        "right_position": rng.randrange(200),
        "last": rng.randrange(2),
        "depth": rng.randint(1, 16),
    }


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_each_lane_group_gets_its_slice_of_the_fold(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    W, dut = config.banks, OperandPath(config)
    left, right = Scratchpad(8 * config.rows, W, "left"), Scratchpad(8 * config.cols, W, "right")
    steps, sizes, got, want, controls = {}, {}, [], [], []

    async def bench(ctx):
        for cycle in range(150):
            left.cycle(ctx, ctx.get(dut.left_en), ctx.get(dut.left_row), dut.left_data)
            right.cycle(ctx, ctx.get(dut.right_en), ctx.get(dut.right_row), dut.right_data)
            valid = cycle < 130 and rng.random() < 0.7
            step = draw_step(rng, config)
            sizes[cycle] = (rng.randint(1, config.rows), rng.randint(1, config.cols))
            ctx.set(dut.valid, valid)
            ctx.set(dut.step, step | dict(zip(("rows", "cols"), sizes[cycle], strict=True)))
            if valid:
                steps[cycle] = step
            before = steps.get(cycle - dut.delay + 1)
            assert ctx.get(dut.array_valid) == (before is not None), f"cycle {cycle}"
            if before is not None:
                controls.append((before, ctx.get(dut.accumulate_mode), ctx.get(dut.last)))
            now = steps.get(cycle - dut.delay)
            if now is not None:
                want.append(model(now))
                read = [ctx.get(word) for word in dut.left] if now["reads"] else None
                got.append((read, ctx.get(dut.right.as_value())))
            counted = steps.get(cycle - MacCounter.delay)
            rows, cols = sizes.get(cycle - MacCounter.delay + 1, (0, 0))
            macs = rows * cols * counted["depth"] if counted and counted["reads"] else 0
            assert ctx.get(dut.macs) == macs, f"cycle {cycle}: {counted}"
            await ctx.tick()

    def model(step):
        if not step["reads"]:
            return None, 0
        position, per_slice = step["left_position"], config.max_fold >> step["fold_log2"]
        row = step["left_row"] + position // W
        lefts = [left.word(row, position % W + group // per_slice) for group in range(config.max_fold)]
        return lefts, right.word(step["right_row"] + step["right_position"] // W, step["right_position"] % W)

    simulate(dut, bench)
    assert_each_equal("operands of step", got, want, list(steps.values()))
    assert_each_equal(
        "control of step", [(base, last) for _, base, last in controls], [(s["accumulate_mode"], s["last"]) for s, _, _ in controls]
    )
    assert len(got) > 60


@pytest.mark.parametrize("banks", [1, 2, 4, 16])
def test_one_bank_s_word_two_cycles_later(banks):
    rng, dut, got, want = random.Random(banks), BankSelect(16, banks), [], []

    async def bench(ctx):
        for _ in range(40):
            words, bank = [rng.getrandbits(16) for _ in range(banks)], rng.randrange(banks)
            ctx.set(dut.words, words)
            ctx.set(dut.first_bank, bank)
            ctx.set(dut.first, 1)
            ctx.set(dut.second, 0)
            await ctx.tick()
            ctx.set(dut.words, [rng.getrandbits(16) for _ in range(banks)])
            ctx.set(dut.first, 0)
            ctx.set(dut.second_bank, bank)
            ctx.set(dut.second, 1)
            await ctx.tick()
            ctx.set(dut.second, 0)
            await ctx.tick()
            got.append(ctx.get(dut.word))
            want.append(words[bank])

    simulate(dut, bench)
    assert_each_equal("word", got, want)


def test_multiply_accumulates_are_rows_times_columns_times_depth():
    rng, dut, got, want = random.Random(7), MacCounter(), [], []

    async def bench(ctx):
        counts, step = [0] * dut.delay, None
        for _ in range(200):
            rows, cols = rng.randint(1, 64), rng.randint(1, 64)  # of the step before
            counts[-1] = rows * cols * step["depth"] if step else 0
            drawn = {"reads": rng.randrange(2), "depth": rng.randint(0, 16)}
            valid = rng.randrange(2)
            ctx.set(dut.step, drawn | {"rows": rows, "cols": cols})
            ctx.set(dut.valid, valid)
            step = drawn if valid and drawn["reads"] else None
            got.append(ctx.get(dut.macs))
            want.append(counts.pop(0))
            counts.append(0)
            await ctx.tick()

    simulate(dut, bench)
    assert_each_equal("cycle", got, want)
