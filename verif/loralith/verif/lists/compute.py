"""Draws COMPUTEs whose results docs/machine.md defines."""

from __future__ import annotations

import numpy as np

from loralith.spec.commands import Opcode
from loralith.spec.numerics import K_LIMIT, MANTISSA_MIN, Q8_MAX, SHIFT_MAX
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.footprint import overlaps_itself
from loralith.verif.lists.places import Fields, compute_regions, fields_of

__all__ = ["draw_compute"]

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
UNUSED = ("left1_base", "left1_stride", "right1_base", "right1_stride", "out_base", "out_stride", "result_base", "result_stride", "acc_base",
          "acc_stride", "scale_m", "scale_n", "stat_slot", "scale_base", "exponent_slot", "t_low", "t_high", "shift_up", "stat_clear",
          "key0", "key1", "index_base", "index_row_stride", "index_col_stride", "stochastic")  # fmt: skip


def draw_compute(draw: Draw) -> Fields | None:
    config, rng, R, W = draw.config, draw.rng, draw.config.rows, draw.config.bus_bytes
    fields = fields_of(Opcode.COMPUTE)
    widths = {f.name: f.width for f in _record_fields()}
    c = fields | {name: draw.bits(widths[name]) for name in UNUSED}
    fold_log2 = int(rng.integers(config.max_fold.bit_length()))
    width = config.cols >> fold_log2
    M = draw.upto(draw.upto(3) * R)
    N = draw.upto(draw.upto(4) * width) if draw.chance(0.8) else draw.upto(3)
    mode = int(rng.choice([0, 1, 1, 2]))
    c |= {"fold_log2": fold_log2, "m_rows": M, "n_cols": N, "out_mode": mode, "k0": _length(draw, W)}
    if draw.chance(0.35):
        c |= {"chained": 1, "k1": _length(draw, W)}
        shift = int(rng.choice([0, draw.upto(6, 0), draw.upto(16, 0)]))
        while (c["k0"] << shift) + c["k1"] > K_LIMIT:
            shift -= 1
        c["shift"] = shift
    c["acc_read"], c["acc_write"] = int(draw.chance(0.25)), int(draw.chance(0.3))
    c["to_out"] = int(mode > 0 and draw.chance(0.8))
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
    if draw.chance(0.3):
        _device_shift(draw, c)
    reads, writes = compute_regions(c, config)
    operands = [r for r in reads if r.memory == "left"]
    written = [r for r in writes if r.memory == "left"]
    if any(overlaps_itself([a, b]) for a in operands for b in written) or overlaps_itself(writes):
        return None
    return _scaled(draw, c)


def _record_fields():
    from loralith.spec.commands import COMPUTE

    return COMPUTE.fields.values()


def _length(draw: Draw, W: int) -> int:
    return draw.upto(int(draw.rng.choice([3, 2 * W, 2 * W, 3 * W, 12 * W])))


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
    c |= {"device_shift": 1, "exponent_slot": slot, "t_low": low, "t_high": min(low + draw.upto(most, 0), SHIFT_MAX)}


def _scaled(draw: Draw, c: Fields) -> Fields | None:
    """The command with a scale that leaves something of its sums, or None where results would not be defined."""
    sums = draw.oracle.sums(c)
    if sums.unknown.any() and not draw.chance(0.1):
        return None
    if c["out_mode"] != 1:
        return c
    if c["scale_mode"]:
        _, shift, unknown = draw.oracle.scales(c)
        return None if unknown.any() or (shift > SHIFT_MAX).any() else c
    c["scale_m"] |= MANTISSA_MIN
    if draw.chance(0.7):
        largest = int(np.abs(sums.v).max()) * c["scale_m"]
        c["scale_n"] = min(max(largest.bit_length() - 7 + draw.upto(2, -2), 0), SHIFT_MAX)
    else:
        c["scale_n"] = draw.upto(SHIFT_MAX, 0)
    return c
