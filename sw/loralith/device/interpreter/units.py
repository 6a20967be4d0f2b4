"""LOAD, COMPUTE and STORE on numpy arrays, as docs/machine.md defines them. The fields have passed all checks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import as_strided

from loralith.device.arithmetic import exact_product, hash_indices, requantize_array
from loralith.device.interpreter.command_checks import dram_row_bytes
from loralith.device.interpreter.onchip import Memories
from loralith.device.interpreter.vector_transfers import load_vector, store_vector
from loralith.spec.commands import STAT_BYTES, LoadTarget, OutMode, ScaleMode, StoreSource
from loralith.spec.config import Config
from loralith.spec.numerics import SHIFT_MAX, least_shift

__all__ = ["compute", "load", "store"]

Fields = Mapping[str, int]


def _dram_rows(dram: np.ndarray, address: int, c: Fields) -> np.ndarray:
    """View of DRAM, uint8 [rows, bytes of a row there]; `address` is relative to `dram`."""
    stride = c["row_stride"] if c["rows"] > 1 else 0
    return as_strided(dram[address:], (c["rows"], dram_row_bytes(c)), (stride, 1))


def _elements(rows: np.ndarray, c: Fields) -> np.ndarray:
    """int8 [rows, row_bytes] of what `_dram_rows` gives a LOAD: of a packed one each byte is two INT4, the low nibble's first."""
    if not c["packed4"]:
        return rows.view(np.int8)
    low, high = (rows << 4).view(np.int8) >> 4, np.ascontiguousarray(rows).view(np.int8) >> 4
    return np.stack([low, high], axis=-1).reshape(len(rows), -1)[:, : c["row_bytes"]]


def load(c: Fields, dram: np.ndarray, address: int, memories: Memories, config: Config) -> None:
    """Run a LOAD from `dram` uint8; `address` is relative to it."""
    if c["target"] > LoadTarget.BOTH:
        assert memories.vector is not None
        load_vector(c, _dram_rows(dram, address, c), memories.vector)
        return
    source = _elements(_dram_rows(dram, address, c), c)
    W = config.banks
    if c["target"] == LoadTarget.SCALE:
        row = np.zeros(-(-c["row_bytes"] // W) * W, np.int8)
        row[: c["row_bytes"]] = source[0]
        cells = memories.scale.reshape(-1).view(np.int8)
        first = c["base"] * 4 * config.rows
        cells[first : first + row.size] = row
        return
    plane = memories.right if c["target"] == LoadTarget.RIGHT else memories.left
    base, stride, rows, nbytes = c["base"], c["block_stride"], c["rows"], c["row_bytes"]
    if c["transpose"]:
        for cells, lanes in plane.pieces(base, stride, rows, -(-nbytes // W) * W):
            cells[:nbytes] = source[lanes].T
            cells[nbytes:] = 0
        if c["target"] != LoadTarget.BOTH:
            return
        plane, base, stride = memories.right, c["right_base"], c["right_stride"]
    unit = min(W, plane.lanes)
    for cells, lanes in plane.pieces(base, stride, -(-nbytes // unit) * unit, rows + c["pad_rows"]):
        n = min(lanes.stop, nbytes) - lanes.start
        cells[:rows, :n] = source[:, lanes.start : lanes.start + n]
        cells[:rows, n:] = 0
        cells[rows:] = 0


def _segment(c: Fields, i: int, memories: Memories, config: Config) -> np.ndarray:
    """Sums of one segment, int64 [M, N]: every step's products, those of k past the end included."""
    fold = 1 << c["fold_log2"]
    steps = -(-c[f"k{i}"] // fold)
    width = config.cols // fold
    K, M, N = steps * fold, c["m_rows"], c["n_cols"]
    left = memories.left.matrix(c[f"left{i}_base"], c[f"left{i}_stride"], M, K)
    tiles = -(-N // width)
    right = np.empty((K, tiles, width), np.int8)
    for t in range(tiles):
        right[:, t] = memories.right.block(c[f"right{i}_base"], c[f"right{i}_stride"], t, steps).reshape(K, width)
    return exact_product(left, right.reshape(K, tiles * width)[:, :N]).astype(np.int64)


def _wrapped(values: np.ndarray) -> np.ndarray:
    """Modulo 2**32, as int32."""
    return values.astype(np.uint64).astype(np.uint32).view(np.int32)


def _add_accumulated(v: np.ndarray, c: Fields, memories: Memories, config: Config) -> np.ndarray:
    """`v` with the accumulate buffer added and written back, row block by row block."""
    M, N = v.shape
    R = config.rows
    for i in range(-(-M // R)):
        rows = v[i * R : (i + 1) * R]
        first = c["acc_base"] + i * c["acc_stride"]
        words = memories.acc[first : first + N, : len(rows)]
        if c["acc_read"]:
            rows += words.T  # int32 wraps
        if c["acc_write"]:
            words[:] = rows.T
    return v


def _scales(c: Fields, memories: Memories, config: Config) -> tuple[np.ndarray | int, np.ndarray | int]:
    """(mantissa, shift), each one value or an array that broadcasts with [M, N]."""
    if c["scale_mode"] == ScaleMode.TENSOR:
        return c["scale_m"], _t(c, memories) if c["device_shift"] and not c["chained"] else c["scale_n"]
    per_row = c["scale_mode"] == ScaleMode.ROW
    count = c["m_rows"] if per_row else c["n_cols"]
    first = c["scale_base"] * config.rows
    entries = memories.scale.reshape(-1)[first : first + count].astype(np.int64)
    entries = entries[:, None] if per_row else entries[None, :]
    return entries & 0xFFFF, np.minimum(entries >> 16 & 0x3F, SHIFT_MAX)


def _t(c: Fields, memories: Memories) -> int:
    """What a command with `device_shift` makes of its slot's maximum."""
    return least_shift(int(memories.stat_max[c["exponent_slot"]]), c["t_low"], c["t_high"])


def _left_shift(c: Fields, memories: Memories) -> int:
    """Of a chained command."""
    if not c["device_shift"]:
        return c["shift"]
    t = _t(c, memories)
    return c["shift"] - (c["t_high"] - t if c["shift_up"] else t - c["t_low"])


def compute(c: Fields, memories: Memories, config: Config) -> tuple[int, int]:
    """Run a COMPUTE. Returns: array steps taken, results that saturated."""
    total = _segment(c, 0, memories, config)
    if c["chained"]:
        total = (total << _left_shift(c, memories)) + _segment(c, 1, memories, config)
    v = _wrapped(total)
    if c["acc_read"] or c["acc_write"]:
        v = _add_accumulated(v, c, memories, config)
    M, N = v.shape
    saturated = 0
    p, result = v.astype(np.int64) if c["stat_enable"] else v, v
    if c["out_mode"] == OutMode.INT8:
        h = None
        if c["stochastic"]:
            strides = c["index_base"], c["index_row_stride"], c["index_col_stride"]
            h = hash_indices((c["key0"], c["key1"]), *strides, M, N)
        result, p, saturated = requantize_array(v, *_scales(c, memories, config), h)
    if c["stat_enable"]:
        _record(c, int(np.max(np.abs(p))), saturated, memories)
    if c["to_out"]:
        image = result.T if c["out_mode"] == OutMode.INT8 else _bytes_of(result)
        for cells, lanes in memories.out.pieces(c["out_base"], c["out_stride"], M, len(image)):
            cells[:] = image[:, lanes]
    if c["to_left"]:
        for cells, lanes in memories.left.pieces(c["result_base"], c["result_stride"], M, N):
            cells[:] = result[lanes].T
    fold = 1 << c["fold_log2"]
    tiles = -(-M // config.rows) * -(-N // (config.cols // fold))
    return tiles * (-(-c["k0"] // fold) + -(-c["k1"] // fold)), saturated


def _bytes_of(v: np.ndarray) -> np.ndarray:
    """INT32 results [M, N] as they lie in the output buffer: int8 [4N, M], little endian."""
    return np.ascontiguousarray(v, "<i4").view(np.int8).T


def _record(c: Fields, largest: int, saturated: int, memories: Memories) -> None:
    slot = c["stat_slot"]
    if c["stat_clear"]:
        memories.stat_max[slot] = memories.stat_saturations[slot] = 0
    memories.stat_max[slot] = max(int(memories.stat_max[slot]), largest)
    memories.stat_saturations[slot] = (int(memories.stat_saturations[slot]) + saturated) & 0xFFFF_FFFF


def store(c: Fields, dram: np.ndarray, address: int, memories: Memories) -> None:
    """Run a STORE to `dram` uint8; `address` is relative to it."""
    target = _dram_rows(dram, address, c).view(np.int8)
    base = c["base"]
    if c["source"] > StoreSource.STATS:
        assert memories.vector is not None
        rows = np.empty(target.shape, np.int8)
        store_vector(c, rows, memories.vector)
        _in_order(target, rows)
    elif c["source"] == StoreSource.STATS:
        slots = slice(base, base + c["row_bytes"] // STAT_BYTES)
        image = np.zeros((slots.stop - slots.start, 2), "<u8")
        image[:, 0] = memories.stat_max[slots]
        image[:, 1] = memories.stat_saturations[slots]
        target[0] = image.reshape(-1).view(np.int8)
    elif c["transpose"]:
        rows = np.empty(target.shape, np.int8)
        for cells, lanes in memories.out.pieces(base, c["block_stride"], c["row_bytes"], c["rows"]):
            rows[:, lanes] = cells
        _in_order(target, rows)
    else:
        for cells, lanes in memories.out.pieces(base, c["block_stride"], c["rows"], c["row_bytes"]):
            _in_order(target[lanes], cells.T)


def _in_order(target: np.ndarray, rows: np.ndarray) -> None:
    """Each row's bytes to its place, a later row over an earlier one where they overlap: numpy promises no order of its own."""
    if target.strides[0] >= target.shape[1]:
        target[:] = rows
    else:
        for place, row in zip(target, rows, strict=True):
            place[:] = row
