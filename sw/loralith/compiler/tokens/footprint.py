"""What a command reads and writes: rows of on-chip memories by stage, and bytes of DRAM."""

from __future__ import annotations

from dataclasses import dataclass

from loralith.compiler.lists.command_list import Fields, bytes_in_dram
from loralith.compiler.tokens.stages import Stage
from loralith.spec.commands import STAT_BYTES, Command, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
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


def footprint(command: Command, config: Config) -> tuple[list[Use], Footprint | None]:
    """What a legal command touches: on chip, and in DRAM."""
    f = Fields(command)
    if command.opcode is Opcode.COMPUTE:
        return _compute(f, config), None
    rows, nbytes = f["rows"], f["row_bytes"]
    matrix = Footprint(f["address"], rows, bytes_in_dram(f), f["row_stride"] if rows > 1 else 0)
    base, W = f["base"], config.banks
    if command.opcode is Opcode.LOAD:
        target = LoadTarget(f["target"])
        if target is LoadTarget.SCALE:
            return [Use(Stage.LOAD, "scale", True, ((base, base - (-nbytes // (4 * config.rows))),))], matrix
        memory, lanes = ("right", config.cols) if target is LoadTarget.RIGHT else ("left", config.rows)
        across, along = (rows, nbytes) if f["transpose"] else (nbytes, rows + f["pad_rows"])
        ranges = _ranges(base, f["block_stride"], -(-across // lanes), -(-along // W))
        uses = [Use(Stage.LOAD, memory, True, ranges)]
        if target is LoadTarget.BOTH:
            beside = _ranges(f["right_base"], f["right_stride"], -(-nbytes // config.cols), -(-rows // W))
            uses.append(Use(Stage.LOAD, "right", True, beside))
        return uses, matrix
    if f["source"] == StoreSource.STATS:
        return [Use(Stage.STORE, "stat", False, ((base, base + nbytes // STAT_BYTES),))], matrix
    across, along = (nbytes, rows) if f["transpose"] else (rows, nbytes)
    return [Use(Stage.STORE, "out", False, _ranges(base, f["block_stride"], -(-across // config.rows), -(-along // W)))], matrix


def _compute(f: Fields, config: Config) -> list[Use]:
    W = config.banks
    fold = 1 << f["fold_log2"]
    M, N, mode = f["m_rows"], f["n_cols"], f["out_mode"]
    mt, nt = -(-M // config.rows), -(-N * fold // config.cols)
    # A chained command waits once more before its second segment, and its results cannot come before that.
    late = bool(f["chained"])
    uses = []

    def results(memory: str, write: bool, base: int, stride: int, blocks: int, rows: int) -> None:
        uses.append(Use(Stage.DONE, memory, write, _ranges(base, stride, blocks, rows), late))

    for i in range(1 + late):
        k = f[f"k{i}"]
        steps = -(-k // fold)
        left = _ranges(f[f"left{i}_base"], f[f"left{i}_stride"], mt, -(-k // W))
        right = _ranges(f[f"right{i}_base"], f[f"right{i}_stride"], nt, -(-steps // W))
        uses += [Use(Stage.READ, "left", False, left, bool(i)), Use(Stage.READ, "right", False, right, bool(i))]
    if f["device_shift"]:
        uses.append(Use(Stage.READ, "stat", False, ((f["exponent_slot"], f["exponent_slot"] + 1),), False))
    if f["to_out"]:
        results("out", True, f["out_base"], f["out_stride"], mt, -(-N * (4 if mode == OutMode.INT32 else 1) // W))
    if f["to_left"]:
        results("left", True, f["result_base"], f["result_stride"], mt, -(-N // W))
    for flag, write in (("acc_read", False), ("acc_write", True)):
        if f[flag]:
            results("acc", write, f["acc_base"], f["acc_stride"], mt, N)
    if mode == OutMode.INT8 and f["scale_mode"] != ScaleMode.TENSOR:
        words = mt if f["scale_mode"] == ScaleMode.ROW else -(-N // config.rows)
        results("scale", False, f["scale_base"], 0, 1, words)
    if f["stat_enable"]:
        results("stat", True, f["stat_slot"], 0, 1, 1)
    return uses
