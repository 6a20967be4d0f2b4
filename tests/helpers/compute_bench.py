"""The compute unit of configuration tiny in a simulation: operands in, a command, results out."""

from __future__ import annotations

import numpy as np

from loralith.rtl.compute import ComputeUnit
from loralith.rtl.memories import OutputMemory
from loralith.spec.config import PRESETS
from loralith.verif.block_test import design

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
