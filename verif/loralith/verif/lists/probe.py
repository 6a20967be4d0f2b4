"""Commands that store what a case leaves in the memories: the output buffer and the slots, and what products show of the others."""

from __future__ import annotations

from collections.abc import Iterator

from loralith.spec.commands import Opcode
from loralith.verif.lists.case import BASE, Layout
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.drawn_places import Fields, ceil_div, fields_of

__all__ = ["probes"]

MAX_STORED = 256
"""Most bytes of a row of the output buffer, and most words of the accumulate buffer, that are stored: large memories are shown in part."""


def probes(draw: Draw) -> Iterator[Fields]:
    """Loads, products and stores; each is legal after those before it."""
    config, layout = draw.config, Layout()
    R, C, W = config.rows, config.cols, config.bus_bytes
    place = layout.dump

    def store(rows: int, row_bytes: int, **values: int) -> Fields:
        nonlocal place
        stride = ceil_div(row_bytes, W) * W
        command = fields_of(Opcode.STORE, rows=rows, row_bytes=row_bytes, row_stride=stride, address=BASE + place, **values)
        place += rows * stride
        return command

    def product(**values: int) -> Fields:
        return fields_of(Opcode.COMPUTE, out_mode=2, to_out=1, **values)

    rows = min(config.out_depth, MAX_STORED // W)
    yield store(R, rows * W, base=draw.upto(config.out_depth - rows, 0))
    slots = min(config.stat_slots, 16)
    yield store(1, 16 * slots, source=1, base=0)
    # Rows of the right scratchpad, times an identity; then rows of the left one.
    identity = {"address": BASE + layout.constants, "rows": W, "row_bytes": W, "row_stride": W, "transpose": 1}
    wanted = ceil_div(4 * max(C, W), W)  # rows of the output buffer
    if wanted * ceil_div(W, R) <= config.out_depth:
        at = _row(draw, "left", ceil_div(W, R))
        yield fields_of(Opcode.LOAD, target=0, base=at, block_stride=1, **identity)
        for _ in range(3):
            row = _row(draw, "right", 1)
            yield product(m_rows=W, n_cols=C, k0=W, left0_base=at, left0_stride=1, right0_base=row, out_stride=wanted)
            yield store(W, 4 * C, block_stride=wanted)
        at = _row(draw, "right", ceil_div(W, C))
        yield fields_of(Opcode.LOAD, target=1, base=at, block_stride=1, **identity)
        for _ in range(3):
            row = _row(draw, "left", 1)
            yield product(m_rows=R, n_cols=W, k0=W, left0_base=row, right0_base=at, right0_stride=1)
            yield store(R, 4 * W)
    # The accumulate buffer, plus zeros.
    zeros = {"address": BASE + layout.constants + W * W, "rows": 1, "row_bytes": R}
    words = min(config.acc_depth, MAX_STORED // 4, config.out_depth * W // 4)
    at = _row(draw, "left", 1)
    yield fields_of(Opcode.LOAD, target=0, base=at, pad_rows=W - 1, **zeros)
    if words * 4 <= config.out_depth * W:
        blocks = ceil_div(words, C)
        if blocks <= config.right_depth:
            for _ in range(2):
                start = draw.upto(config.acc_depth - words, 0)
                yield product(acc_read=1, acc_base=start, m_rows=R, n_cols=words, k0=1, left0_base=at, right0_stride=1)
                yield store(R, 4 * words)


def _row(draw: Draw, memory: str, rows: int) -> int:
    place = draw.region(memory, 1, rows)
    return place[0] if place else 0
