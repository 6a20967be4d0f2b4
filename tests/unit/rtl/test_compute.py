"""The compute unit in the Amaranth simulator against plain numpy formulas."""

import random

import numpy as np
import pytest

from helpers.compute_bench import Bench, W, fold_right, place, rand8, run_unit
from loralith.rtl.results import Results
from loralith.spec.commands import Command, Opcode, OutMode, ScaleMode
from loralith.spec.numerics import Requantization, hash32, hash_key, requantize
from loralith.spec.status import Check, Code
from loralith.verif.block_test import assert_each_equal


@pytest.mark.parametrize("fold", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 4, 4), (5, 3, 7), (9, 6, 16), (3, 13, 30)])
def test_int32_product(fold, shape):
    rows, cols, k = shape
    rng = np.random.default_rng(fold * 100 + k)
    left, right = rand8(rng, rows, k), rand8(rng, k, cols)

    async def bench(ctx, unit):
        b = Bench(ctx, unit, random.Random(1))
        left_stride, right_stride = await place(b, left, right, fold, 3, 5)
        out_stride = -(-4 * cols // W)
        command = Command.make(
            Opcode.COMPUTE,
            fold_log2=fold.bit_length() - 1,
            out_mode=OutMode.INT32,
            to_out=1,
            m_rows=rows,
            n_cols=cols,
            k0=k,
            left0_base=3,
            left0_stride=left_stride,
            right0_base=5,
            right0_stride=right_stride,
            out_base=2,
            out_stride=out_stride,
            stat_enable=1,
            stat_clear=1,
            stat_slot=3,
        )
        done, macs, saturations = await b.run([command])
        assert (done, macs, saturations) == (1, rows * cols * k, 0)
        want = left.astype(np.int64) @ right.astype(np.int64)
        assert_each_equal("row", (await b.read_out(rows, cols, 2, out_stride, True)).tolist(), want.tolist(), left.tolist())
        assert await b.read_stat(3) == (abs(want).max(), 0)

    run_unit(bench)


@pytest.mark.parametrize("stochastic", [0, 1])
@pytest.mark.parametrize(
    ("scale_mode", "shifts"),  # each shift with one mode: sums are shifted before anything is scaled
    [(ScaleMode.TENSOR, (0, 2, 5, 9)), (ScaleMode.ROW, (1, 4, 8)), (ScaleMode.COLUMN, (3, 7, 12))],
    ids=["tensor", "row", "column"],
)
def test_int8_chain_with_shift(stochastic, scale_mode, shifts):
    """Two segments, every shift, all scale modes, results to the output buffer and the left scratchpad."""
    rows, cols, k0, k1 = 6, 7, 19, 5
    rng = np.random.default_rng(7)
    lefts, rights = [rand8(rng, rows, k0), rand8(rng, rows, k1)], [rand8(rng, k0, cols), rand8(rng, k1, cols)]
    key = hash_key(3, 4, 5)
    entries = [(int(rng.integers(32768, 65536)), int(rng.integers(8, 30))) for _ in range(16)]

    async def bench(ctx, unit):
        b = Bench(ctx, unit, random.Random(2))
        l0, r0 = await place(b, lefts[0], rights[0], 1, 0, 0)
        l1, r1 = await place(b, lefts[1], rights[1], 1, 20, 20)
        await b.write_scales(entries, 1)
        total_saturated = 0
        for shift in shifts:
            command = Command.make(
                Opcode.COMPUTE,
                chained=1,
                shift=shift,
                out_mode=OutMode.INT8,
                to_out=1,
                to_left=1,
                stochastic=stochastic,
                scale_mode=scale_mode,
                scale_m=entries[0][0],
                scale_n=entries[0][1],
                scale_base=1,
                m_rows=rows,
                n_cols=cols,
                k0=k0,
                k1=k1,
                left0_stride=l0,
                left1_base=20,
                left1_stride=l1,
                right0_stride=r0,
                right1_base=20,
                right1_stride=r1,
                out_base=4,
                out_stride=1,
                result_base=40,
                result_stride=1,
                key0=key[0],
                key1=key[1],
                index_base=77,
                index_row_stride=1000,
                index_col_stride=3,
                stat_enable=1,
                stat_slot=2,
                stat_clear=1,
            )
            done, macs, saturations = await b.run([command])
            assert (done, macs) == (1, rows * cols * (k0 + k1))
            acc = ((lefts[0].astype(np.int64) @ rights[0]) << shift) + lefts[1].astype(np.int64) @ rights[1]
            want, most, clipped = np.zeros_like(acc), 0, 0
            for i in range(rows):
                for j in range(cols):
                    m, n = entries[{ScaleMode.TENSOR: 0, ScaleMode.ROW: i, ScaleMode.COLUMN: j}[scale_mode]]
                    h = hash32(key, 77 + 1000 * i + 3 * j) if stochastic else None
                    q, p, over = requantize(int(acc[i, j]), Requantization(m, n), h)
                    want[i, j], most, clipped = q, max(most, p), clipped + over
            assert_each_equal(f"row, shift {shift},", (await b.read_out(rows, cols, 4, 1, False)).tolist(), want.tolist(), acc.tolist())
            assert await b.read_stat(2) == (most, clipped)
            assert saturations == clipped
            total_saturated += clipped
            # The copy in the left scratchpad times the identity.
            identity = np.eye(8, cols, dtype=np.int8)[:cols]
            for at, block in enumerate(fold_right(identity, 1)):
                await b.write_matrix(True, block, 60 + at, 1)
            check = Command.make(
                Opcode.COMPUTE,
                out_mode=OutMode.INT32,
                to_out=1,
                m_rows=rows,
                n_cols=cols,
                k0=cols,
                left0_base=40,
                left0_stride=1,
                right0_base=60,
                right0_stride=1,
                out_base=8,
                out_stride=4,
            )
            await b.run([check])
            assert_each_equal(f"row of the copy, shift {shift},", (await b.read_out(rows, cols, 8, 4, True)).tolist(), want.tolist())
        assert total_saturated > 0

    run_unit(bench)


def test_accumulate_buffer_over_commands():
    """Sums over blocks, back to back, down to one step and one column a tile."""
    rows, cols, k = 4, 1, 4
    rng = np.random.default_rng(3)
    blocks = [(rand8(rng, rows, k), rand8(rng, k, cols)) for _ in range(6)]

    async def bench(ctx, unit):
        b = Bench(ctx, unit, random.Random(3))
        commands = []
        for i, (left, right) in enumerate(blocks):
            l0, r0 = await place(b, left, right, 4, i, i)
            last = i == len(blocks) - 1
            commands.append(
                Command.make(
                    Opcode.COMPUTE,
                    fold_log2=2,
                    acc_read=int(i > 0),
                    acc_write=int(not last),
                    out_mode=OutMode.INT32 if last else OutMode.NONE,
                    to_out=int(last),
                    m_rows=rows,
                    n_cols=cols,
                    k0=k,
                    left0_base=i,
                    left0_stride=l0,
                    right0_base=i,
                    right0_stride=r0,
                    acc_base=9,
                    out_stride=1,
                )
            )
        done, macs, _ = await b.run(commands)
        assert (done, macs) == (len(blocks), len(blocks) * rows * cols * k)
        want = sum(left.astype(np.int64) @ right for left, right in blocks)
        assert_each_equal("row", (await b.read_out(rows, cols, 0, 1, True)).tolist(), want.tolist())

    run_unit(bench)


GOOD = {"out_mode": 2, "to_out": 1, "m_rows": 4, "n_cols": 4, "k0": 8, "out_stride": 2}


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        ({"fold_log2": 3}, Code.BAD_FIELD, Check.ENUM),
        ({"out_mode": 3}, Code.BAD_FIELD, Check.ENUM),
        ({"scale_mode": 3}, Code.BAD_FIELD, Check.ENUM),
        ({"shift": 1}, Code.BAD_FIELD, Check.ENUM),
        ({"to_left": 1}, Code.BAD_FIELD, Check.ENUM),
        ({"out_mode": 0}, Code.BAD_FIELD, Check.ENUM),
        ({"k0": 0}, Code.BAD_FIELD, Check.SIZE),
        ({"k1": 3}, Code.BAD_FIELD, Check.SIZE),
        ({"m_rows": 0}, Code.BAD_FIELD, Check.SIZE),
        ({"n_cols": 0}, Code.BAD_FIELD, Check.SIZE),
        ({"chained": 1, "k1": 1, "shift": 15}, Code.BAD_FIELD, Check.SIZE),
        ({"out_mode": 1, "scale_m": 32767}, Code.BAD_FIELD, Check.SIZE),
        ({"left0_base": 128}, Code.SCRATCHPAD_BOUNDS, Check.LEFT),
        ({"m_rows": 8, "left0_stride": 128}, Code.SCRATCHPAD_BOUNDS, Check.LEFT),
        ({"chained": 1, "k1": 9, "left1_base": 127}, Code.SCRATCHPAD_BOUNDS, Check.LEFT2),
        ({"n_cols": 5, "right0_stride": 65535}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
        ({"chained": 1, "k1": 1, "right1_base": 128}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT2),
        ({"out_base": 63}, Code.SCRATCHPAD_BOUNDS, Check.OUT),
        ({"acc_write": 1, "acc_base": 61}, Code.SCRATCHPAD_BOUNDS, Check.ACC),
        ({"out_mode": 1, "scale_mode": 1, "scale_base": 64}, Code.SCRATCHPAD_BOUNDS, Check.SCALE),
        ({"stat_enable": 1, "stat_slot": 16}, Code.SCRATCHPAD_BOUNDS, Check.STAT),
    ],
)
def test_bad_commands_are_refused(change, code, detail):
    async def bench(ctx, unit):
        b = Bench(ctx, unit, random.Random(4))
        done, _, _ = await b.run([Command.make(Opcode.COMPUTE, **{**GOOD, **change})])
        assert done == 0
        assert (Code(ctx.get(unit.compute_fault.code)), Check(ctx.get(unit.compute_fault.detail))) == (code, detail)
        # After the controller has stopped and cleared the unit, a good command runs.
        ctx.set(unit.compute.stop, 1)
        await ctx.tick().repeat(3)
        assert not ctx.get(unit.compute.busy)
        ctx.set(unit.compute.clear, 1)
        await ctx.tick()
        ctx.set(unit.compute.clear, 0)
        ctx.set(unit.compute.stop, 0)
        done, macs, _ = await b.run([Command.make(Opcode.COMPUTE, **GOOD)])
        assert (done, macs) == (1, 4 * 4 * 8)

    run_unit(bench)


@pytest.mark.parametrize("port", ["compute_read", "compute_done"])
def test_no_mask_is_lost_while_its_semaphore_has_no_room(port):
    """Commands of one step end one after the other, more of them than can wait, while their tokens cannot be given."""
    commands = [
        Command.make(
            Opcode.COMPUTE, **{**GOOD, "n_cols": 1, "m_rows": 1, "k0": 1}, read_signal=0x100 + i, signal=0x200 + i, stat_enable=i % 2
        )
        for i in range(3 * Results.queue_depth)
    ]
    masks = {"compute_read": [c["read_signal"] for c in commands], "compute_done": [c["signal"] for c in commands]}

    async def bench(ctx, unit):
        queue, seen = list(commands), {"compute_read": [], "compute_done": []}
        for name in ("compute_wait", "segment_wait", "compute_read", "compute_done"):
            ctx.set(getattr(unit, name).ready, 1)
        for cycle in range(1500):
            ctx.set(getattr(unit, port).ready, cycle >= 700 or cycle % 200 == 199)
            ctx.set(unit.commands.valid, bool(queue))
            if queue:
                ctx.set(unit.commands.payload.bits, int.from_bytes(queue[0].pack(), "little"))
            for name, masks_seen in seen.items():
                signal = getattr(unit, name)
                if ctx.get(signal.valid & signal.ready):
                    masks_seen.append(ctx.get(signal.mask))
            if queue and ctx.get(unit.commands.ready):
                queue.pop(0)
            await ctx.tick()
            if cycle == 600:
                assert len(seen[port]) == 3, "of those that wait only one goes with each opportunity"
        assert not ctx.get(unit.compute.busy)
        assert seen == masks

    run_unit(bench)
