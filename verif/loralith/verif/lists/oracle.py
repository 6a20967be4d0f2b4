"""Executes commands strictly in list order, as docs/machine.md defines them, and knows which bytes that page leaves unspecified.

Beside each memory lies a mask of the bytes whose content is not defined: what they reach is not compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loralith.spec.commands import LoadTarget, Opcode, StoreSource
from loralith.spec.config import Config
from loralith.spec.numerics import Q8_MAX, SHIFT_MAX, hash32
from loralith.verif.lists.drawn_places import Fields, ceil_div, elements
from loralith.verif.lists.oracle_checks import dram_row_bytes
from loralith.verif.lists.vector_oracle import VectorRun
from loralith.verif.lists.vector_state import Unspecified, VectorState, VectorStop

__all__ = ["Counts", "Oracle", "Sums"]


@dataclass
class Counts:
    """What the counters of one list must show. ``saturations`` is None once an unspecified result may have saturated."""

    commands: int = 0
    macs: int = 0
    saturations: int | None = 0
    bytes_read: int = 0
    bytes_written: int = 0
    read_bursts: int = 0
    write_bursts: int = 0
    busy: int = 0


@dataclass
class Sums:
    """Step 1 of a COMPUTE: v [M, N] as INT32 values, where it is unspecified, and t of ``device_shift``."""

    v: np.ndarray
    unknown: np.ndarray
    t: int = 0


@dataclass
class _Memory:
    data: np.ndarray
    unknown: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.unknown = np.zeros(self.data.shape, bool)


class Oracle:
    """The machine after reset, and ``dram`` (uint8) at ``base``. `counts` are those since `begin`."""

    def __init__(self, config: Config, base: int, dram: np.ndarray) -> None:
        self.config, self.base = config, base
        W, R, C = config.bus_bytes, config.rows, config.cols
        self.dram = _Memory(dram.copy())
        self.left = _Memory(np.zeros((config.left_depth, W, R), np.int8))
        self.right = _Memory(np.zeros((config.right_depth, W, C), np.int8))
        self.out = _Memory(np.zeros((config.out_depth, W, R), np.int8))
        self.acc = _Memory(np.zeros((config.acc_depth, R), np.int32))
        self.scale = _Memory(np.zeros(config.scale_depth * 4 * R, np.uint8))
        self.slot_max = [0] * config.stat_slots
        self.slot_saturations = [0] * config.stat_slots
        self.slot_unknown = [False] * config.stat_slots
        self.vector = VectorState(config) if config.vector_lanes else None
        self._tried: tuple[Fields, VectorState, int] | None = None
        self.counts = Counts()

    def begin(self) -> None:
        """A doorbell: counters start at zero, memories keep their content."""
        self.counts = Counts()

    def execute(self, c: Fields, address: int = 0) -> None:
        """One legal command, tokens aside, fetched from this address. Raises VectorStop where it ends the list while it runs, and
        Unspecified where the pages do not say what it does; what the vector unit's memories hold then is not specified."""
        self.counts.commands += 1
        self.counts.bytes_read += 128
        self.counts.read_bursts += self._bursts(address, 128)
        units = {Opcode.LOAD: self._load, Opcode.COMPUTE: self._compute, Opcode.STORE: self._store, Opcode.VECTOR: self._vector}
        units[Opcode(c["opcode"])](c)

    def permits(self, c: Fields) -> bool:
        """Whether a command that passes its checks also runs to its end; nothing but what `execute` keeps of it changes."""
        if c["opcode"] == Opcode.VECTOR:
            return self._try(c)
        if c["opcode"] == Opcode.LOAD and c["target"] > LoadTarget.BOTH:
            assert self.vector is not None
            try:
                VectorState(self.config).load(c, *self._read(c, c["row_bytes"]))
            except (VectorStop, Unspecified):
                return False
        return True

    # VECTOR

    def _try(self, c: Fields) -> bool:
        assert self.vector is not None
        state = self.vector.copy()
        run = VectorRun(c, state, (self.out.data, self.out.unknown), self.config)
        try:
            run.run()
        except (VectorStop, Unspecified):
            return False
        self._tried = c, state, run.clips
        return True

    def _vector(self, c: Fields) -> None:
        if self._tried is not None and self._tried[0] is c:
            _, self.vector, clips = self._tried
        else:
            assert self.vector is not None
            run = VectorRun(c, self.vector, (self.out.data, self.out.unknown), self.config)
            run.run()
            clips = run.clips
        self._tried = None
        self._saturate(clips, False)

    # LOAD

    def _load(self, c: Fields) -> None:
        W, stored = self.config.bus_bytes, dram_row_bytes(c)
        self.counts.bytes_read += c["rows"] * ceil_div(stored, W) * W
        self.counts.read_bursts += sum(self._bursts(c["address"] + i * c["row_stride"], stored) for i in range(c["rows"]))
        data, unknown = self._read(c, stored)
        if c["target"] > LoadTarget.BOTH:
            assert self.vector is not None
            self.vector.load(c, data, unknown)
            return
        if c["packed4"]:
            nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(c["rows"], -1)[:, : c["row_bytes"]].astype(np.int8)
            data = np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8)
            unknown = np.repeat(unknown, 2, axis=1)[:, : c["row_bytes"]]
        else:
            data = data.view(np.int8)
        target = c["target"]
        if target == 2:
            n = ceil_div(c["row_bytes"], W) * W
            start = c["base"] * 4 * self.config.rows
            self.scale.data[start : start + n] = np.pad(data[0].view(np.uint8), (0, n - c["row_bytes"]))
            self.scale.unknown[start : start + n] = np.pad(unknown[0], (0, n - c["row_bytes"]))
            return
        if target in (0, 3):
            self._fill(self.left, self.config.rows, c["base"], c["block_stride"], data, unknown, bool(c["transpose"]), c["pad_rows"])
        if target == 1:
            self._fill(self.right, self.config.cols, c["base"], c["block_stride"], data, unknown, bool(c["transpose"]), c["pad_rows"])
        if target == 3:
            self._fill(self.right, self.config.cols, c["right_base"], c["right_stride"], data, unknown, False, 0)

    def _read(self, c: Fields, stored: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of DRAM and which bytes of them are not known, [rows, stored]."""
        at = c["address"] - self.base + np.arange(c["rows"])[:, None] * (c["row_stride"] if c["rows"] > 1 else 0) + np.arange(stored)
        return self.dram.data[at], self.dram.unknown[at]

    def _fill(
        self, memory: _Memory, lanes: int, base: int, stride: int, data: np.ndarray, unknown: np.ndarray, transpose: bool, pad_rows: int
    ) -> None:
        """Write a matrix [rows, row_bytes] into a scratchpad, with the zeros that follow it."""
        W = self.config.bus_bytes
        unit = W if transpose else min(W, lanes)
        pad = ((0, pad_rows), (0, -data.shape[1] % unit))
        data, unknown = np.pad(data, pad), np.pad(unknown, pad)
        i, j = np.arange(data.shape[0])[:, None], np.arange(data.shape[1])[None, :]
        place = elements(base, stride, *((i, j) if transpose else (j, i)), lanes, W)
        memory.data[place], memory.unknown[place] = data, unknown

    # COMPUTE

    def sums(self, c: Fields) -> Sums:
        """v of every result; nothing changes."""
        M, N = c["m_rows"], c["n_cols"]
        t, unknown_t, left_shift = 0, False, c["shift"]
        if c["device_shift"]:
            slot = c["exponent_slot"]
            unknown_t = self.slot_unknown[slot]
            t = next((t for t in range(c["t_low"], c["t_high"]) if self.slot_max[slot] <= Q8_MAX << t), c["t_high"])
            if c["chained"]:
                left_shift -= c["t_high"] - t if c["shift_up"] else t - c["t_low"]
        v, unknown = self._segment(c, 0)
        if c["chained"]:
            more, unknown_too = self._segment(c, 1)
            v, unknown = (v << left_shift) + more, unknown | unknown_too
        if c["acc_read"]:
            m, n = np.arange(M)[:, None], np.arange(N)
            word, lane = c["acc_base"] + m // self.config.rows * c["acc_stride"] + n, m % self.config.rows
            v, unknown = v + self.acc.data[word, lane], unknown | self.acc.unknown[word, lane]
        if unknown_t:
            unknown = np.ones_like(unknown)
        return Sums(((v + (1 << 31)) & 0xFFFF_FFFF) - (1 << 31), unknown, t)

    def _segment(self, c: Fields, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The sum over a segment's steps, int64 [M, N], and where unspecified operands reach it."""
        config, fold = self.config, 1 << c["fold_log2"]
        R, C, W, width = config.rows, config.cols, config.bus_bytes, config.cols // fold
        k = np.arange(ceil_div(c[f"k{i}"], fold) * fold)
        m, n = np.arange(c["m_rows"])[:, None], np.arange(c["n_cols"])[None, :]
        at_left = elements(c[f"left{i}_base"], c[f"left{i}_stride"], m, k[None, :], R, W)
        lane = n // width * C + (k[:, None] % fold) * width + n % width
        at_right = elements(c[f"right{i}_base"], c[f"right{i}_stride"], lane, k[:, None] // fold, C, W)
        left, right = self.left.data[at_left].astype(np.int64), self.right.data[at_right].astype(np.int64)
        left_unknown, right_unknown = self.left.unknown[at_left], self.right.unknown[at_right]
        reached = np.zeros((c["m_rows"], c["n_cols"]), bool)
        if left_unknown.any() or right_unknown.any():
            any_left, any_right = (left != 0) | left_unknown, (right != 0) | right_unknown
            reached = (left_unknown.astype(np.int32) @ any_right + any_left.astype(np.int32) @ right_unknown) > 0
        return left @ right, reached

    def scales(self, c: Fields) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mantissa, shift and whether unspecified, for each result of an INT8 command: arrays that broadcast to [M, N]."""
        if c["scale_mode"] == 0:
            return np.array([[c["scale_m"]]]), np.array([[c["scale_n"]]]), np.array([[False]])
        count = c["m_rows"] if c["scale_mode"] == 1 else c["n_cols"]
        start = 4 * c["scale_base"] * self.config.rows
        entries = self.scale.data[start : start + 4 * count].view("<u4").astype(np.int64)
        unknown = np.asarray(self.scale.unknown[start : start + 4 * count].reshape(-1, 4)[:, :3].any(axis=1))
        shape = (-1, 1) if c["scale_mode"] == 1 else (1, -1)
        return (entries & 0xFFFF).reshape(shape), np.minimum(entries >> 16 & 63, SHIFT_MAX).reshape(shape), unknown.reshape(shape)

    def _compute(self, c: Fields) -> None:
        R, M, N = self.config.rows, c["m_rows"], c["n_cols"]
        sums = self.sums(c)
        v, unknown = sums.v, sums.unknown
        self.counts.macs += M * N * (c["k0"] + c["k1"])
        steps = sum(ceil_div(c[name], 1 << c["fold_log2"]) for name in ("k0", "k1"))
        self.counts.busy += ceil_div(M, R) * ceil_div(N, self.config.cols >> c["fold_log2"]) * steps
        blocks = ceil_div(M, R)
        past = [(0, blocks * R - M), (0, 0)]  # the lanes past M are written too, with unspecified content
        m, n = np.arange(blocks * R)[:, None], np.arange(N)[None, :]
        if c["acc_write"]:
            place = c["acc_base"] + m // R * c["acc_stride"] + n, m % R
            self.acc.data[place], self.acc.unknown[place] = np.pad(v, past), np.pad(unknown, past, constant_values=True)
        p, result, saturated = v, v, 0
        if c["out_mode"] == 1:
            mantissa, shift, unknown_scale = self.scales(c)
            if c["device_shift"] and not c["chained"]:
                shift = np.array([[sums.t]])
            unknown = unknown | unknown_scale
            p = v * mantissa
            result, clipped = self._requantize(p, shift, c)
            saturated = int((clipped & ~unknown).sum())
            self._saturate(saturated, bool(unknown.any()))
        if c["stat_enable"]:
            self._record(c, int(np.abs(p).max()), saturated, bool(unknown.any()))
        result, unknown = np.pad(result, past), np.pad(unknown, past, constant_values=True)
        if c["to_left"]:
            place = elements(c["result_base"], c["result_stride"], m, n, R, self.config.bus_bytes)
            self.left.data[place], self.left.unknown[place] = result.astype(np.int8), unknown
        if c["to_out"]:
            if c["out_mode"] == 2:
                result = np.ascontiguousarray(result.astype("<i4")).view(np.int8)
                unknown, n = np.repeat(unknown, 4, axis=1), np.arange(4 * N)[None, :]
            place = elements(c["out_base"], c["out_stride"], m, n, R, self.config.bus_bytes)
            self.out.data[place], self.out.unknown[place] = result.astype(np.int8), unknown

    @staticmethod
    def _requantize(p: np.ndarray, shift: np.ndarray, c: Fields) -> tuple[np.ndarray, np.ndarray]:
        """q and whether it was clipped, from p [M, N] (below 2**48) and shifts that broadcast to it."""
        if c["stochastic"]:
            m, n = np.arange(p.shape[0])[:, None], np.arange(p.shape[1])[None, :]
            index = c["index_base"] + m * c["index_row_stride"] + n * c["index_col_stride"] & 0xFFFF_FFFF
            h = hash32((c["key0"], c["key1"]), index.astype(np.uint64)).astype(np.int64)
            offset = np.where(shift <= 32, h >> np.maximum(32 - shift, 0), h << np.maximum(shift - 32, 0))
        else:
            offset = np.where(shift > 0, (1 << np.maximum(shift - 1, 0)) - 1 + (p >> shift & 1), 0)
        q = p + offset >> shift
        clipped = np.clip(q, -Q8_MAX, Q8_MAX)
        return clipped, clipped != q

    def _saturate(self, saturated: int, unknown: bool) -> None:
        if unknown or self.counts.saturations is None:
            self.counts.saturations = None
        else:
            self.counts.saturations += saturated

    def _record(self, c: Fields, largest: int, saturated: int, unknown: bool) -> None:
        slot = c["stat_slot"]
        if c["stat_clear"]:
            self.slot_max[slot], self.slot_saturations[slot], self.slot_unknown[slot] = 0, 0, False
        self.slot_max[slot] = max(self.slot_max[slot], largest)
        self.slot_saturations[slot] = (self.slot_saturations[slot] + saturated) & 0xFFFF_FFFF
        self.slot_unknown[slot] |= unknown

    # STORE

    def _store(self, c: Fields) -> None:
        config, rows, row_bytes = self.config, c["rows"], c["row_bytes"]
        if c["source"] == 1:
            slots = range(c["base"], c["base"] + row_bytes // 16)
            text = b"".join(self.slot_max[s].to_bytes(8, "little") + self.slot_saturations[s].to_bytes(8, "little") for s in slots)
            data = np.frombuffer(text, np.uint8)[None, :]
            unknown = np.repeat([self.slot_unknown[s] for s in slots], 16)[None, :]
        elif c["source"] > StoreSource.STATS:
            assert self.vector is not None
            data, unknown = self.vector.stored(c)
        else:
            i, j = np.arange(rows)[:, None], np.arange(row_bytes)[None, :]
            place = elements(c["base"], c["block_stride"], *((j, i) if c["transpose"] else (i, j)), config.rows, config.bus_bytes)
            data, unknown = self.out.data[place].view(np.uint8), self.out.unknown[place]
        for row in range(rows):
            start = c["address"] - self.base + row * c["row_stride"]
            self.dram.data[start : start + row_bytes], self.dram.unknown[start : start + row_bytes] = data[row], unknown[row]
        # Packed rows are one stretch of DRAM.
        transfers = [(0, rows * row_bytes)] if c["packed"] else [(row * c["row_stride"], row_bytes) for row in range(rows)]
        for offset, nbytes in transfers:
            self.counts.bytes_written += ceil_div(nbytes, config.bus_bytes) * config.bus_bytes
            self.counts.write_bursts += self._bursts(c["address"] + offset, nbytes)

    def _bursts(self, address: int, nbytes: int) -> int:
        """How many move this stretch: they end at 4 KiB lines, at `max_burst` words or at its end."""
        W, count = self.config.bus_bytes, 0
        first, end = address // W, (address + nbytes - 1) // W + 1
        while first < end:
            line = (first * W // 4096 + 1) * 4096 // W
            first = min(end, line, first + self.config.max_burst)
            count += 1
        return count
