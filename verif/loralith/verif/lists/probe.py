"""Commands that store what a case leaves in the memories: the output buffer and the slots, and what products show of the others."""

from __future__ import annotations

from collections.abc import Iterator

from loralith.spec.commands import Opcode, StoreSource, VectorFormat
from loralith.spec.vector.program import INSTRUCTION, LANE_REGISTERS, SCALARS, Operand, Target
from loralith.verif.lists.case import BASE, Layout
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.drawn_places import Fields, ceil_div, depth_of, fields_of
from loralith.verif.lists.drawn_vector import Programming

__all__ = ["probes"]

SHOWN_WORDS = 40
"""Words of each vector scratchpad that are stored."""
VECTOR_DUMP = 0x8000
"""Bytes for all of them."""
MAX_STORED = 256
"""Most bytes of a row of the output buffer, and most words of the accumulate buffer, that are stored: large memories are shown in part."""


def probes(draw: Draw, programming: Programming) -> Iterator[Fields]:
    """Loads, products and stores; each is legal after those before it. Vector memories first, while the output buffer is as it was."""
    config, layout = draw.config, Layout()
    R, C, W = config.rows, config.cols, config.bus_bytes
    place = layout.dump

    if config.vector_lanes:
        yield from _vector_probes(draw, programming)
        place += VECTOR_DUMP

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


def _vector_probes(draw: Draw, programming: Programming) -> Iterator[Fields]:
    """The scalars, part of each scratchpad as words and as bytes, then the lane registers by way of V0."""
    config = draw.config
    L, W, place = config.vector_lanes, config.bus_bytes, Layout().dump
    size = ceil_div(4 * L * SHOWN_WORDS, W) * W

    def store(**values: int) -> Fields:
        nonlocal place
        command = fields_of(Opcode.STORE, rows=1, address=BASE + place, **values)
        place += size
        return command

    yield store(source=StoreSource.SCALARS, row_bytes=4 * SCALARS)
    for source, memory in ((StoreSource.V0, "v0"), (StoreSource.V1, "v1")):
        words = min(depth_of(memory, config), SHOWN_WORDS)
        base = min(draw.stretch[memory][0], depth_of(memory, config) - words)
        yield store(source=source, row_bytes=4 * L * words, base=base)
        yield store(source=source, row_bytes=L * words, base=base, format=VectorFormat.INT8)
    codes = [{"b": Operand.L0 + i, "target": Target.V0, "target_region": i, "once": 1} for i in range(LANE_REGISTERS)]
    # Where other registers are not known, one may be.
    for codes_of in (codes, *([code] for code in codes)):
        data = b"".join(INSTRUCTION.pack(code) for code in codes_of)
        yield programming.load(data, 0, W)
        vector = {f"region{i}_base": i for i in range(LANE_REGISTERS)}
        yield fields_of(Opcode.VECTOR, count=len(codes_of), outer=1, inner=1, lanes=L, **vector)
        yield store(source=StoreSource.V0, row_bytes=4 * L * LANE_REGISTERS)
        if draw.oracle.vector is not None and not draw.oracle.vector.registers.unknown.any():
            return


def _row(draw: Draw, memory: str, rows: int) -> int:
    place = draw.region(memory, 1, rows)
    return place[0] if place else 0
