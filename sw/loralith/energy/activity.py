"""What a command list makes the machine do, counted from its descriptors alone."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from loralith.compiler.lists.command_list import CommandList, Fields, bytes_in_dram
from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.device.interpreter.axi_bursts import beats
from loralith.spec.commands import COMMAND_BYTES, Command, LoadTarget, Opcode, OutMode, StoreSource
from loralith.spec.config import Config

__all__ = ["Activity", "MODELS", "activity", "layer_list"]


@dataclass(frozen=True)
class Activity:
    """Counts of a list that ends well. Memory traffic is in bytes, by the memory's words: lanes that hold nothing useful count too.

    Attributes:
        macs: useful multiply-accumulates. slots: elements times steps, the idle ones included.
        dram_operands: of LOADs to left and right, and of INT8 STOREs. dram_sums: of INT32 STOREs. dram_other: commands, scales, statistics.
        left, right: bytes read and written of the scratchpads.
        out: of the output buffer, INT8 results. out_sums: the same of INT32 results.
        acc: of the accumulate buffer.
        results: outputs that left the drain. requantized: of these, INT8. folds: additions of the drain.
    """

    macs: int = 0
    slots: int = 0
    dram_operands: int = 0
    dram_sums: int = 0
    dram_other: int = 0
    left: int = 0
    right: int = 0
    out: int = 0
    out_sums: int = 0
    acc: int = 0
    results: int = 0
    requantized: int = 0
    folds: int = 0

    def __add__(self, other: Activity) -> Activity:
        return Activity(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> Activity:
        return Activity(*(times * getattr(self, f.name) for f in fields(self)))

    @property
    def dram(self) -> int:
        """Bytes over the bus, both ways: the sum of the counters `bytes_read` and `bytes_written`."""
        return self.dram_operands + self.dram_sums + self.dram_other


def activity(commands: CommandList, config: Config) -> Activity:
    """Counts of a list. What a STORE moves is INT32 where the last COMPUTE that wrote its output buffer row wrote that."""
    total = Activity(dram_other=COMMAND_BYTES * len(commands))
    wide: dict[int, bool] = {}
    for command in commands.commands:
        c = Fields(command)
        if command.opcode is Opcode.COMPUTE:
            if c["to_out"]:
                wide[c["out_base"]] = c["out_mode"] == OutMode.INT32
            total += _compute(c, config)
        else:
            total += _transfer(command, c, wide, config)
    return total


def _transfer(command: Command, c: Fields, wide: dict[int, bool], config: Config) -> Activity:
    rows, row_bytes = (1, c["rows"] * c["row_bytes"]) if c.get("packed") else (c["rows"], bytes_in_dram(c))
    moved = beats(row_bytes, rows, config) * config.bus_bytes
    useful = c["rows"] * c["row_bytes"]
    if command.opcode is Opcode.LOAD:
        if c["target"] == LoadTarget.SCALE:
            return Activity(dram_other=moved)
        written = useful + c["pad_rows"] * c["row_bytes"]
        names = {LoadTarget.LEFT: ("left",), LoadTarget.RIGHT: ("right",), LoadTarget.BOTH: ("left", "right")}
        side = dict.fromkeys(names[LoadTarget(c["target"])], written)
        return Activity(dram_operands=moved, **side)
    if c["source"] == StoreSource.STATS:
        return Activity(dram_other=moved)
    if wide.get(c["base"], False):
        return Activity(dram_sums=moved, out_sums=useful)
    return Activity(dram_operands=moved, out=useful)


def _compute(c: Fields, config: Config) -> Activity:
    R, C = config.rows, config.cols
    M, N, fold = c["m_rows"], c["n_cols"], 1 << c["fold_log2"]
    m_tiles, n_tiles = -(-M // R), -(-N // (C // fold))
    steps = sum(-(-k // fold) for k in (c["k0"], c["k1"]))
    columns = m_tiles * N  # of R results each
    int8, int32 = c["out_mode"] == OutMode.INT8, c["out_mode"] == OutMode.INT32
    return Activity(
        macs=M * N * (c["k0"] + c["k1"]),
        slots=m_tiles * n_tiles * steps * R * C,
        # A folded step reads one word of R bytes for each slice of k.
        left=m_tiles * n_tiles * steps * fold * R + (columns * R if c["to_left"] else 0),
        right=m_tiles * n_tiles * steps * C,
        out=columns * R if c["to_out"] and int8 else 0,
        out_sums=4 * columns * R if c["to_out"] and int32 else 0,
        acc=4 * columns * R * (c["acc_read"] + c["acc_write"]),
        results=columns * R,
        requantized=columns * R if int8 else 0,
        folds=columns * R * (fold - 1),
    )


def _attention(stages: tuple[tuple[int, int, int], ...], text_tokens: int, text_width: int) -> tuple[tuple[Linear, int], ...]:
    """Blocks of (tokens, width, count): q, k, v and out of self attention, q and out of cross attention; k and v of the text."""
    layers = []
    for tokens, width, count in stages:
        layers.append((Linear(f"{tokens} x {width}", tokens, width, width, 1), 6 * count))
        layers.append((Linear(f"text to {width}", text_tokens, text_width, width, 1, dx=False), 2 * count))
    return tuple(layers)


MODELS: dict[str, tuple[tuple[Linear, int], ...]] = {
    # 64 x 64 latents: the U-Net has 2 + 3 transformer blocks at each of three widths, and one in its middle.
    "sd15": _attention(((4096, 320, 5), (1024, 640, 5), (256, 1280, 5), (64, 1280, 1)), 77, 768),
}
"""Adapted linears and how many of each there are, at batch 1: the attention projections, PEFT's usual target modules of a U-Net."""


def layer_list(linear: Linear, rank: int, config: Config) -> CommandList:
    """Forward and backward of one linear at `rank`. Raises DoesNotFit."""
    linear = replace(linear, rank=rank)
    return compile_step([(linear, place(linear, 0, config)[0])], config)
