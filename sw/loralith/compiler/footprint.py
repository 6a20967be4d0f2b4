"""What a command reads and writes: rows of on-chip memories by stage, and bytes of DRAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loralith.compiler.stages import Stage
from loralith.spec.commands import STAT_BYTES, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
from loralith.spec.config import Config

__all__ = ["Footprint", "Use", "footprint"]


@dataclass(frozen=True)
class Use:
    """Rows of `memory` that a stage reads or writes: half-open `ranges`. `second`: only once the second segment may start."""

    stage: Stage
    memory: str
    write: bool
    ranges: tuple[tuple[int, int], ...]
    second: bool = False


@dataclass(frozen=True)
class Footprint:
    """Bytes of DRAM: `rows` of `row_bytes`, `stride` apart."""

    address: int
    rows: int
    row_bytes: int
    stride: int

    @property
    def past(self) -> int:
        """First byte after the last one."""
        return self.address + (self.rows - 1) * self.stride + self.row_bytes

    def overlaps(self, other: Footprint) -> bool:
        """Whether any byte is in both; true in doubt where the strides differ."""
        if self.past <= other.address or other.past <= self.address:
            return False
        stride = self.stride
        if stride != other.stride or not 0 < max(self.row_bytes, other.row_bytes) <= stride:
            return True
        offset = (other.address - self.address) % stride
        return offset < self.row_bytes or offset + other.row_bytes > stride


def _ranges(base: int, stride: int, blocks: int, rows: int) -> tuple[tuple[int, int], ...]:
    if blocks == 1 or stride == rows:
        return ((base, base + blocks * rows),)
    return tuple((base + i * stride, base + i * stride + rows) for i in range(blocks))


def footprint(f: Mapping[str, int], opcode: Opcode, config: Config) -> tuple[list[Use], Footprint | None]:
    """What a legal command with fields `f` (those left out are zero) touches."""
    get = f.get
    if opcode is Opcode.COMPUTE:
        return list(_compute(f, config)), None
    rows, nbytes = f["rows"], f["row_bytes"]
    matrix = Footprint(f["address"], rows, nbytes, get("row_stride", 0) if rows > 1 else 0)
    base, W = get("base", 0), config.banks
    if opcode is Opcode.LOAD:
        target = LoadTarget(get("target", 0))
        if target is LoadTarget.SCALE:
            return [Use(Stage.LOAD, "scale", True, ((base, base - (-nbytes // (4 * config.rows))),))], matrix
        memory, lanes = ("left", config.rows) if target is LoadTarget.LEFT else ("right", config.cols)
        across, along = (rows, nbytes) if get("transpose", 0) else (nbytes, rows + get("pad_rows", 0))
        ranges = _ranges(base, get("block_stride", 0), -(-across // lanes), -(-along // W))
        return [Use(Stage.LOAD, memory, True, ranges)], matrix
    if get("source", 0) == StoreSource.STATS:
        return [Use(Stage.STORE, "stat", False, ((base, base + nbytes // STAT_BYTES),))], matrix
    across, along = (nbytes, rows) if get("transpose", 0) else (rows, nbytes)
    return [Use(Stage.STORE, "out", False, _ranges(base, get("block_stride", 0), -(-across // config.rows), -(-along // W)))], matrix


def _compute(f: Mapping[str, int], config: Config) -> list[Use]:
    get, W = f.get, config.banks
    fold = 1 << get("fold_log2", 0)
    M, N, mode = f["m_rows"], f["n_cols"], get("out_mode", 0)
    mt, nt = -(-M // config.rows), -(-N * fold // config.cols)
    # A chained command waits once more before its second segment, and its results cannot come before that.
    late = bool(get("chained", 0))
    uses = []

    def results(memory: str, write: bool, base: int, stride: int, blocks: int, rows: int) -> None:
        uses.append(Use(Stage.DONE, memory, write, _ranges(base, stride, blocks, rows), late))

    for i in range(1 + late):
        k = f[f"k{i}"]
        steps = -(-k // fold)
        left = _ranges(get(f"left{i}_base", 0), get(f"left{i}_stride", 0), mt, -(-k // W))
        right = _ranges(get(f"right{i}_base", 0), get(f"right{i}_stride", 0), nt, -(-steps // W))
        uses += [Use(Stage.READ, "left", False, left, bool(i)), Use(Stage.READ, "right", False, right, bool(i))]
    if get("to_out", 0):
        results("out", True, get("out_base", 0), get("out_stride", 0), mt, -(-N * (4 if mode == OutMode.INT32 else 1) // W))
    if get("to_left", 0):
        results("left", True, get("result_base", 0), get("result_stride", 0), mt, -(-N // W))
    for flag, write in (("acc_read", False), ("acc_write", True)):
        if get(flag, 0):
            results("acc", write, get("acc_base", 0), get("acc_stride", 0), mt, N)
    if mode == OutMode.INT8 and get("scale_mode", 0) != ScaleMode.TENSOR:
        words = mt if get("scale_mode", 0) == ScaleMode.ROW else -(-N // config.rows)
        results("scale", False, get("scale_base", 0), 0, 1, words)
    if get("stat_enable", 0):
        results("stat", True, get("stat_slot", 0), 0, 1, 1)
    return uses
