"""LOAD and STORE of the vector unit's memories on numpy arrays, as docs/machine.md defines them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from loralith.device.interpreter import vector_arithmetic as arithmetic
from loralith.device.interpreter.onchip import VectorMemories
from loralith.spec.commands import FORMAT_BYTES, LoadTarget, StoreSource, VectorFormat
from loralith.spec.status import Check, Code
from loralith.spec.vector.numbers import FRACTION_BITS
from loralith.spec.vector.program import INSTRUCTION, INSTRUCTION_BYTES

__all__ = ["VectorFault", "load_vector", "store_vector"]

Fields = Mapping[str, int]
Words = NDArray[np.uint32]


class VectorFault(Exception):
    """What ends the list: a code, a detail and the number of the instruction."""

    def __init__(self, code: Code, detail: Check, instruction: int = 0) -> None:
        super().__init__(f"{code.name} in instruction {instruction}")
        self.code, self.detail, self.instruction = code, detail, instruction


def _from_dram(rows: NDArray[np.uint8], form: VectorFormat) -> Words:
    """[rows, elements]. Raises VectorFault for an infinity or a NaN."""
    rows = np.ascontiguousarray(rows)
    if form is VectorFormat.INT8:
        return arithmetic.words_of(rows.view(np.int8).astype(np.float64))
    words = rows.view("<u2").astype(np.uint32) << 9 if form is VectorFormat.BF16 else rows.view("<u4") >> 7
    exponents = words >> FRACTION_BITS & 0xFF
    if (exponents == 0xFF).any():
        raise VectorFault(Code.VECTOR_RANGE, Check.NONE)
    return np.where(exponents == 0, 0, words).astype(np.uint32)


def load_vector(c: Fields, rows: NDArray[np.uint8], vector: VectorMemories) -> None:
    """Run a LOAD with a target of the vector unit; ``rows`` is what it reads. Raises VectorFault."""
    target, base = LoadTarget(c["target"]), c["base"]
    if target is LoadTarget.KEY:
        vector.key = [int(x) for x in np.ascontiguousarray(rows[0]).view("<u4")]
    elif target is LoadTarget.PROGRAM:
        data = rows[0].tobytes()
        for i in range(len(data) // INSTRUCTION_BYTES):
            vector.program[base + i] = INSTRUCTION.unpack(data[i * INSTRUCTION_BYTES : (i + 1) * INSTRUCTION_BYTES])
    elif target is LoadTarget.SCALARS:
        words = _from_dram(rows, VectorFormat.FP32)[0]
        vector.scalars[base : base + len(words)] = words
    else:
        memory = vector.scratchpads[target - LoadTarget.V0]
        words = _from_dram(rows, VectorFormat(c["format"]))
        if c["broadcast"]:
            lines = np.repeat(words[:, :, None], vector.lanes, axis=2)
        else:
            lines = np.zeros((len(words), -(-words.shape[1] // vector.lanes) * vector.lanes), np.uint32)
            lines[:, : words.shape[1]] = words
            lines = lines.reshape(len(words), -1, vector.lanes)
        for i, line in enumerate(lines):
            first = base + i * c["block_stride"]
            memory[first : first + len(line)] = line


def store_vector(c: Fields, target: NDArray[np.int8], vector: VectorMemories) -> None:
    """Run a STORE with a source of the vector unit into ``target``, int8 [rows, row_bytes]."""
    source, base = StoreSource(c["source"]), c["base"]
    if source is StoreSource.SCALARS:
        scalars = vector.scalars[base : base + target.shape[1] // 4]
        target[0] = arithmetic.floats_of(scalars).view(np.int8)
        return
    memory, form = vector.scratchpads[source - StoreSource.V0], VectorFormat(c["format"])
    count = target.shape[1] // FORMAT_BYTES[form]
    for i, row in enumerate(target):
        first = base + i * c["block_stride"]
        lines = memory[first : first + (count if c["broadcast"] else -(-count // vector.lanes))]
        words = lines[:, 0] if c["broadcast"] else lines.reshape(-1)[:count]
        if form is VectorFormat.FP32:
            row[:] = arithmetic.floats_of(words).view(np.int8)
        elif form is VectorFormat.BF16:
            row[:] = (words >> 9).astype("<u2").view(np.int8)
        else:
            row[:] = words.astype(np.uint8).view(np.int8)
