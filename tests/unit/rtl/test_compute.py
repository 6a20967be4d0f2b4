"""The compute unit in the Amaranth simulator against plain numpy formulas."""

import random

import numpy as np
import pytest

from loralith.rtl.compute import ComputeUnit
from loralith.rtl.memories import OutputMemory
from loralith.rtl.results import Results
from loralith.spec.commands import Command, Opcode, OutMode, ScaleMode
from loralith.spec.config import PRESETS
from loralith.spec.numerics import Requantization, hash32, hash_key, requantize
from loralith.spec.status import Check, Code
from loralith.verif.block_test import assert_each_equal, design

CONFIG = PRESETS["tiny"]
R, C, W = CONFIG.rows, CONFIG.cols, CONFIG.banks


class Bench:
    """Drives one compute unit: writes operands, runs a command, reads results."""

    def __init__(self, ctx, unit, rng):
        self.ctx, self.unit, self.rng = ctx, unit, rng

    async def write_matrix(self, right, matrix, base, stride):
        """matrix [lane][seq] INT8 into a scratchpad, one word per cycle."""
        ctx, unit = self.ctx, self.unit
        lanes = C if right else R
        for block in range(0, matrix.shape[0], lanes):
            for s in range(matrix.shape[1]):
                word = [int(v) & 255 for v in matrix[block : block + lanes, s]] + [0] * lanes
                payload = {
                    "right": int(right),
                    "row": base + block // lanes * stride + s // W,
                    "transpose": 0,
                    "bank_mask": 1 << s % W,
                    "lane_mask": (1 << lanes) - 1,
                    "seq": [0] * W,
                    "word": word[: max(R, C)],
                }
                ctx.set(unit.operand.payload, payload)
                ctx.set(unit.operand.valid, 1)
                await ctx.tick().until(unit.operand.ready)
                ctx.set(unit.operand.valid, 0)

    async def write_scales(self, entries, base):
        ctx, unit = self.ctx, self.unit
        image = b"".join(int(m | n << 16).to_bytes(4, "little") for m, n in entries)
        groups = 4 * R // W
        image += bytes(-len(image) % W)
        for beat in range(len(image) // W):
            ctx.set(
                unit.scale.payload,
                {"row": base + beat // groups, "group": beat % groups, "data": list(image[beat * W : beat * W + W])},
            )
            ctx.set(unit.scale.valid, 1)
            await ctx.tick()
        ctx.set(unit.scale.valid, 0)

    async def run(self, commands, timeout=3000):
        """Issue commands back to back; returns (completed, macs, saturations) or raises at the timeout."""
        ctx, unit = self.ctx, self.unit
        queue, done, macs, saturations = list(commands), 0, 0, 0
        for port in (unit.compute_wait, unit.segment_wait, unit.compute_read, unit.compute_done):
            ctx.set(port.ready, 1)
        for _ in range(timeout):
            if queue:
                ctx.set(unit.commands.payload.bits, int.from_bytes(queue[0].pack(), "little"))
                ctx.set(unit.commands.payload.index, len(commands) - len(queue))
            ctx.set(unit.commands.valid, bool(queue))
            for port in (unit.compute_wait, unit.segment_wait, unit.compute_read):
                ctx.set(port.ready, self.rng.randrange(2))
            if ctx.get(unit.commands.ready) and queue:
                queue.pop(0)
            done += ctx.get(unit.compute.complete)
            macs += ctx.get(unit.macs)
            saturations += ctx.get(unit.saturations)
            await ctx.tick()
            if ctx.get(unit.compute_fault.valid):
                return done, macs, saturations
            if done == len(commands) and not ctx.get(unit.compute.busy):
                return done, macs, saturations
        raise AssertionError("the command did not complete")

    async def read_out(self, rows, cols, base, stride, int32):
        ctx, unit = self.ctx, self.unit
        result = np.zeros((rows, cols), np.int64)
        per_row = []
        for row in range(rows):
            image = []
            for word in range(-(-cols * (4 if int32 else 1) // W)):
                ctx.set(unit.out_read.row, base + row // R * stride + word)
                ctx.set(unit.out_read.lane, row % R)
                ctx.set(unit.out_read.en, 1)
                await ctx.tick()
                ctx.set(unit.out_read.en, 0)
                await ctx.tick().repeat(OutputMemory.delay - 1)
                image += [int(ctx.get(unit.out_read.lane_data[i])) for i in range(W)]
            per_row.append(np.array(image, np.uint8))
        for row in range(rows):
            view = per_row[row].view("<i4" if int32 else np.int8)
            result[row] = view[:cols]
        return result

    async def read_stat(self, slot):
        ctx, unit = self.ctx, self.unit
        ctx.set(unit.stat_read.slot, slot)
        ctx.set(unit.stat_read.en, 1)
        await ctx.tick()
        ctx.set(unit.stat_read.en, 0)
        word = ctx.get(unit.stat_read.data)
        return word & (1 << 64) - 1, word >> 64 & (1 << 32) - 1


def run_unit(bench):
    compute = design(ComputeUnit, CONFIG)

    async def wrapped(ctx):
        await bench(ctx, compute.dut)

    compute.simulate(wrapped)


def fold_right(right, fold):
    """[K][N] as the folded right scratchpad takes it: per column block a matrix [lane][word]."""
    k, n = right.shape
    cols = C // fold
    steps, blocks = -(-k // fold), -(-n // cols)
    padded = np.zeros((steps * fold, blocks * cols), np.int8)
    padded[:k, :n] = right
    # byte g * cols + c of word t is padded[t * fold + g, c]
    return [padded[:, b * cols : (b + 1) * cols].reshape(steps, fold * cols).T for b in range(blocks)]  # each [C lanes][steps]


def rand8(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


async def place(bench, left, right, fold, left_base, right_base):
    """Write both operands; returns (left stride, right stride). K past the end is zero on the left."""
    k = left.shape[1]
    padded = np.zeros((left.shape[0], -(-k // W) * W), np.int8)
    padded[:, :k] = left
    steps = -(-k // fold)
    left_stride, right_stride = -(-k // W), -(-steps // W)
    await bench.write_matrix(False, padded, left_base, left_stride)
    for b, block in enumerate(fold_right(right, fold)):
        await bench.write_matrix(True, block, right_base + b * right_stride, right_stride)
    return left_stride, right_stride


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
