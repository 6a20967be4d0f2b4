"""Random command lists for the vector unit, legal by docs/machine.md, in an order in which they may run one by one."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.spec.commands import FORMAT_BYTES, Command, LoadTarget, Opcode, OutMode, StoreSource, VectorFormat
from loralith.spec.config import PRESETS, Config
from loralith.spec.vector.program import INSTRUCTION, Format, Function, Operand, Reduce, Source, Target

TINY = replace(PRESETS["tiny"], name="tiny-vector", vector_lanes=4, v0_words=64, v1_words=64)
HALF = 32
"""Words of a scratchpad that are read; the others are written, so that what an instruction reads is what stood there before it."""


def float_bytes(rng: random.Random, count: int, low: int = 118, high: int = 130) -> bytes:
    """FP32 numbers of about 2^-9 to 2^3, both signs, all fraction bits."""
    return b"".join(struct.pack("<I", rng.getrandbits(1) << 31 | rng.randint(low, high) << 23 | rng.getrandbits(23)) for _ in range(count))


class Draw:
    """One list and the DRAM image that it starts from, at ``base``; results go to the image's second half.

    Attributes: ``image``; ``commands``; ``programs``, the bytes of instructions by address.
    """

    def __init__(self, rng: random.Random, config: Config, base: int, nbytes: int = 1 << 16) -> None:
        self.rng, self.config, self.base = rng, config, base
        self.image = bytearray(nbytes)
        self.commands: list[Command] = []
        self.programs: dict[int, bytes] = {}
        self._data, self._results = 0, nbytes // 2
        self.small = rng.random() < 0.3
        """Results in the scratchpads are INT8, each in its lane's low byte; what else a lane then holds is not specified."""

    def place(self, data: bytes) -> int:
        address = self._data
        self.image[address : address + len(data)] = data
        self._data += -(-len(data) // 64) * 64
        assert self._data <= len(self.image) // 2
        return self.base + address

    def result(self, nbytes: int) -> int:
        address = self._results
        self._results += -(-nbytes // 64) * 64
        assert self._results <= len(self.image)
        return self.base + address

    def add(self, opcode: Opcode, **fields: int) -> None:
        self.commands.append(Command.make(opcode, **{name: int(value) for name, value in fields.items() if value}))

    def scalars(self) -> None:
        """0..7 powers of two that are scales and bounds, 8..15 numbers, 24..31 bounds of sums' terms."""
        scales = b"".join(struct.pack("<f", 2.0 ** self.rng.randint(-8, 0)) for _ in range(8))
        data = scales + float_bytes(self.rng, 16) + b"".join(struct.pack("<f", 2.0 ** self.rng.randint(4, 24)) for _ in range(8))
        self.add(Opcode.LOAD, target=LoadTarget.SCALARS, address=self.place(data), rows=1, row_bytes=len(data))

    def key(self) -> None:
        data = self.rng.randbytes(8)
        self.add(Opcode.LOAD, target=LoadTarget.KEY, address=self.place(data), rows=1, row_bytes=8)

    def load(self, target: LoadTarget, depth: int) -> None:
        """Fills part of a scratchpad with rows of any format."""
        rng, L, W = self.rng, self.config.vector_lanes, self.config.bus_bytes
        form, broadcast = rng.choice(list(VectorFormat)), rng.random() < 0.3
        size, rows = FORMAT_BYTES[form], rng.randint(1, 4)
        words = rng.randint(1, depth // rows)
        elements = words if broadcast else (words - 1) * L + rng.randint(1, L)
        base = rng.randrange(depth - rows * words + 1)
        pitch = -(-elements * size // W) * W + W * rng.randrange(2)
        if form is VectorFormat.FP32:
            data = float_bytes(rng, rows * pitch // 4)
        elif form is VectorFormat.BF16:
            data = b"".join(float_bytes(rng, 1)[2:] for _ in range(rows * pitch // 2))
        else:
            data = rng.randbytes(rows * pitch)
        fields = {"rows": rows, "row_bytes": elements * size, "row_stride": pitch, "block_stride": words, "base": base}
        self.add(Opcode.LOAD, target=target, address=self.place(data), format=form, broadcast=broadcast, **fields)

    def store(self, source: StoreSource, base: int, words: int) -> None:
        """A part of a scratchpad in any format."""
        rng, L, W = self.rng, self.config.vector_lanes, self.config.bus_bytes
        form = VectorFormat.INT8 if self.small else rng.choice([VectorFormat.FP32, VectorFormat.BF16])
        broadcast = rng.random() < 0.3
        size, rows = FORMAT_BYTES[form], rng.randint(1, 3)
        words = rng.randint(1, max(words // rows, 1))
        elements = words if broadcast else (words - 1) * L + rng.randint(1, L)
        pitch = -(-elements * size // W) * W + W * rng.randrange(2)
        fields = {"rows": rows, "row_bytes": elements * size, "row_stride": pitch, "block_stride": words, "base": base}
        self.add(Opcode.STORE, source=source, address=self.result(rows * pitch), format=form, broadcast=broadcast, **fields)

    def integers(self) -> None:
        """Small INT32 products into the output buffer."""
        rng, W = self.rng, self.config.bus_bytes
        m, n, k = rng.randint(1, self.config.rows), rng.randint(1, self.config.cols), rng.randint(1, 12)
        for target, lanes in ((LoadTarget.LEFT, m), (LoadTarget.RIGHT, n)):
            pitch = -(-k // W) * W
            data = b"".join(rng.randbytes(k).ljust(pitch, b"\0") for _ in range(lanes))
            self.add(Opcode.LOAD, target=target, address=self.place(data), rows=lanes, row_bytes=k, row_stride=pitch, transpose=1)
        self.add(Opcode.COMPUTE, m_rows=m, n_cols=n, k0=k, out_mode=OutMode.INT32, to_out=1)

    def program(self, integers: bool) -> list[dict[str, int]]:
        """One to four instructions; what they read of scratchpads is in the lower half, what they write in the upper one."""
        rng = self.rng
        codes = [self._instruction(integers) for _ in range(rng.randint(1, 4))]
        data = b"".join(INSTRUCTION.pack(code) for code in codes)
        address = self.place(data)
        self.programs[address] = data
        self.first = rng.randrange(60)
        self.add(Opcode.LOAD, target=LoadTarget.PROGRAM, address=address, rows=1, row_bytes=len(data), base=self.first)
        return codes

    def _instruction(self, integers: bool) -> dict[str, int]:
        rng = self.rng
        x = rng.choice([Source.NONE, Source.V0, Source.V1, Source.SCALAR] + [Source.OUT32] * 2 * integers)
        y = rng.choice([s for s in (Source.NONE, Source.V0, Source.V1) if s == Source.NONE or s != x])
        reduce = rng.choice([Reduce.NONE] * 4 + list(Reduce))
        target = rng.choice([Target.NONE, Target.V0, Target.V0, Target.V1, Target.V1, Target.LANE, Target.SCALAR])
        code = {name: rng.choice([Operand.NONE, *Operand]) for name in "abcd"}
        code |= {name: rng.getrandbits(1) for name in ("a_negate", "b_negate", "d_negate", "reduce_to")} | {"once": rng.random() < 0.2}
        code |= {"x_source": x, "y_source": y, "x_region": 2 if x == Source.OUT32 else rng.randrange(2), "y_region": rng.randrange(2)}
        code |= {"function": rng.choice([Function.PASS, Function.PASS, Function.EXP2, Function.PHI, Function.SCALE])}
        code |= {"target": target, "target_region": 3, "lane": rng.randrange(4), "reduce": reduce, "s0": rng.randrange(16)}
        code["s1"] = rng.randrange(16)
        code |= {"s2": rng.randrange(24, 32) if reduce in (1, 2) else rng.randrange(8)} | {"s3": rng.randrange(16, 24)}
        code["format"] = rng.choice([Format.INT8, Format.INT8_STOCHASTIC] if self.small else [Format.WORD, Format.BRAIN])
        if target in (Target.LANE, Target.SCALAR) and reduce:
            code["reduce_to"] = int(target == Target.LANE)
        if target not in (Target.V0, Target.V1):
            code["format"] = rng.choice([Format.WORD, Format.BRAIN])
        return {name: int(value) for name, value in code.items()}

    def vector(self, codes: list[dict[str, int]]) -> None:
        rng = self.rng
        outer, inner = rng.randint(1, 4), rng.randint(1, 7)
        fields = {"first": self.first, "count": len(codes), "outer": outer, "inner": inner}
        fields |= {"lanes": rng.randint(1, self.config.vector_lanes), "partial_inner": rng.getrandbits(1)}
        for region in range(4):
            stride = rng.randrange(2), rng.randrange(2)
            if region == 2:
                stride = (rng.randrange(2) * self.config.rows // self.config.vector_lanes, 0)
            fields[f"region{region}_base"] = {0: rng.randrange(8), 1: rng.randrange(8), 2: 0, 3: HALF}[region]
            fields[f"region{region}_outer"], fields[f"region{region}_inner"] = stride if region != 3 else (inner, 1)
        fields |= {name: rng.getrandbits(32) for name in ("key0", "key1", "index_base", "index_outer", "index_inner")}
        self.add(Opcode.VECTOR, **fields)

    def whole(self) -> None:
        """Loads, a program, and stores of all that it may have written."""
        integers = self.rng.random() < 0.5
        self.scalars()
        self.key()
        for target in (LoadTarget.V0, LoadTarget.V1):
            for _ in range(self.rng.randint(1, 3)):
                self.load(target, HALF)
        if integers:
            self.integers()
        self.vector(self.program(integers))
        for source in (StoreSource.V0, StoreSource.V1):
            self.store(source, HALF, 28)
        self.add(Opcode.STORE, source=StoreSource.SCALARS, address=self.result(32 * 4), rows=1, row_bytes=32 * 4)

    def list(self) -> CommandList:
        return CommandList(tuple(self.commands))


def image_of(draw: Draw) -> np.ndarray:
    return np.frombuffer(bytes(draw.image), np.uint8)
