"""VECTOR on numpy arrays, as docs/machine.md and docs/vector_unit.md define it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loralith.device.interpreter import vector_arithmetic as arithmetic
from loralith.device.interpreter.onchip import Memories, VectorMemories
from loralith.device.interpreter.vector_transfers import VectorFault
from loralith.spec.config import Config
from loralith.spec.numerics import hash32
from loralith.spec.status import Check, Code
from loralith.spec.vector.numbers import BIAS, BRAIN_BITS, FRACTION_BITS, SUM_FRACTION_BITS, RangeError, from_integer
from loralith.spec.vector.program import (
    Format,
    Function,
    Operand,
    Reduce,
    Source,
    Target,
)

__all__ = ["run_vector"]

Fields = Mapping[str, int]
Words = NDArray[np.uint32]
Values = NDArray[np.float64]

_SUMS = (Reduce.SUM_LANE, Reduce.SUM_ALL)
_OVER_LANES = (Reduce.SUM_ALL, Reduce.MAX_ALL, Reduce.TOP_ALL)
_NEVER = -1


def _meaningless(code: Fields) -> bool:
    """Whether an instruction is refused before it runs."""
    return (
        code["x_source"] > Source.SCALAR
        or code["x_source"] == Source.ROW_MAX
        or code["y_source"] > Source.V1
        or (code["y_source"] != Source.NONE and code["y_source"] == code["x_source"])
        or code["function"] > Function.SCALE
        or code["reduce"] > Reduce.TOP_ALL
        or code["target"] > Target.SCALAR
        or code["target"] == Target.LEFT
    )


@dataclass
class _Block:
    """Iterations of an instruction that run at once: outer numbers [O, 1], inner numbers [1, n]."""

    outer: NDArray[np.int64]
    inner: NDArray[np.int64]
    last: bool
    live: NDArray[np.bool_]


@dataclass
class _Totals:
    """What the lanes hold of reductions: sums [L] in the units of their instruction, maxima and largest values [L]; the exponent of the
    sum's bound or scale as its terms were made by it, since the instruction itself may write that scalar."""

    sums: NDArray[np.int64]
    maxima: Values
    tops: Values = field(default_factory=lambda: np.zeros(0))
    exponent: int = 0


def run_vector(c: Fields, memories: Memories, config: Config) -> int:
    """Run a VECTOR. Returns how many INT8 results were clipped. Raises VectorFault."""
    assert memories.vector is not None
    program = memories.vector.program[c["first"] : c["first"] + c["count"]]
    run = _Run(c, program, memories, config)
    if any(map(_meaningless, program)) or c["outer"] == 1 or not run.independent():
        return run.one_by_one()
    before = VectorMemories(config)
    memories.vector.copy_into(before)
    try:
        return run.all_at_once()
    except VectorFault:  # which instruction faults first, the order of iterations tells
        before.copy_into(memories.vector)
        return _Run(c, program, memories, config).one_by_one()


class _Run:
    """A VECTOR command. Lane registers are [O, L] while all outer iterations run at once, else [1, L]."""

    def __init__(self, c: Fields, program: Sequence[Fields], memories: Memories, config: Config) -> None:
        assert memories.vector is not None
        self.c, self.program, self.memories, self.config = c, program, memories, config
        self.vector = memories.vector
        self.lanes = self.vector.lanes
        self.clipped = 0
        self.registers = [row[None].copy() for row in self.vector.registers]
        self.totals = [self._nothing() for _ in program]

    def _nothing(self) -> _Totals:
        return _Totals(np.zeros(self.lanes, np.int64), np.zeros(self.lanes), np.full(self.lanes, -np.inf))

    def one_by_one(self) -> int:
        for outer in range(self.c["outer"]):
            for at, code in enumerate(self.program):
                self._instruction(at, code, self._block(code, np.array([[outer]])))
        return self._end()

    def all_at_once(self) -> int:
        for at, code in enumerate(self.program):
            self._instruction(at, code, self._block(code, np.arange(self.c["outer"])[:, None]))
        return self._end()

    def _end(self) -> int:
        for number, register in enumerate(self.registers):
            self.vector.registers[number] = register[-1]
        return self.clipped

    def _block(self, code: Fields, outer: NDArray[np.int64], inner: NDArray[np.int64] | None = None) -> _Block:
        """``inner`` None: all inner iterations."""
        if inner is None:
            inner = np.arange(1 if code["once"] else self.c["inner"])[None]
        if self.c["partial_inner"]:
            partial = (inner == self.c["inner"] - 1) & (not code["once"]) & (outer >= 0)
        else:
            partial = (outer == self.c["outer"] - 1) & (inner >= 0)
        live = ~partial[:, :, None] | (np.arange(self.lanes) < self.c["lanes"])
        return _Block(outer, inner, int(outer[-1, 0]) == self.c["outer"] - 1, live)

    def _addresses(self, region: int, block: _Block) -> NDArray[np.int64]:
        base, outer, inner = (self.c[f"region{region}_{name}"] for name in ("base", "outer", "inner"))
        return (base + block.outer * outer + block.inner * inner) % (1 << 16)

    # Whether the order of outer iterations matters.

    def independent(self) -> bool:
        """Whether no outer iteration sees what another one leaves: instructions may then run over all of them."""
        written: set[int] = set()
        scalars_read = {code[name] for code in self.program for name in ("s0", "s1", "s2")}
        owner = [np.full(1 << 16, _NEVER, np.int64) for _ in range(2)]
        later = {self._register(code) for code in self.program} - {None}
        for code in self.program:
            if self._writes_scalar(code) and code["s3"] in scalars_read:
                return False
            if any(code[name] >= Operand.L0 and (code[name] - Operand.L0) in later - written for name in "abcd"):
                return False
            if code["reduce"] and code["over_outer"]:
                if not code["reduce_to"]:
                    return False
            elif (register := self._register(code)) is not None:
                written.add(register)
            if code["reduce_to"] and code["reduce"] and not code["over_outer"]:
                return False
        for code in self.program:
            if code["target"] in (Target.V0, Target.V1):
                block = self._block(code, np.arange(self.c["outer"])[:, None])
                owners, places = owner[code["target"] - Target.V0], self._addresses(code["target_region"], block)
                numbers = np.broadcast_to(block.outer, places.shape)
                if (~np.isin(owners[places], (_NEVER,)) & (owners[places] != numbers)).any():
                    return False
                owners[places] = numbers
                if (owners[places] != numbers).any():
                    return False
        for code in self.program:
            for source, region in ((code["x_source"], code["x_region"]), (code["y_source"], code["y_region"])):
                if source in (Source.V0, Source.V1):
                    block = self._block(code, np.arange(self.c["outer"])[:, None])
                    found = owner[source - Source.V0][self._addresses(region, block)]
                    if ((found != _NEVER) & (found != block.outer)).any():
                        return False
        return True

    @staticmethod
    def _register(code: Fields) -> int | None:
        """The lane register that an instruction writes."""
        reduced = bool(code["reduce"]) and not code["reduce_to"]
        return code["lane"] if reduced or code["target"] == Target.LANE else None

    @staticmethod
    def _writes_scalar(code: Fields) -> bool:
        return code["target"] == Target.SCALAR or bool(code["reduce"] and code["reduce_to"])

    # One instruction.

    def _instruction(self, at: int, code: Fields, block: _Block) -> None:
        self.number = self.c["first"] + at
        if _meaningless(code):
            raise VectorFault(Code.BAD_FIELD, Check.PROGRAM, self.number)
        try:
            self._words(at, code, block)
        except VectorFault:  # nothing is written yet; of several faults that of the first word counts
            for inner in range(block.inner.shape[1] if len(block.outer) == 1 else 0):
                self._words(at, code, self._block(code, block.outer, np.array([[inner]])))
            raise
        if code["reduce"] and (block.last or not code["over_outer"]):
            self._reduced(at, code)

    def _words(self, at: int, code: Fields, block: _Block) -> None:
        x, y = (self._stream(code, code[f"{name}_source"], code[f"{name}_region"], block) for name in "xy")
        targets = self._target_places(code, block)
        value = self._chain(code, x, y, block)
        words, integers = self._rounded(code, value, block)
        self._reduce_words(at, code, value, integers, block)
        self._write(code, words, targets)

    def _fault_where(self, wrong: NDArray[np.bool_], block: _Block) -> None:
        if (wrong & block.live).any():
            raise VectorFault(Code.VECTOR_RANGE, Check.NONE, self.number)

    def _in_bounds(self, places: NDArray[np.int64], depth: int, detail: Check) -> NDArray[np.int64]:
        if (places >= depth).any():
            raise VectorFault(Code.SCRATCHPAD_BOUNDS, detail, self.number)
        return places

    def _stream(self, code: Fields, source: int, region: int, block: _Block) -> Values:
        shape = (len(block.outer), block.inner.shape[1], self.lanes)
        if source == Source.NONE:
            return np.zeros(shape)
        if source == Source.SCALAR:
            return np.broadcast_to(arithmetic.values_of(self.vector.scalars[code["s0"]]), shape)
        places = self._addresses(region, block)
        if source == Source.OUT32:
            cells, groups = self.memories.out.cells, self.config.rows // self.lanes
            columns, group = places // groups, places % groups
            self._in_bounds(columns, len(cells) // 4, Check.OUT)
            sums = np.ascontiguousarray(cells.reshape(-1, 4, groups, self.lanes)[columns, :, group].swapaxes(-1, -2)).view("<i4")[..., 0]
            return self._round(sums.astype(np.float64), block)
        memory = self.vector.scratchpads[source - Source.V0]
        return arithmetic.values_of(memory[self._in_bounds(places, len(memory), Check(Check.V0 + source - Source.V0))])

    def _target_places(self, code: Fields, block: _Block) -> NDArray[np.int64] | None:
        if code["target"] not in (Target.V0, Target.V1):
            return None
        which = code["target"] - Target.V0
        places = self._addresses(code["target_region"], block)
        return self._in_bounds(places, len(self.vector.scratchpads[which]), Check(Check.V0 + which))

    def _round(self, values: Values, block: _Block, bits: int = FRACTION_BITS) -> Values:
        rounded, over = arithmetic.round_to(values, bits)
        self._fault_where(over, block)
        return np.where(over, 0.0, rounded)

    def _operand(self, code: Fields, name: str, x: Values, y: Values) -> Values:
        kind = code[name]
        if kind == Operand.X:
            return x
        if kind == Operand.Y:
            return y
        if kind == Operand.SCALAR:
            return arithmetic.values_of(self.vector.scalars[code["s0" if name in "ab" else "s1"]])
        return arithmetic.values_of(self.registers[kind - Operand.L0])[:, None]

    def _chain(self, code: Fields, x: Values, y: Values, block: _Block) -> Values:
        value = x
        for multiply, add, apply in (("a", "b", False), ("c", "d", True)):
            if apply:
                value = self._function(code["function"], value, block)
            if code[multiply] != Operand.NONE:
                value = self._round(value * self._operand(code, multiply, x, y), block)
            if multiply == "a" and code["a_negate"]:
                value = 0.0 - value
            if code[add] != Operand.NONE:
                operand = self._operand(code, add, x, y)
                value = self._round(value - operand if code[f"{add}_negate"] else value + operand, block)
        return np.broadcast_to(value, block.live.shape)

    def _function(self, function: int, x: Values, block: _Block) -> Values:
        if function == Function.PASS:
            return x
        if function == Function.EXP2:
            return self._round(arithmetic.exp2(x), block)
        if function == Function.PHI:
            return self._round(arithmetic.phi(x), block)
        if function == Function.SCALE:
            return arithmetic.scale_of(x)
        y, wrong = arithmetic.reciprocal(x) if function == Function.RECIPROCAL else arithmetic.rsqrt(x)
        self._fault_where(np.broadcast_to(wrong, block.live.shape), block)
        return self._round(y, block)

    def _scale_exponent(self, code: Fields) -> int:
        return (int(self.vector.scalars[code["s2"]]) >> FRACTION_BITS & 0xFF) - BIAS

    def _rounded(self, code: Fields, value: Values, block: _Block) -> tuple[Words, NDArray[np.int64] | None]:
        """(words as they are stored, the integers of an INT8 result)."""
        if code["format"] == Format.WORD:
            return arithmetic.words_of(value), None
        if code["format"] == Format.BRAIN:
            return arithmetic.words_of(self._round(value, block, BRAIN_BITS)), None
        random = self._random(block) if code["format"] == Format.INT8_STOCHASTIC else None
        q, clipped = arithmetic.quantize(value, self._scale_exponent(code), random)
        self.clipped += int((clipped & block.live).sum())
        return (q & 0xFF).astype(np.uint32), q

    def _random(self, block: _Block) -> NDArray[np.int64]:
        c, lanes = self.c, np.arange(self.lanes)
        index = c["index_base"] + block.outer * c["index_outer"] + block.inner * c["index_inner"]
        index = (index[:, :, None] + lanes // 4) & 0xFFFF_FFFF
        key = (c["key0"] ^ self.vector.key[0], c["key1"] ^ self.vector.key[1])
        return hash32(key, index) >> 8 * (lanes % 4) & 0xFF

    def _write(self, code: Fields, words: Words, places: NDArray[np.int64] | None) -> None:
        if places is not None:
            self.vector.scratchpads[code["target"] - Target.V0][places] = words
        elif code["target"] == Target.LANE:
            self.registers[code["lane"]] = words[:, -1].copy()
        elif code["target"] == Target.SCALAR:
            self.vector.scalars[code["s3"]] = words[-1, -1, 0]

    # Reductions.

    def _reduce_words(self, at: int, code: Fields, value: Values, integers: NDArray[np.int64] | None, block: _Block) -> None:
        """Adds a block's results to what the lanes hold; the outer iterations stay apart unless the reduction runs over them."""
        reduce = Reduce(code["reduce"])
        if reduce is Reduce.NONE:
            return
        axes = (0, 1) if code["over_outer"] else (1,)
        fresh = not code["over_outer"] or int(block.outer[0, 0]) == 0
        totals = self._nothing() if fresh else self.totals[at]
        if reduce in _SUMS:
            totals.exponent = self._scale_exponent(code)
            if integers is None:
                integers, over = arithmetic.terms(value, self._scale_exponent(code) + 1)
                self._fault_where(over, block)
            totals.sums = totals.sums + np.where(block.live, integers, 0).sum(axes)
        elif reduce in (Reduce.MAX_LANE, Reduce.MAX_ALL):
            totals.maxima = np.maximum(totals.maxima, np.where(block.live, np.abs(value), 0.0).max(axes))
        else:
            totals.tops = np.maximum(totals.tops, np.where(block.live, value, -np.inf).max(axes))
        self.totals[at] = totals

    def _reduced(self, at: int, code: Fields) -> None:
        """Writes a reduction's result: for each of the outer iterations that ran at once, or the one over all of them."""
        reduce, totals = Reduce(code["reduce"]), self.totals[at]
        if reduce in _SUMS:
            sums = np.atleast_2d(totals.sums)
            if reduce in _OVER_LANES:
                sums = np.repeat(sums.sum(1, keepdims=True), self.lanes, 1)
            k = totals.exponent
            exponent = k if code["format"] in (Format.INT8, Format.INT8_STOCHASTIC) else k + 1 - SUM_FRACTION_BITS
            try:
                words = np.array([[from_integer(int(total), exponent) for total in row] for row in sums], np.uint32)
            except RangeError:
                raise VectorFault(Code.VECTOR_RANGE, Check.NONE, self.number) from None
        else:
            largest = np.atleast_2d(totals.maxima if reduce in (Reduce.MAX_LANE, Reduce.MAX_ALL) else totals.tops)
            if reduce in _OVER_LANES:
                largest = np.repeat(largest.max(1, keepdims=True), self.lanes, 1)
            words = arithmetic.words_of(np.where(np.isfinite(largest), largest, 0.0))
        if code["reduce_to"]:
            self.vector.scalars[code["s3"]] = words[-1, 0]
        else:
            self.registers[code["lane"]] = words
