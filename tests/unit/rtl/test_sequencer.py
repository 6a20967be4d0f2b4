"""The sequencer against loops over tiles, segments and k."""

import random

import pytest
from amaranth.lib import data

from loralith.rtl.array import AccumulateMode
from loralith.rtl.sequencer import Sequencer
from loralith.rtl.tile import CommandFlags, Plan
from loralith.spec.commands import ScaleMode
from loralith.spec.config import PRESETS, Config
from loralith.verif.block_test import assert_each_equal, simulate

MASK16, MASK32 = 0xFFFF, 0xFFFF_FFFF


def draw_plan(rng: random.Random, config: Config, **fixed: int) -> dict:
    """Random fields of a legal command, small enough for a few tiles; ``flags`` apart."""
    flags = {name: rng.getrandbits(member.width) for name, member in CommandFlags}
    flags["scale_mode"] = int(rng.choice(list(ScaleMode)))
    plan: dict = {name: rng.getrandbits(member.width) for name, member in Plan if name != "flags"} | {"flags": flags}
    plan["fold_log2"] = rng.randrange(config.max_fold.bit_length())
    plan["chained"] = rng.randrange(2)
    fold = 1 << plan["fold_log2"]
    plan["m_rows"], plan["n_cols"] = rng.randint(1, 2 * config.rows + 1), rng.randint(1, 2 * config.cols // fold + 1)
    plan["k0"] = rng.randint(1, 3 * fold + 2)
    for name, value in (("k1", rng.randint(1, 2 * fold + 1)), ("shift", rng.randint(0, 16)), ("segment_wait", rng.choice((0, 5)))):
        plan[name] = value * plan["chained"]
    plan |= fixed
    plan["steps0"], plan["steps1"] = -(-plan["k0"] // fold), -(-plan["k1"] // fold)
    return plan


def model_steps(plan: dict, segment: int) -> list[dict]:
    """The steps of one segment, whichever tile: what the array does, and positions."""
    fold, k = 1 << plan["fold_log2"], plan[f"k{segment}"]
    steps, mode = [], AccumulateMode.CLEAR
    if segment:
        stages = [4] * (plan["shift"] // 4) + [1] * (plan["shift"] % 4)
        modes = [AccumulateMode.SHIFT4 if stage == 4 else AccumulateMode.SHIFT1 for stage in stages] or [AccumulateMode.KEEP]
        steps = [{"reads": 0, "accumulate_mode": one, "depth": 0, "last": 0} for one in modes[:-1]]
        mode = modes[-1]
    for number, at in enumerate(range(0, k, fold)):
        step = {"reads": 1, "accumulate_mode": mode, "depth": min(fold, k - at), "last": 0, "left_position": at, "right_position": number}
        steps.append(step)
        mode = AccumulateMode.KEEP
    return steps


def model(plan: dict, config: Config) -> tuple[list[list[dict]], list[dict]]:
    """(the steps of each tile, the tiles) of a command."""
    width = config.cols >> plan["fold_log2"]
    flags = plan["flags"]
    all_steps, tiles = [], []
    for i, row in enumerate(range(0, plan["m_rows"], config.rows)):
        for j, col in enumerate(range(0, plan["n_cols"], width)):
            rows, cols = min(config.rows, plan["m_rows"] - row), min(width, plan["n_cols"] - col)
            steps = []
            for s in range(1 + plan["chained"]):
                where = {
                    "left_row": plan[f"left{s}_base"] + i * plan[f"left{s}_stride"] & MASK16,
                    "right_row": plan[f"right{s}_base"] + j * plan[f"right{s}_stride"] & MASK16,
                }
                steps += [{**step, **where, "rows": rows, "cols": cols, "fold_log2": plan["fold_log2"]} for step in model_steps(plan, s)]
            steps[-1]["last"] = 1
            all_steps.append(steps)
            tiles.append(
                {
                    "flags": flags,
                    "fold_log2": plan["fold_log2"],
                    "rows": rows,
                    "cols": cols,
                    "first": int((i, j) == (0, 0)),
                    "last": int(row + rows == plan["m_rows"] and col + cols == plan["n_cols"]),
                    "n": col,
                    "out_row": plan["out_base"] + i * plan["out_stride"] & MASK16,
                    "result_row": plan["result_base"] + i * plan["result_stride"] & MASK16,
                    "acc_word": plan["acc_base"] + i * plan["acc_stride"] + col & MASK16,
                    "scale_word": plan["scale_base"] + i * (flags["scale_mode"] == ScaleMode.ROW) & MASK16,
                    "index": plan["index_base"] + row * flags["index_row_stride"] + col * flags["index_col_stride"] & MASK32,
                }
            )
    return all_steps, tiles


def plain(layout: data.Layout, bits: int) -> dict:
    """The fields of a struct's bits as integers."""
    found = {}
    for name, member in layout:
        value = bits >> member.offset & (1 << member.width) - 1
        found[name] = plain(member.shape, value) if isinstance(member.shape, data.Layout) else value
    return found


class Run:
    """One run of the sequencer over ``plans``: all that left it, and in which cycle.

    With ``stall`` plans, tokens and permissions come at random times. Before them the command ``stopped`` is begun and stopped.
    """

    def __init__(self, config: Config, plans: list[dict], *, stall: float = 0.0, seed: int = 0, stopped: dict | None = None) -> None:
        self.steps, self.step_cycles, self.tiles, self.segment_waits, self.read_signals = [], [], [], [], []
        self.dut = dut = Sequencer(config)
        self.rng, self.stall = random.Random(seed), stall
        count = sum(len(model(plan, config)[1]) for plan in plans)

        async def bench(ctx):
            queue, captures, cycle = list(plans), [], 0
            if stopped is not None:
                await self.stop(ctx, stopped)
            while len(self.tiles) < count or len(self.read_signals) < len(plans):
                if queue:
                    ctx.set(dut.plans.payload, queue[0])
                ctx.set(dut.plans.valid, bool(queue) and not (ctx.get(dut.plans.valid) == 0 and self.stalls()))
                ctx.set(dut.hold, self.stalls())
                for port, seen in ((dut.segment, self.segment_waits), (dut.read_signal, self.read_signals)):
                    ctx.set(port.ready, not self.stalls())
                    if ctx.get(port.valid & port.ready):
                        seen.append(ctx.get(port.mask))
                step = plain(dut.step.shape(), ctx.get(dut.step.as_value()))
                if self.step_cycles and self.step_cycles[-1] == cycle - 1:  # the tile's size comes a cycle after the step
                    self.steps[-1] |= {"rows": step["rows"], "cols": step["cols"]}
                if ctx.get(dut.valid):
                    self.steps.append(step)
                    self.step_cycles.append(cycle)
                    if self.steps[-1]["last"]:
                        captures.append(cycle + dut.tile_delay)
                if captures and captures[0] == cycle:
                    self.tiles.append(plain(dut.tile.shape(), ctx.get(dut.tile.as_value())))
                    captures.pop(0)
                if queue and ctx.get(dut.plans.ready & dut.plans.valid):
                    queue.pop(0)
                await ctx.tick()
                cycle += 1
                assert cycle < 5000, f"{len(self.tiles)} of {count} tiles came"
            assert not ctx.get(dut.active)

        simulate(dut, bench)

    async def stop(self, ctx, plan: dict) -> None:
        """Begins a command and stops it; two cycles later no step leaves any more."""
        ctx.set(self.dut.plans.payload, plan)
        ctx.set(self.dut.plans.valid, 1)
        await ctx.tick().until(self.dut.plans.ready)
        ctx.set(self.dut.plans.valid, 0)
        await ctx.tick().repeat(3)
        assert ctx.get(self.dut.valid)
        ctx.set(self.dut.stop, 1)
        await ctx.tick().repeat(2)
        for _ in range(50):
            assert not ctx.get(self.dut.valid | self.dut.active)
            await ctx.tick()
        ctx.set(self.dut.stop, 0)

    def stalls(self) -> bool:
        return self.rng.random() < self.stall


def relevant(steps: list[dict]) -> list[dict]:
    """``steps`` without the addresses of those that read nothing."""
    return [step if step["reads"] else {name: step[name] for name in ("reads", "accumulate_mode", "last", "depth")} for step in steps]


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_steps_and_tiles_are_those_of_the_loops(preset, stall):
    config, rng = PRESETS[preset], random.Random(preset)
    plans = [draw_plan(rng, config) for _ in range(30)]
    run = Run(config, plans, stall=stall)
    wanted = [model(plan, config) for plan in plans]
    owners = [plan for plan, (tiles, _) in zip(plans, wanted, strict=True) for steps in tiles for _ in steps]
    assert_each_equal("step", relevant(run.steps), relevant([s for tiles, _ in wanted for steps in tiles for s in steps]), owners)
    assert_each_equal("tile", run.tiles, [tile for _, tiles in wanted for tile in tiles])
    assert_each_equal("read signal", run.read_signals, [plan["read_signal"] for plan in plans], plans)
    assert_each_equal("segment wait", run.segment_waits, [plan["segment_wait"] for plan in plans if plan["segment_wait"]])


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_a_step_leaves_in_each_cycle_but_for_the_drain_and_for_results_to_come(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    plans = [draw_plan(rng, config, segment_wait=0) for _ in range(40)]
    run = Run(config, plans)
    now, last_end, spacing, results, want = run.step_cycles[0] - 1, -100, 0, -100, []
    before = dict.fromkeys(("acc_write", "stat_enable"), 0)
    for plan in plans:
        follows = (plan["flags"]["acc_read"] and before["acc_write"]) or (plan["flags"]["stat_enable"] and before["stat_enable"])
        tiles, _ = model(plan, config)
        for number, steps in enumerate(tiles):
            for step in steps:
                now += 1
                if step["last"]:
                    now = max(now, last_end + spacing, results if follows and number == 0 else 0)
                want.append(now)
            last_end, spacing = now, max(Sequencer.least_spacing, steps[-1]["cols"])
        results, before = last_end + tiles[-1][-1]["cols"] + Sequencer.result_spacing, plan["flags"]
    assert_each_equal("cycle of step", run.step_cycles, want)


def test_the_first_step_and_the_read_signal_come_as_late_as_the_sequencer_says():
    config, dut = PRESETS["tiny"], Sequencer(PRESETS["tiny"])
    plan = draw_plan(random.Random(1), config, k0=1, chained=0, k1=0, m_rows=1, n_cols=1)

    async def bench(ctx):
        ctx.set(dut.plans.payload, plan)
        ctx.set(dut.plans.valid, 1)
        for port, delay in ((dut.valid, dut.start_delay), (dut.read_signal.valid, dut.read_delay)):
            for _ in range(delay):
                assert not ctx.get(port)
                await ctx.tick()
            assert ctx.get(port)

    simulate(dut, bench)


def test_after_stop_no_step_leaves_and_a_new_command_runs_from_its_start():
    config, rng = PRESETS["tiny"], random.Random(1)
    stopped = draw_plan(rng, config, k0=40, segment_wait=0)
    plans = [draw_plan(rng, config) for _ in range(3)]
    run = Run(config, plans, stopped=stopped)
    assert_each_equal("step", relevant(run.steps), relevant([s for plan in plans for steps in model(plan, config)[0] for s in steps]))
