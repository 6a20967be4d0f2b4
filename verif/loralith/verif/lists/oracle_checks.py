"""Which check of docs/machine.md a command fails first: the table of that page, line by line."""

from __future__ import annotations

from typing import NamedTuple

from loralith.spec.commands import COMMANDS, FORMAT_BYTES, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.numerics import K_LIMIT, MANTISSA_MIN, SHIFT_MAX
from loralith.spec.status import Check, Code, Unit
from loralith.spec.vector.program import INSTRUCTION_BYTES, PROGRAM_INSTRUCTIONS
from loralith.verif.lists.drawn_places import Fields, Region, ceil_div, compute_regions, depth_of, load_regions, store_regions

__all__ = ["Refusal", "check_command", "check_list", "dram_row_bytes"]

UNITS = {Opcode.LOAD: Unit.LOAD, Opcode.COMPUTE: Unit.COMPUTE, Opcode.STORE: Unit.STORE, Opcode.VECTOR: Unit.VECTOR}


class Refusal(NamedTuple):
    """How a list ends at a command that fails a check."""

    code: Code
    detail: Check
    unit: Unit
    address: int = 0


def dram_row_bytes(c: Fields) -> int:
    """Bytes of DRAM that hold a row of a LOAD or STORE."""
    return ceil_div(c["row_bytes"], 2) if c.get("packed4") else c["row_bytes"]


def check_list(base: int, length: int, config: Config, window: tuple[int, int]) -> Refusal | None:
    """The checks of LIST_BASE and LIST_LENGTH."""
    if base % config.bus_bytes:
        return Refusal(Code.MISALIGNED, Check.LIST, Unit.FETCH, base)
    if length < 1:
        return Refusal(Code.BAD_FIELD, Check.LIST, Unit.FETCH, base)
    if base < window[0] or base + 128 * length > window[1]:
        return Refusal(Code.DRAM_WINDOW, Check.LIST, Unit.FETCH, base)
    return None


def check_command(data: bytes, config: Config, window: tuple[int, int]) -> Refusal | None:
    """The first check that the command in these 128 bytes fails, or None; ``window`` is (first address, first address past it)."""
    if data[0] not in ((1, 2, 3, 4) if config.vector_lanes else (1, 2, 3)):
        return Refusal(Code.BAD_OPCODE, Check.NONE, Unit.FETCH)
    opcode = Opcode(data[0])
    unit, record = UNITS[opcode], COMMANDS[opcode]
    if int.from_bytes(data, "little") & record.reserved_mask:
        return Refusal(Code.BAD_FIELD, Check.RESERVED, unit)
    c = record.unpack(data)
    if opcode is Opcode.VECTOR:
        return _check_vector(c, config)
    meaning, sizes = {
        Opcode.LOAD: (_load_meaning, _transfer_sizes),
        Opcode.COMPUTE: (_compute_meaning, _compute_sizes),
        Opcode.STORE: (_store_meaning, _transfer_sizes),
    }[opcode]
    if not meaning(c, config):
        return Refusal(Code.BAD_FIELD, Check.ENUM, unit)
    if not sizes(c):
        return Refusal(Code.BAD_FIELD, Check.SIZE, unit)
    if opcode is Opcode.COMPUTE:
        detail = _outside(_compute_order(c, config), config)
        return Refusal(Code.SCRATCHPAD_BOUNDS, detail, unit) if detail else None
    W, address = config.bus_bytes, c["address"]
    if address % W:
        return Refusal(Code.MISALIGNED, Check.ADDRESS, unit, address)
    if c["rows"] > 1 and not c.get("packed") and c["row_stride"] % W:
        return Refusal(Code.MISALIGNED, Check.STRIDE, unit, address)
    detail = _outside((load_regions if opcode is Opcode.LOAD else store_regions)(c, config), config)
    if detail:
        return Refusal(Code.SCRATCHPAD_BOUNDS, detail, unit)
    last = address + (c["rows"] - 1) * c["row_stride"] + dram_row_bytes(c) - 1
    if address < window[0] or last >= window[1]:
        return Refusal(Code.DRAM_WINDOW, Check.ADDRESS, unit, address)
    return None


def _check_vector(c: Fields, config: Config) -> Refusal | None:
    """Before it runs: its regions and instructions are checked as they are reached."""
    if not (c["count"] and c["outer"] and c["inner"] and 1 <= c["lanes"] <= config.vector_lanes):
        return Refusal(Code.BAD_FIELD, Check.SIZE, Unit.VECTOR)
    if c["first"] + c["count"] > PROGRAM_INSTRUCTIONS:
        return Refusal(Code.SCRATCHPAD_BOUNDS, Check.PROGRAM, Unit.VECTOR)
    return None


def _vector_meaning(name: str, c: Fields) -> bool:
    """Of a LOAD or STORE of a memory of the vector unit, of a configuration that has one."""
    if c["transpose"] or c.get("packed") or c.get("packed4") or c.get("pad_rows"):
        return False
    if name in ("V0", "V1"):
        return c["format"] <= max(VectorFormat) and c["row_bytes"] % FORMAT_BYTES[VectorFormat(c["format"])] == 0
    if c["rows"] != 1 or c["block_stride"] or c["format"] or c["broadcast"]:
        return False
    return c["row_bytes"] % (4 if name == "SCALARS" else INSTRUCTION_BYTES) == 0


def _load_meaning(c: Fields, config: Config) -> bool:
    target = c["target"]
    if config.vector_lanes and LoadTarget.BOTH < target <= max(LoadTarget):
        return _vector_meaning(LoadTarget(target).name, c)
    if target > 3 or c["format"] or c["broadcast"]:
        return False
    if target == 2:
        return c["rows"] == 1 and not (c["transpose"] or c["packed4"] or c["pad_rows"] or c["block_stride"])
    if target == 3 and (not c["transpose"] or config.cols < config.bus_bytes):
        return False
    return not (c["transpose"] and c["pad_rows"])


def _store_meaning(c: Fields, config: Config) -> bool:
    if config.vector_lanes and StoreSource.STATS < c["source"] <= max(StoreSource):
        return _vector_meaning(StoreSource(c["source"]).name, c)
    if c["source"] > 1 or c["format"] or c["broadcast"]:
        return False
    if c["source"] == 1:
        return c["rows"] == 1 and not (c["transpose"] or c["packed"] or c["block_stride"]) and c["row_bytes"] % 16 == 0
    power = c["row_bytes"] > 0 and c["row_bytes"] & (c["row_bytes"] - 1) == 0
    return not c["packed"] or (power and c["row_bytes"] < config.bus_bytes and c["row_stride"] == c["row_bytes"])


def _compute_meaning(c: Fields, config: Config) -> bool:
    if 1 << c["fold_log2"] > config.max_fold or c["shift"] > 16 or c["out_mode"] > 2 or c["scale_mode"] > 2:
        return False
    if not c["chained"] and (c["shift"] or c["segment_wait"]):
        return False
    if (c["to_left"] and c["out_mode"] != 1) or (c["to_out"] and c["out_mode"] == 0):
        return False
    if not c["device_shift"]:
        return True
    if c["t_low"] > c["t_high"] or c["t_high"] > SHIFT_MAX:
        return False
    if c["chained"]:
        return c["shift"] >= c["t_high"] - c["t_low"]
    return c["out_mode"] == 1 and c["scale_mode"] == 0


def _transfer_sizes(c: Fields) -> bool:
    return c["rows"] >= 1 and c["row_bytes"] >= 1


def _compute_sizes(c: Fields) -> bool:
    if not (c["m_rows"] and c["n_cols"] and c["k0"] and bool(c["k1"]) == bool(c["chained"])):
        return False
    if (c["k0"] << c["shift"]) + c["k1"] > K_LIMIT:
        return False
    return not (c["out_mode"] == 1 and c["scale_mode"] == 0) or (c["scale_m"] >= MANTISSA_MIN and c["scale_n"] <= SHIFT_MAX)


def _compute_order(c: Fields, config: Config) -> list[Region]:
    reads, writes = compute_regions(c, config)
    order = ("LEFT", "LEFT2", "RIGHT", "RIGHT2", "OUT", "LEFT_RESULT", "ACC", "SCALE", "STAT")
    return sorted((*reads, *writes), key=lambda region: order.index(region.role))


def _outside(regions: list[Region], config: Config) -> Check:
    """The check of the first region that does not end inside its memory; Check.NONE, which is false, where all do."""
    for region in regions:
        if region.end > depth_of(region.memory, config):
            return Check[region.role]
    return Check.NONE
