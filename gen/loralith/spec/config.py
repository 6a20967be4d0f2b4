"""The accelerator's configuration: one frozen value, named presets, derived sizes in one place."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

from loralith.files import FileError, read_json

from .version import VERSION

__all__ = ["PRESETS", "Config", "ConfigError", "load_config"]

KIB = 1024


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names the field, its value and what would be right."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class Config:
    """What is fixed when the Verilog is emitted. Sizes are in bytes.

    Attributes:
        name: label of the configuration, also in names of files; not part of its hash.
        rows: rows R of processing elements, the lanes of the left operand. Power of two, 2..64, at least ``bus_bytes`` / 4.
        cols: columns C of processing elements, the lanes of the right operand. Power of two, 2..64.
        bus_bytes: bytes per AXI data beat W: 8, 16, 32 or 64; also the number of banks of each scratchpad.
        max_fold: most column groups that can share one output. Power of two, at most ``cols``, ``bus_bytes`` and 16.
        left_bytes: left scratchpad (INT8). ``bus_bytes`` x ``rows`` times a power of two in 4..32768.
        right_bytes: right scratchpad (INT8). ``bus_bytes`` x ``cols`` times a power of two in 4..32768.
        out_bytes: output buffer (INT8 or INT32 results on their way to DRAM). As ``left_bytes``.
        acc_bytes: INT32 accumulate buffer, for sums over blocks. 4 x ``rows`` times a power of two in 4..32768.
        scale_bytes: vectors of per-row or per-column requantization scales, 4 bytes each. As ``acc_bytes``.
        stat_slots: slots that hold a maximum and a saturation count each, 16 bytes in DRAM. Power of two, 8..256.
        queue_depth: commands that wait in each queue, 2..64.
        outstanding_reads: read bursts in flight, 1..128.
        outstanding_writes: write bursts in flight, 1..128.
        max_burst: beats per AXI burst at most, 1..256.
        vector_lanes: lanes L of the vector unit; 0 for none. Power of two, 2.. ``rows``.
        v0_words: words of L numbers of the first vector scratchpad. Power of two, 16..32768; ignored without vector lanes.
        v1_words: of the second one, likewise.
    """

    name: str
    rows: int
    cols: int
    bus_bytes: int
    max_fold: int
    left_bytes: int
    right_bytes: int
    out_bytes: int
    acc_bytes: int
    scale_bytes: int = 4 * KIB
    stat_slots: int = 64
    queue_depth: int = 4
    outstanding_reads: int = 32
    outstanding_writes: int = 32
    max_burst: int = 64
    vector_lanes: int = 0
    v0_words: int = 1024
    v1_words: int = 512

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, rule: str) -> None:
            if not ok:
                raise ConfigError(f"{field} must be {rule}, not {getattr(self, field)!r}")

        need(isinstance(self.name, str) and self.name.strip(". ") != "" and "/" not in self.name, "name", "a name without '/'")
        for f in fields(self):
            if f.name != "name":
                value = getattr(self, f.name)
                need(isinstance(value, int) and not isinstance(value, bool), f.name, "an integer")
        for field in ("rows", "cols"):
            need(_power_of_two(getattr(self, field)) and 2 <= getattr(self, field) <= 64, field, "a power of two in 2..64")
        need(self.bus_bytes in (8, 16, 32, 64), "bus_bytes", "8, 16, 32 or 64")
        most = min(self.cols, self.bus_bytes, 16)
        need(_power_of_two(self.max_fold) and self.max_fold <= most, "max_fold", f"a power of two of at most {most}")
        need(4 * self.rows >= self.bus_bytes, "rows", f"at least bus_bytes / 4 = {self.bus_bytes // 4}")
        for field, word in (
            ("left_bytes", self.bus_bytes * self.rows),
            ("right_bytes", self.bus_bytes * self.cols),
            ("out_bytes", self.bus_bytes * self.rows),
            ("acc_bytes", 4 * self.rows),
            ("scale_bytes", 4 * self.rows),
        ):
            size = getattr(self, field)
            need(
                size % word == 0 and _power_of_two(size // word) and 4 <= size // word <= 32768,
                field,
                f"{word} bytes times a power of two in 4..32768",
            )
        need(_power_of_two(self.stat_slots) and 8 <= self.stat_slots <= 256, "stat_slots", "a power of two in 8..256")
        need(2 <= self.queue_depth <= 64, "queue_depth", "in 2..64")
        for field in ("outstanding_reads", "outstanding_writes"):
            need(1 <= getattr(self, field) <= 128, field, "in 1..128")
        need(1 <= self.max_burst <= 256, "max_burst", "in 1..256")
        lanes = self.vector_lanes
        need(lanes == 0 or (_power_of_two(lanes) and 2 <= lanes <= self.rows), "vector_lanes", f"0 or a power of two in 2..{self.rows}")
        for field in ("v0_words", "v1_words"):
            need(_power_of_two(getattr(self, field)) and 16 <= getattr(self, field) <= 32768, field, "a power of two in 16..32768")

    # Derived sizes. A scratchpad row is one word in every bank.

    @property
    def banks(self) -> int:
        """Banks of each scratchpad; element k of a reduction lies in bank k % banks."""
        return self.bus_bytes

    @property
    def left_depth(self) -> int:
        """Rows of the left scratchpad, each ``banks`` words of ``rows`` bytes."""
        return self.left_bytes // (self.banks * self.rows)

    @property
    def right_depth(self) -> int:
        """Rows of the right scratchpad, each ``banks`` words of ``cols`` bytes."""
        return self.right_bytes // (self.banks * self.cols)

    @property
    def out_depth(self) -> int:
        """Rows of the output buffer, each ``banks`` words of ``rows`` bytes."""
        return self.out_bytes // (self.banks * self.rows)

    @property
    def acc_depth(self) -> int:
        """Words of the accumulate buffer, each ``rows`` INT32 values."""
        return self.acc_bytes // (4 * self.rows)

    @property
    def scale_depth(self) -> int:
        """Words of the scale memory, each ``rows`` entries of 4 bytes."""
        return self.scale_bytes // (4 * self.rows)

    @property
    def processing_elements(self) -> int:
        return self.rows * self.cols

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that the array can take, ascending."""
        return tuple(1 << i for i in range(self.max_fold.bit_length()))

    def depth(self, memory: str) -> int:
        """Rows of the memory ``left``, ``right``, ``out``, ``acc`` or ``scale``."""
        return getattr(self, f"{memory}_depth")

    def as_dict(self) -> dict[str, int | str]:
        return asdict(self)

    @property
    def hash(self) -> int:
        """32-bit hash of everything that shapes the hardware, and of the interface version; the name is left out."""
        content = {k: v for k, v in asdict(self).items() if k != "name"} | {"version": VERSION}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:4], "little")


PRESETS: dict[str, Config] = {
    c.name: c
    for c in (
        Config("tiny", 4, 4, 8, 4, 4 * KIB, 4 * KIB, 2 * KIB, 1 * KIB, scale_bytes=1 * KIB, stat_slots=16),
        Config("tiny-vector", 4, 4, 8, 4, 4 * KIB, 4 * KIB, 2 * KIB, 1 * KIB, scale_bytes=1 * KIB, stat_slots=16, vector_lanes=4),
        Config("ecp5", 8, 16, 8, 16 // 2, 128 * KIB, 128 * KIB, 32 * KIB, 16 * KIB),
        Config("base", 16, 16, 16, 16, 128 * KIB, 128 * KIB, 32 * KIB, 32 * KIB),
        Config("base-vector", 16, 16, 16, 16, 128 * KIB, 128 * KIB, 32 * KIB, 32 * KIB, vector_lanes=16),
        Config("large", 32, 32, 32, 16, 512 * KIB, 512 * KIB, 64 * KIB, 32 * KIB, scale_bytes=8 * KIB, outstanding_reads=64),
        Config("paper", 64, 64, 64, 16, 1024 * KIB, 1024 * KIB, 128 * KIB, 64 * KIB, scale_bytes=16 * KIB, outstanding_reads=64),
    )
}
"""tiny for CI, ecp5 fits an ECP5-85F, base for daily work, large, and paper with CDM-QTA's array; those with -vector have a vector unit,
which whole training steps take (`finetune --map step`)."""


def load_config(source: str | Path | Config) -> Config:
    """A preset's name, a JSON file's path, or a Config as it is.

    A file with "base", a preset's name, has what differs from it; one without has every field that has no default.
    Raises ConfigError for an unknown name or field, and for fields that are missing.
    """
    if isinstance(source, Config):
        return source
    if str(source) in PRESETS:
        return PRESETS[str(source)]
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"config must be one of {', '.join(PRESETS)} or a JSON file, not {str(source)!r}")
    try:
        content = read_json(path)
    except FileError as error:
        raise ConfigError(f"{path}: {error.reason}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a JSON object, not {type(content).__name__}")
    base = content.pop("base", None)
    if base is not None and (not isinstance(base, str) or base not in PRESETS):
        raise ConfigError(f"{path}: base must be one of {', '.join(PRESETS)}, not {base!r}")
    known = {f.name for f in fields(Config)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown field {', '.join(unknown)}; known are base, {', '.join(sorted(known))}")
    content = {"name": path.stem, **content}
    if base is not None:
        return replace(PRESETS[base], **content)
    missing = [f.name for f in fields(Config) if f.default is MISSING and f.name not in content]
    if missing:
        raise ConfigError(f'{path}: no {", ".join(missing)}; give them, or a preset to start from, such as "base": "tiny"')
    return Config(**content)
