"""What one comparison runs: a configuration, a seeded DRAM, lists of commands, and the times of memory; as JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config
from loralith.verif.lists.drawn_places import Fields, fields_of, pack

__all__ = ["BASE", "Case", "Layout"]

BASE = 1 << 32


@dataclass(frozen=True)
class Layout:
    """Offsets in DRAM: the running list, then constants, scales, data, and what the end of a case stores.

    ``constants`` starts with an identity of W x W bytes, followed by zeros. ``numbers`` has FP32 and bfloat16 numbers for the vector unit;
    what a case's programs are lies from ``programs`` on.
    """

    list_bytes: int = 1 << 15
    constants: int = 1 << 15
    scales: int = 0xA000
    data: int = 0xC000
    dump: int = 0x1_8000
    numbers: int = 0x3_0000
    programs: int = 0x3_8000
    size: int = 0x4_0000


@dataclass(frozen=True)
class Case:
    """Attributes:
    seed: of DRAM's content.
    lists: commands of each list, which run one after another on a machine that starts from reset.
    broken: (list, command, bits in hexadecimal): which of a descriptor's bits are inverted, in an illegal case.
    timing: fields of the native model's `MemoryTiming`.
    window: first byte and first byte past the window, from DRAM's start.
    data: (offset, bytes in hexadecimal) of what lies in DRAM besides the seeded content: programs of the vector unit.
    """

    config: Config
    seed: int
    lists: tuple[tuple[Fields, ...], ...]
    broken: tuple[int, int, str] | None = None
    timing: dict[str, Any] = field(default_factory=dict)
    window: tuple[int, int] = (0, Layout.size)
    data: tuple[tuple[int, str], ...] = ()

    @property
    def commands(self) -> int:
        return sum(len(commands) for commands in self.lists)

    @property
    def programs(self) -> dict[int, bytes]:
        """`data` by address."""
        return {BASE + offset: bytes.fromhex(text) for offset, text in self.data}

    def packed(self, index: int) -> bytes:
        """Descriptors of a list."""
        data = b"".join(pack(command) for command in self.lists[index])
        if self.broken and self.broken[0] == index:
            start = COMMAND_BYTES * self.broken[1]
            changed = bytes(a ^ b for a, b in zip(data[start : start + COMMAND_BYTES], bytes.fromhex(self.broken[2]), strict=True))
            data = data[:start] + changed + data[start + COMMAND_BYTES :]
        return data

    def place(self, index: int) -> int:
        """Offset in DRAM of a list."""
        return self.config.bus_bytes * ((7 * self.seed + 61 * index) % 97)

    def image(self) -> np.ndarray:
        """DRAM at the start, uint8."""
        dram = _seeded(self.seed, self.config.bus_bytes, bool(self.config.vector_lanes)).copy()
        for offset, text in self.data:
            dram[offset : offset + len(text) // 2] = np.frombuffer(bytes.fromhex(text), np.uint8)
        return dram

    def as_json(self) -> str:
        lists = [[{name: value for name, value in command.items() if value} for command in commands] for commands in self.lists]
        return json.dumps({**asdict(replace(self, lists=())), "lists": lists}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Raises ValueError or KeyError for text that `as_json` did not write."""
        content = json.loads(text)
        lists = tuple(tuple(fields_of(**command) for command in commands) for commands in content["lists"])
        broken = content["broken"]
        return cls(
            Config(**content["config"]),
            content["seed"],
            lists,
            (broken[0], broken[1], broken[2]) if broken else None,
            content["timing"],
            (content["window"][0], content["window"][1]),
            tuple((offset, text) for offset, text in content.get("data", [])),
        )


@lru_cache(maxsize=4)
def _seeded(seed: int, W: int, numbers: bool) -> np.ndarray:
    """DRAM of a seed, with an identity of W x W; cases are run several times."""
    rng, layout = np.random.default_rng(seed), Layout()
    dram = rng.integers(0, 256, layout.size, dtype=np.uint8)
    blocks = dram[layout.data : layout.dump].reshape(-1, 256)
    kinds = rng.integers(0, 8, len(blocks))
    blocks[kinds == 0] = rng.choice(np.array([0, 1, 127, 128, 129, 255], np.uint8), blocks.shape)[kinds == 0]
    blocks[kinds == 1] &= 0x8F  # small values of both signs are rare; these are small or very negative
    blocks[kinds == 2] = rng.integers(-4, 5, blocks.shape).astype(np.int8).view(np.uint8)[kinds == 2]
    constants = dram[layout.constants : layout.scales]
    constants[:] = 0
    constants[: W * W] = np.eye(W, dtype=np.uint8).reshape(-1)
    scales = dram[layout.scales : layout.data].view("<u4")
    shift = np.where(rng.random(scales.size) < 0.6, rng.integers(16, 31, scales.size), rng.integers(0, 64, scales.size))
    mantissa = np.where(rng.random(scales.size) < 0.95, rng.integers(1 << 15, 1 << 16, scales.size), scales & 0xFFFF)
    scales[:] = (scales & 0xFFC0_0000) | shift.astype(np.uint32) << 16 | mantissa.astype(np.uint32)
    if numbers:
        dram[layout.numbers : layout.programs] = _numbers(rng, layout.programs - layout.numbers)
    return dram


NUMBER_BLOCK = 512
"""Bytes of numbers of one kind."""


def _numbers(rng: np.random.Generator, nbytes: int) -> np.ndarray:
    """Blocks of FP32 numbers, and of bfloat16 numbers, of one range of exponents each: narrow ones around 1, all, powers of two; few are
    zero, and in few blocks some are infinity or NaN."""
    blocks = []
    for _ in range(nbytes // NUMBER_BLOCK):
        wide = rng.random() < 0.5
        count, fraction = (NUMBER_BLOCK // 4, 23) if wide else (NUMBER_BLOCK // 2, 7)
        low, high = [(118, 132), (100, 150), (124, 129), (0, 254)][int(rng.choice(4, p=[0.5, 0.2, 0.2, 0.1]))]
        exponent = rng.integers(low, high + 1, count)
        bits = rng.integers(0, 1 << fraction, count) if rng.random() < 0.8 else np.zeros(count, np.int64)
        exponent[rng.random(count) < 0.05] = 0
        if rng.random() < 0.05:
            exponent[rng.random(count) < 0.1] = 255
        sign = rng.integers(0, 2, count) if rng.random() < 0.7 else np.zeros(count, np.int64)
        number = sign << (fraction + 8) | exponent << fraction | bits
        blocks.append(number.astype("<u4" if wide else "<u2").view(np.uint8))
    return np.concatenate(blocks)
