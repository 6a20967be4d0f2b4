"""Draws LOADs and STOREs."""

from __future__ import annotations

from loralith.spec.commands import Opcode
from loralith.verif.lists.case import BASE, Layout
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.drawn_places import Fields, ceil_div, fields_of, load_regions
from loralith.verif.lists.oracle_footprint import overlaps_itself

__all__ = ["draw_load", "draw_store", "place_rows"]

LAYOUT = Layout()


def place_rows(draw: Draw, c: Fields, stored: int, start: int, end: int) -> Fields | None:
    """The command with an address and a row stride between these offsets; ``stored`` bytes a row. None where it does not fit."""
    W = draw.config.bus_bytes
    rows = c["rows"]
    stride = ceil_div(stored, W) * W
    kind = draw.rng.random()
    if kind < 0.3:
        stride += W * draw.upto(8, 0)
    elif kind < 0.4:
        stride = W * draw.upto(ceil_div(stored, W), 0)  # rows that overlap
    elif kind < 0.45:
        stride = W * draw.upto(4096 // W, 0)
    if c.get("packed"):
        stride = c["row_bytes"]
    extent = (rows - 1) * stride + stored
    if extent > end - start:
        return None
    last = (end - start - extent) // W
    # Near a 4 KiB line, or anywhere.
    at = (draw.upto((end - start) // 4096, 0) * 4096 - W * draw.upto(6, 0)) // W if draw.chance(0.3) else draw.upto(last, 0)
    address = BASE + start + W * min(max(at, 0), last)
    if rows == 1 and not c.get("packed") and draw.chance(0.5):
        stride = draw.bits(32)
    return {**c, "address": address, "row_stride": stride}


def draw_load(draw: Draw) -> Fields | None:
    config, W = draw.config, draw.config.bus_bytes
    targets = [0, 1, 2] + [3] * (config.cols >= W)
    target = int(draw.rng.choice(targets))
    c = fields_of(Opcode.LOAD, target=target, right_base=draw.bits(16), right_stride=draw.bits(16))
    if target == 2:
        words = draw.upto(min(6, config.scale_depth))
        place = draw.region("scale", 1, words)
        if place is None:
            return None
        c |= {"rows": 1, "row_bytes": draw.upto(4 * config.rows * words, 4 * config.rows * (words - 1) + 1), "base": place[0]}
        return place_rows(draw, c, c["row_bytes"], LAYOUT.scales, LAYOUT.data)
    lanes = config.cols if target == 1 else config.rows
    most = draw.upto(3) * lanes
    seq = 3 * W if draw.chance(0.9) else 20 * W
    c["packed4"] = int(draw.chance(0.3))
    if target == 3 or draw.chance(0.5):
        c |= {"transpose": 1, "rows": draw.upto(most), "row_bytes": draw.upto(seq)}
    else:
        c |= {"rows": draw.upto(seq), "row_bytes": draw.upto(most), "pad_rows": draw.upto(draw.upto(2 * W)) if draw.chance(0.4) else 0}
    names = (("base", "block_stride"), ("right_base", "right_stride"))
    for region, (base, stride) in zip(load_regions(c, config), names, strict=False):
        place = draw.region(region.memory, region.blocks, region.rows)
        if place is None:
            return None
        c[base], c[stride] = place
    if overlaps_itself(load_regions(c, config)):
        return None
    stored = ceil_div(c["row_bytes"], 1 + c["packed4"])
    whole = draw.chance(0.1)
    return place_rows(draw, c, stored, LAYOUT.constants if whole else LAYOUT.data, LAYOUT.dump)


def draw_store(draw: Draw) -> Fields | None:
    config, W, R = draw.config, draw.config.bus_bytes, draw.config.rows
    c = fields_of(Opcode.STORE)
    if draw.chance(0.15):
        slots = draw.upto(min(6, config.stat_slots))
        base = draw.upto(config.stat_slots - slots, 0)
        return place_rows(draw, c | {"source": 1, "rows": 1, "row_bytes": 16 * slots, "base": base}, 16 * slots, LAYOUT.data, LAYOUT.dump)
    lanes, seq = draw.upto(draw.upto(3) * R), draw.upto(4 * W if draw.chance(0.9) else 20 * W)
    c["transpose"] = int(draw.chance(0.5))
    if draw.chance(0.2):
        width = 1 << draw.upto(W.bit_length() - 2, 0)
        c["packed"] = 1
        lanes, seq = (width, seq) if c["transpose"] else (lanes, width)
    place = draw.region("out", ceil_div(lanes, R), ceil_div(seq, W))
    if place is None:
        return None
    rows, row_bytes = (seq, lanes) if c["transpose"] else (lanes, seq)
    c |= {"rows": rows, "row_bytes": row_bytes, "base": place[0], "block_stride": place[1]}
    return place_rows(draw, c, row_bytes, LAYOUT.data, LAYOUT.dump)
