"""What the vector unit's memories hold, and which of it the pages leave unspecified."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from loralith.spec.commands import FORMAT_BYTES, LoadTarget, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.status import Check, Code, Unit
from loralith.spec.vector.program import INSTRUCTION_BYTES, LANE_REGISTERS, PROGRAM_INSTRUCTIONS, SCALARS
from loralith.verif.lists.drawn_places import Fields
from loralith.verif.lists.vector_numbers import low_bytes, words_of

__all__ = ["Unspecified", "VectorState", "VectorStop", "Words"]


class Unspecified(ValueError):
    """What a command does is not specified: it must not be run. The message says by which rule."""


class VectorStop(Exception):
    """A command ends its list. ``number``: the instruction's, 0 of a LOAD."""

    def __init__(self, code: Code, detail: Check, unit: Unit, number: int = 0) -> None:
        super().__init__(f"{code.name} {detail.name} in {unit.name}, instruction {number}")
        self.code, self.detail, self.unit, self.number = code, detail, unit, number


@dataclass
class Words:
    """Words as float64, and the low byte of each as STORE sees it, both with a mask of what is not known.

    An INT8 result leaves a known byte in a word that is not.
    """

    value: np.ndarray
    unknown: np.ndarray
    byte: np.ndarray
    byte_unknown: np.ndarray

    @classmethod
    def zeros(cls, *shape: int) -> Words:
        return cls(np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, np.uint8), np.zeros(shape, bool))

    def copy(self) -> Words:
        return Words(self.value.copy(), self.unknown.copy(), self.byte.copy(), self.byte_unknown.copy())

    def put(self, place, value: np.ndarray, unknown: np.ndarray) -> None:
        self.value[place], self.unknown[place] = value, unknown
        self.byte[place], self.byte_unknown[place] = low_bytes(value), unknown

    def put_bytes(self, place, q: np.ndarray, unknown: np.ndarray) -> None:
        self.value[place], self.unknown[place] = 0.0, True
        self.byte[place], self.byte_unknown[place] = q.astype(np.uint8), unknown


class VectorState:
    """The memories of the vector unit. `scratch` is by the names v0 and v1; `program` has a row of bytes for each instruction."""

    def __init__(self, config: Config) -> None:
        L = self.lanes = config.vector_lanes
        self.scratch = {"v0": Words.zeros(config.v0_words, L), "v1": Words.zeros(config.v1_words, L)}
        self.scalars = Words.zeros(SCALARS)
        self.registers = Words.zeros(LANE_REGISTERS, L)
        self.program = np.zeros((PROGRAM_INSTRUCTIONS, INSTRUCTION_BYTES), np.uint8)
        self.program_unknown = np.zeros(PROGRAM_INSTRUCTIONS, bool)
        self.key, self.key_unknown = (0, 0), False

    def copy(self) -> VectorState:
        other = copy.copy(self)
        other.scratch = {name: words.copy() for name, words in self.scratch.items()}
        other.scalars, other.registers = self.scalars.copy(), self.registers.copy()
        other.program, other.program_unknown = self.program.copy(), self.program_unknown.copy()
        return other

    def load(self, c: Fields, data: np.ndarray, unknown: np.ndarray) -> None:
        """Rows of bytes, [rows, row_bytes], into the target of a LOAD. Raises VectorStop for infinity and NaN."""
        target, base = LoadTarget(c["target"]), c["base"]
        if target is LoadTarget.PROGRAM:
            count = c["row_bytes"] // INSTRUCTION_BYTES
            self.program[base : base + count] = data.reshape(count, -1)
            self.program_unknown[base : base + count] = unknown.reshape(count, -1).any(axis=1)
        elif target is LoadTarget.KEY:
            first, second = np.ascontiguousarray(data[0]).view("<u4")
            self.key, self.key_unknown = (int(first), int(second)), bool(unknown.any())
        elif target is LoadTarget.SCALARS:
            value, mask = _numbers(data, unknown, VectorFormat.FP32)
            self.scalars.put(slice(base, base + value.size), value[0], mask[0])
        else:
            self._fill(c, *_numbers(data, unknown, VectorFormat(c["format"])))

    def _fill(self, c: Fields, value: np.ndarray, unknown: np.ndarray) -> None:
        words, L = self.scratch["v0" if c["target"] == LoadTarget.V0 else "v1"], self.lanes
        if c["broadcast"]:
            value, unknown = (np.repeat(part[:, :, None], L, axis=2) for part in (value, unknown))
        else:
            pad = ((0, 0), (0, -value.shape[1] % L))
            value, unknown = (np.pad(part, pad).reshape(c["rows"], -1, L) for part in (value, unknown))
        place = c["base"] + np.arange(c["rows"])[:, None] * c["block_stride"] + np.arange(value.shape[1])
        words.put(place, value, unknown)

    def stored(self, c: Fields) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of a STORE, [rows, row_bytes], and which are not known."""
        if c["source"] == StoreSource.SCALARS:
            place = slice(c["base"], c["base"] + c["row_bytes"] // 4)
            return _floats(self.scalars.value[None, place]), np.repeat(self.scalars.unknown[None, place], 4, axis=1)
        words, form = self.scratch["v0" if c["source"] == StoreSource.V0 else "v1"], VectorFormat(c["format"])
        count = c["row_bytes"] // FORMAT_BYTES[form]
        j = np.arange(count)[None, :]
        word, lane = (j, 0 * j) if c["broadcast"] else (j // self.lanes, j % self.lanes)
        place = c["base"] + np.arange(c["rows"])[:, None] * c["block_stride"] + word, lane
        if form is VectorFormat.INT8:
            return words.byte[place], words.byte_unknown[place]
        data, unknown = _floats(words.value[place]), words.unknown[place]
        if form is VectorFormat.BF16:
            data = np.ascontiguousarray(data.reshape(*unknown.shape, 4)[:, :, 2:]).reshape(c["rows"], -1)
        return data, np.repeat(unknown, FORMAT_BYTES[form], axis=1)


def _floats(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.astype("<f4")).view(np.uint8)


def _numbers(data: np.ndarray, unknown: np.ndarray, form: VectorFormat) -> tuple[np.ndarray, np.ndarray]:
    """Words of the numbers in rows of bytes, and which are not known."""
    if form is VectorFormat.INT8:
        return data.view(np.int8).astype(np.float64), unknown
    size = FORMAT_BYTES[form]
    if unknown.any():
        raise Unspecified("a LOAD of numbers that are not known may end the list")
    bits = np.ascontiguousarray(data).view("<u4" if size == 4 else "<u2").astype(np.uint32) << np.uint32(32 - 8 * size)
    value, special = words_of(bits)
    if special.any():
        raise VectorStop(Code.VECTOR_RANGE, Check.NONE, Unit.LOAD)
    return value, np.zeros(value.shape, bool)
