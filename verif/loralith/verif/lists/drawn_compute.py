"""Draws COMPUTEs whose results docs/machine.md defines."""

from __future__ import annotations

import numpy as np

from loralith.spec.commands import COMPUTE, Opcode
from loralith.spec.numerics import K_LIMIT, MANTISSA_MIN, Q8_MAX, SHIFT_MAX
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.drawn_places import Fields, ceil_div, compute_regions, fields_of
from loralith.verif.lists.oracle_footprint import overlaps_itself

__all__ = ["UNUSED", "draw_compute"]

# Base and stride of each region by the name of its check.
NAMES = {
    "LEFT": ("left0_base", "left0_stride"),
    "LEFT2": ("left1_base", "left1_stride"),
    "RIGHT": ("right0_base", "right0_stride"),
    "RIGHT2": ("right1_base", "right1_stride"),
    "OUT": ("out_base", "out_stride"),
    "LEFT_RESULT": ("result_base", "result_stride"),
    "ACC": ("acc_base", "acc_stride"),
    "SCALE": ("scale_base", ""),
}
# Fields that nothing looks at unless `draw_compute` sets them.
UNUSED = ("left1_base", "left1_stride", "right1_base", "right1_stride", "out_base", "out_stride",
          "result_base", "result_stride", "acc_base", "acc_stride", "scale_m", "scale_n", "stat_slot", "scale_base",
          "exponent_slot", "t_low", "t_high", "shift_up", "stat_clear",
          "key0", "key1", "index_base", "index_row_stride", "index_col_stride", "stochastic")  # fmt: skip


def draw_compute(draw: Draw) -> Fields | None:
    config, rng, R, W = draw.config, draw.rng, draw.config.rows, draw.config.bus_bytes
    c = fields_of(Opcode.COMPUTE) | {name: draw.bits(COMPUTE.fields[name].width) for name in UNUSED}
    fold_log2 = 0 if draw.chance(0.3) else int(rng.integers(config.max_fold.bit_length()))
    width = config.cols >> fold_log2
    earlier = draw.last_compute
    close = earlier is not None and draw.close > 0
    M = draw.upto(draw.upto(1 if close else 3) * R)
    N = draw.upto(draw.upto(3)) if close or draw.chance(0.2) else draw.upto(draw.upto(4) * width)
    if not close and draw.chance(0.4):
        N = ceil_div(N, width) * width  # a last tile that takes longest to drain
    mode = int(rng.choice([0, 1, 1, 2]))
    integers = bool(config.vector_lanes) and draw.chance(0.5)  # for the vector unit: no lane of which is not specified
    if integers:
        M, mode = ceil_div(M, R) * R, 2
    c |= {"fold_log2": fold_log2, "m_rows": M, "n_cols": N, "out_mode": mode, "k0": draw.upto(draw.upto(3)) if close else _length(draw, W)}
    if draw.chance(0.2 if close else 0.35):
        c |= {"chained": 1, "k1": draw.upto(2) if close else _length(draw, W)}
        shift = int(rng.choice([0, draw.upto(6, 0), draw.upto(16, 0)]))
        while (c["k0"] << shift) + c["k1"] > K_LIMIT:
            shift -= 1
        c["shift"] = shift
    c["acc_read"], c["acc_write"] = int(draw.chance(0.25)), int(draw.chance(0.4))
    c["to_out"] = int(mode > 0 and (integers or draw.chance(0.8)))
    c["to_left"] = int(mode == 1 and draw.chance(0.35))
    c["scale_mode"] = int(rng.choice([0, 0, 1, 2]))
    c["stat_enable"] = int(draw.chance(0.5))
    if c["stat_enable"]:
        c["stat_slot"] = _slot(draw)
    reads, writes = compute_regions(c, config)
    for region in dict.fromkeys((*reads, *writes)):
        if region.memory == "stat":
            continue
        place = draw.region(region.memory, region.blocks, region.rows)
        if place is None:
            return None
        base, stride = NAMES[region.role]
        c[base] = place[0]
        if stride:
            c[stride] = place[1]
    if close and earlier is not None and draw.chance(0.8):
        _follow(draw, c, earlier)
    if draw.chance(0.3):
        _device_shift(draw, c)
    reads, writes = compute_regions(c, config)
    operands = [r for r in reads if r.memory == "left"]
    written = [r for r in writes if r.memory == "left"]
    if any(overlaps_itself([a, b]) for a in operands for b in written) or overlaps_itself(writes):
        return None
    scaled = _scaled(draw, c)
    if scaled is not None:
        draw.last_compute = scaled
        if integers:
            draw.integers = [*draw.integers[-3:], (c["out_base"] * W // 4, N)]
        if close:
            draw.close -= 1
        elif c["k0"] >= 3 * W or draw.chance(0.1):
            draw.close = draw.upto(4, 0)
    return scaled


def _follow(draw: Draw, c: Fields, earlier: Fields) -> None:
    """Have the command read what the earlier one writes last: accumulator words, or its left result as an operand."""
    if earlier["acc_write"]:
        c["acc_read"] = 1
        first = earlier["acc_base"] + (draw.upto((earlier["m_rows"] - 1) // draw.config.rows, 0)) * earlier["acc_stride"]
        c["acc_base"] = max(first + earlier["n_cols"] - draw.upto(c["n_cols"] + 2), 0)
        c["acc_stride"] = max(earlier["acc_stride"], c["n_cols"]) & 0xFFFF
        blocks = (c["m_rows"] - 1) // draw.config.rows
        if c["acc_base"] + blocks * c["acc_stride"] + c["n_cols"] > draw.config.acc_depth:
            c["acc_base"], c["acc_stride"] = 0, c["n_cols"]
            c["m_rows"] = min(c["m_rows"], draw.config.rows)
    if earlier["to_left"] and draw.chance(0.5):
        name = "left1" if c["chained"] and draw.chance(0.5) else "left0"
        c[f"{name}_base"] = earlier["result_base"]


def _length(draw: Draw, W: int) -> int:
    return draw.upto(int(draw.rng.choice([3, 2 * W, 3 * W, 12 * W])))


def _slot(draw: Draw) -> int:
    """Mostly one of a few."""
    return draw.upto(min(3, draw.config.stat_slots - 1) if draw.chance(0.8) else draw.config.stat_slots - 1, 0)


def _device_shift(draw: Draw, c: Fields) -> None:
    if not c["chained"] and (c["out_mode"] != 1 or c["scale_mode"]):
        return
    slot = _slot(draw)
    largest = draw.oracle.slot_max[slot]
    t = next((t for t in range(SHIFT_MAX) if largest <= Q8_MAX << t), SHIFT_MAX)
    low = min(max(t + draw.upto(2, -5), 0), SHIFT_MAX)
    most = c["shift"] if c["chained"] else draw.upto(10, 0)
    high = SHIFT_MAX if not c["chained"] and draw.chance(0.1) else min(low + draw.upto(most, 0), SHIFT_MAX)
    c |= {"device_shift": 1, "exponent_slot": slot, "t_low": low, "t_high": high}


def _scaled(draw: Draw, c: Fields) -> Fields | None:
    """The command with a scale that leaves something of its sums, or None where results would not be defined."""
    sums = draw.oracle.sums(c)
    if sums.unknown.any() and not draw.chance(0.1):
        return None
    if c["out_mode"] != 1:
        return c
    if c["scale_mode"]:
        return None if draw.oracle.scales(c)[2].any() else c
    c["scale_m"] |= MANTISSA_MIN
    if draw.chance(0.7):
        largest = int(np.abs(sums.v).max()) * c["scale_m"]
        c["scale_n"] = min(max(largest.bit_length() - 7 + draw.upto(2, -2), 0), SHIFT_MAX)
    else:
        c["scale_n"] = draw.upto(SHIFT_MAX, 0)
    return c
