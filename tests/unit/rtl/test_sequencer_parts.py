"""The parts of the sequencer against integer models: derived facts, spacing of tiles, sizes and addresses."""

import random

import pytest

from loralith.rtl.array import AccumulateMode
from loralith.rtl.sequencer import StepRegister
from loralith.rtl.sequencer_control import StepControl
from loralith.rtl.sequencer_lookahead import PlanLookahead
from loralith.rtl.sequencer_spacing import TileSpacing
from loralith.rtl.sequencer_tiles import TileAddresses, TileCounter
from loralith.spec.commands import ScaleMode
from loralith.spec.config import PRESETS
from loralith.verif.block_test import assert_each_equal, simulate

MASK16, MASK32 = 0xFFFF, 0xFFFF_FFFF
FLAGS = ("acc_read", "acc_write", "stat_enable")


def draw_plan(rng, config):
    """The fields of a legal command that the parts look at."""
    fold_log2, chained = rng.randrange(config.max_fold.bit_length()), rng.randrange(2)
    fold = 1 << fold_log2
    k0, k1 = rng.randint(1, 3 * fold + 2), rng.randint(1, 2 * fold + 2) * chained
    return {
        "fold_log2": fold_log2,
        "chained": chained,
        "shift": rng.choice((0, 1, 2, 4, 5, 11, 16)) * chained,
        "m_rows": rng.randint(1, 3 * config.rows),
        "n_cols": rng.randint(1, 3 * config.cols // fold),
        "k0": k0,
        "k1": k1,
        "steps0": -(-k0 // fold),
        "steps1": -(-k1 // fold),
        "flags": {
            "scale_mode": int(rng.choice(list(ScaleMode))),
            "index_row_stride": rng.getrandbits(32),
            "index_col_stride": rng.getrandbits(32),
        },
        **{f"{name}_{part}": rng.getrandbits(16) for name in ("left0", "right0", "left1", "right1") for part in ("base", "stride")},
        **{f"{name}_{part}": rng.getrandbits(16) for name in ("out", "result", "acc") for part in ("base", "stride")},
        "scale_base": rng.getrandbits(16),
        "index_base": rng.getrandbits(32),
    }


def model_facts(plan, config):
    width, fold = config.cols >> plan["fold_log2"], 1 << plan["fold_log2"]
    return {
        "steps": [plan["steps0"], plan["steps1"]],
        "one_step": [int(plan["steps0"] == 1), int(plan["steps1"] == 1)],
        "last_depth": [(plan["k0"] - 1) % fold + 1, (plan["k1"] - 1) % fold + 1],
        "one_row_block": int(plan["m_rows"] <= config.rows),
        "one_col_block": int(plan["n_cols"] <= width),
        "tile_cols": width,
        "index_step": plan["flags"]["index_col_stride"] * width & MASK32,
    }


def read_facts(ctx, facts):
    pairs = {name: [ctx.get(facts[name][i]) for i in (0, 1)] for name in ("steps", "one_step", "last_depth")}
    return pairs | {name: ctx.get(facts[name]) for name in ("one_row_block", "one_col_block", "tile_cols", "index_step")}


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_facts_of_a_plan(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    plans = [draw_plan(rng, config) for _ in range(60)]
    dut, got = PlanLookahead(config), []

    async def bench(ctx):
        ctx.set(dut.valid, 1)
        for plan in plans:
            ctx.set(dut.plan, plan)
            await ctx.tick()
            got.append(read_facts(ctx, dut.facts))

    simulate(dut, bench)
    assert_each_equal("facts", got, [model_facts(plan, config) for plan in plans], plans)


def test_a_plan_is_offered_from_the_next_cycle_on_and_loaded_once():
    dut, seen = PlanLookahead(PRESETS["tiny"]), []

    async def bench(ctx):
        for valid, accept, stop in ((1, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0), (1, 0, 1), (0, 0, 0)):
            for port, value in ((dut.valid, valid), (dut.accept, accept), (dut.stop, stop)):
                ctx.set(port, value)
            seen.append((ctx.get(dut.offer), ctx.get(dut.load)))
            await ctx.tick()

    simulate(dut, bench)
    # Seen, offered, accepted, loaded, gone, stopped.
    assert_each_equal("cycle", seen, [(0, 0), (1, 0), (1, 0), (0, 1), (0, 0), (0, 0), (0, 0)])


def model_decisions(plan):
    """(segment, first, last, ends, shifts, shift that is still to be done, left position, right position) of a tile's steps."""
    fold, decisions = 1 << plan["fold_log2"], []
    for segment in range(1 + plan["chained"]):
        shift = plan["shift"]
        while segment and shift not in (0, 1, 4):
            decisions.append([1, 1, int(plan["steps1"] == 1), 0, 1, shift, 0, 0])
            shift -= 4 if shift >= 4 else 1
        for step in range(plan[f"steps{segment}"]):
            last = step + 1 == plan[f"steps{segment}"]
            decisions.append([segment, int(step == 0), int(last), int(last and segment == plan["chained"]), 0, shift, step * fold, step])
    return [tuple(decision) for decision in decisions]


@pytest.mark.parametrize("wait", [0, 5])
def test_decisions_follow_the_segments_and_a_held_tile_stops_them(wait):
    config, rng = PRESETS["tiny"], random.Random(wait)
    plans = [{**draw_plan(rng, config), "n_cols": 1, "segment_wait": 0} for _ in range(40)]
    for plan in plans:
        plan["m_rows"] = rng.randint(1, config.rows)  # one tile
        plan["segment_wait"] = wait * plan["chained"]
    dut, got, waits = StepControl(config), [], []

    async def bench(ctx):
        number, done = 0, 0
        for _ in range(20_000):
            plan = plans[min(number, len(plans) - 1)]
            ctx.set(dut.plan, plan)
            ctx.set(dut.facts, model_facts(plan, config))
            may_end, hold = rng.randrange(2), rng.randrange(2)
            for port, value in ((dut.offer, number < len(plans)), (dut.may_end, may_end), (dut.hold, hold)):
                ctx.set(port, value)
            ctx.set(dut.segment_wait.ready, rng.randrange(2))
            if ctx.get(dut.segment_wait.valid & dut.segment_wait.ready):
                waits.append(ctx.get(dut.segment_wait.mask))
            if ctx.get(dut.issue):
                now = dut.decision
                positions = (0, 0) if ctx.get(now.first) else (ctx.get(now.left_position), ctx.get(now.right_position))
                shift = ctx.get(now.shift) if ctx.get(now.segment) and ctx.get(now.first) else None
                flags = [ctx.get(getattr(now, name)) for name in ("segment", "first", "last", "ends", "shifts")]
                got.append((*flags, shift, *positions))
                assert ctx.get(dut.tile_ends) == flags[3]
                assert not flags[3] or (may_end and not hold), "a tile ends that must not"
                done += ctx.get(dut.command_ends)
            number += ctx.get(dut.accept)
            await ctx.tick()
            if done == len(plans):
                break
        assert not ctx.get(dut.active)

    simulate(dut, bench)
    want = [decision for plan in plans for decision in model_decisions(plan)]
    want = [(*d[:5], d[5] if d[0] and d[1] else None, *d[6:]) for d in want]
    assert_each_equal("decision", got, want)
    assert waits == [plan["segment_wait"] for plan in plans if plan["segment_wait"]]


def test_tiles_end_as_soon_as_the_drain_and_earlier_results_allow():
    config, rng = PRESETS["tiny"], random.Random(4)
    dut, got, want, stimuli = TileSpacing(config), [], [], []

    async def bench(ctx):
        ends: dict[int, tuple[int, bool]] = {}  # cycle in which a tile's last step was decided: its columns, whether a command ended
        first, flags, before, allowed = True, dict.fromkeys(FLAGS, 0), dict.fromkeys(FLAGS, 0), 0
        wait, active = 3, False
        for cycle in range(3000):
            wait -= 1
            if not active and wait == 0:
                flags = {name: rng.randrange(2) for name in FLAGS}
                ctx.set(dut.flags, flags)
            ctx.set(dut.accept, not active and wait < 0)  # what the flags mean is known a cycle after them
            ctx.set(dut.active, active)
            recent = [ends.get(cycle - age, (None, False)) for age in range(3)]
            ctx.set(dut.final, recent[1][1])
            ctx.set(dut.ended, recent[2][0] is not None)
            if recent[2][0] is not None:
                ctx.set(dut.cols, recent[2][0])
            last = max(ends, default=-100)
            soonest = last + max(TileSpacing.least_spacing, ends[last][0]) if ends else 0
            ctx.set(dut.tile_ends, 0)
            if active:
                expected = cycle >= max(soonest, allowed if first else 0)
                got.append(ctx.get(dut.may_end))
                want.append(int(expected))
                stimuli.append((cycle, first, flags, before, ends.get(last), last))
                if expected and rng.random() < 0.6:
                    command_ends = rng.random() < 0.5
                    ends[cycle] = (rng.randint(1, config.cols), command_ends)
                    ctx.set(dut.tile_ends, 1)
                    first = False
                    if command_ends:
                        active, wait, before = False, rng.randint(1, 9), flags
            elif ctx.get(dut.accept):
                follows = (flags["acc_read"] & before["acc_write"]) | (flags["stat_enable"] & before["stat_enable"])
                allowed = last + ends[last][0] + TileSpacing.result_spacing if follows and ends else 0
                active, first = True, True
            await ctx.tick()

    simulate(dut, bench)
    assert_each_equal("cycle", got, want, stimuli)


def tiles(plan, config):
    """(row block, column block, rows, columns) of a command's tiles."""
    width = config.cols >> plan["fold_log2"]
    return [
        (i, j, min(config.rows, plan["m_rows"] - row), min(width, plan["n_cols"] - col))
        for i, row in enumerate(range(0, plan["m_rows"], config.rows))
        for j, col in enumerate(range(0, plan["n_cols"], width))
    ]


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_sizes_of_a_command_s_tiles(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    dut, got, want, plans = TileCounter(config), [], [], [draw_plan(rng, config) for _ in range(20)]

    async def bench(ctx):
        for plan in plans:
            ctx.set(dut.plan, plan)
            ctx.set(dut.facts, model_facts(plan, config))
            ctx.set(dut.load, 1)
            await ctx.tick()
            ctx.set(dut.load, 0)
            blocks = tiles(plan, config)
            for i, j, rows, cols in blocks:
                await ctx.tick()
                last_col = j == max(block[1] for block in blocks)
                want.append(
                    (
                        int((i, j) == (0, 0)),
                        int(last_col),
                        int((i, j) == blocks[-1][:2]),
                        j * (config.cols >> plan["fold_log2"]),
                        rows,
                        cols,
                    )
                )
                got.append(tuple(ctx.get(value) for value in (dut.first, dut.last_col_block, dut.is_last_tile, dut.n, dut.rows, dut.cols)))
                ctx.set(dut.last, 1)
                await ctx.tick()
                ctx.set(dut.last, 0)
                assert ctx.get(dut.ended & dut.size_known)
                await ctx.tick()

    simulate(dut, bench)
    assert_each_equal("tile", got, want)


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_addresses_of_a_command_s_tiles(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    dut, got, want, plans = TileAddresses(config), [], [], [draw_plan(rng, config) for _ in range(20)]
    names = ("out_row", "result_row", "acc_row", "scale_word", "index")

    async def bench(ctx):
        for plan in plans:
            ctx.set(dut.plan, plan)
            ctx.set(dut.facts, model_facts(plan, config))
            ctx.set(dut.load, 1)
            await ctx.tick()
            ctx.set(dut.load, 0)
            width, by_row, blocks = config.cols >> plan["fold_log2"], plan["flags"]["scale_mode"] == ScaleMode.ROW, tiles(plan, config)
            for i, j, _, _ in blocks:
                index = (
                    plan["index_base"] + i * config.rows * plan["flags"]["index_row_stride"] + j * width * plan["flags"]["index_col_stride"]
                )
                want.append(
                    {f"left_row{s}": plan[f"left{s}_base"] + i * plan[f"left{s}_stride"] & MASK16 for s in (0, 1)}
                    | {f"right_row{s}": plan[f"right{s}_base"] + j * plan[f"right{s}_stride"] & MASK16 for s in (0, 1)}
                    | {f"{n}_row": plan[f"{n}_base"] + i * plan[f"{n}_stride"] & MASK16 for n in ("out", "result", "acc")}
                    | {"scale_word": plan["scale_base"] + i * by_row & MASK16, "index": index & MASK32}
                )
                rows = {f"{side}_row{s}": ctx.get(getattr(dut.place, f"{side}_row")[s]) for side in ("left", "right") for s in (0, 1)}
                got.append(rows | {name: ctx.get(dut.place[name]) for name in names})
                last_col = j == max(block[1] for block in blocks)
                ctx.set(dut.next_rows, last_col)
                ctx.set(dut.next_cols, not last_col)
                await ctx.tick()
            ctx.set(dut.next_rows, 0)
            ctx.set(dut.next_cols, 0)

    simulate(dut, bench)
    assert_each_equal("tile", got, want)


def test_the_step_that_leaves_is_the_decision_of_the_cycle_before():
    rng, dut, got, want, stimuli = random.Random(6), StepRegister(), [], [], []
    names = ("reads", "accumulate_mode", "fold_log2", "left_position", "right_position", "last", "depth")

    async def bench(ctx):
        for _ in range(200):
            d: dict = {name: rng.randrange(2) for name in ("segment", "first", "last", "ends", "shifts")}
            d |= {"shift": rng.choice((0, 1, 3, 4, 9)), "fold_log2": rng.randrange(5), "last_depth": [rng.randint(1, 16) for _ in range(2)]}
            d |= {"left_position": rng.getrandbits(17), "right_position": rng.getrandbits(17)}
            issue, tile_ends, command_ends = (rng.randrange(2) for _ in range(3))
            for port, value in ((dut.decision, d), (dut.issue, issue), (dut.tile_ends, tile_ends), (dut.command_ends, command_ends)):
                ctx.set(port, value)
            await ctx.tick()
            depth = 0 if d["shifts"] else d["last_depth"][d["segment"]] if d["last"] else 1 << d["fold_log2"]
            mode = AccumulateMode.KEEP
            if d["first"]:
                shifted = AccumulateMode.SHIFT4 if d["shift"] >= 4 else AccumulateMode.SHIFT1
                mode = AccumulateMode.CLEAR if not d["segment"] else shifted if d["shift"] else AccumulateMode.KEEP
            positions = (0, 0) if d["first"] else (d["left_position"], d["right_position"])
            want.append((issue, tile_ends, command_ends, d["segment"], 1 - d["shifts"], mode, d["fold_log2"], *positions, d["ends"], depth))
            seen = [ctx.get(port) for port in (dut.valid, dut.last, dut.final, dut.segment)]
            got.append((*seen, *(ctx.get(getattr(dut.step, name)) for name in names)))
            stimuli.append(d)

    simulate(dut, bench)
    assert_each_equal("step", got, want, stimuli)
