"""Runs a VECTOR on the oracle's memories, instruction by instruction, as docs/vector_unit.md and docs/machine.md define it.

An instruction is run for all words of its inner loop at once: what it reads of other iterations' results is not specified, and is masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from loralith.spec.config import Config
from loralith.spec.numerics import hash32
from loralith.spec.status import Check, Code, Unit
from loralith.spec.vector.program import HASH_LANES, INSTRUCTION, Format, Function, Operand, Reduce, Source, Target
from loralith.verif.lists.drawn_places import Fields
from loralith.verif.lists.vector_numbers import BRAIN, FUNCTIONS, exponent_field, quantized, rounded, terms
from loralith.verif.lists.vector_state import Unspecified, VectorState, VectorStop

__all__ = ["SUMS", "VectorRun", "code_of", "kind_of"]

SUMS = (Reduce.SUM_LANE, Reduce.SUM_ALL)
OVER_LANES = (Reduce.SUM_ALL, Reduce.MAX_ALL, Reduce.TOP_ALL)
TOPS = (Reduce.TOP_LANE, Reduce.TOP_ALL)
SCRATCH = {Source.V0: "v0", Source.V1: "v1"}
LONGEST = 1 << 20
"""Words of a VECTOR that are run at most: more would take minutes."""


@lru_cache(maxsize=4096)
def code_of(data: bytes) -> Fields:
    """The fields of an instruction."""
    return INSTRUCTION.unpack(data)


def kind_of(reduce: int) -> str:
    """Which of a lane's two results a reduction uses; empty for none."""
    return "" if reduce == Reduce.NONE else "sum" if reduce in SUMS else "maximum"


@dataclass
class _Partial:
    """A reduction so far: total and k of a sum (INT8: of integers), or extremes and which lanes have one."""

    total: np.ndarray
    seen: np.ndarray
    k: int = 0


class VectorRun:
    """One VECTOR on ``state``, which it changes. ``out``: data and mask of the output buffer, [row, bank, lane].

    Attributes: `clips`, results of INT8 that were clipped.
    """

    def __init__(self, c: Fields, state: VectorState, out: tuple[np.ndarray, np.ndarray], config: Config) -> None:
        self.c, self.state, self.out, self.config = c, state, out, config
        self.clips = 0
        self._partials: dict[int, _Partial] = {}

    def run(self) -> None:
        """Raises VectorStop where it ends the list, Unspecified where the pages do not say what it does."""
        c = self.c
        numbers = range(c["first"], c["first"] + c["count"])
        if c["outer"] * c["inner"] * c["count"] > LONGEST:
            raise Unspecified("a VECTOR that would take minutes")
        for o in range(c["outer"]):
            for number in numbers:
                if self.state.program_unknown[number]:
                    raise Unspecified(f"instruction {number} is not known")
                self._instruction(o, number, code_of(self.state.program[number].tobytes()))

    # One instruction in one outer iteration.

    def _instruction(self, o: int, number: int, code: Fields) -> None:
        self._meaning(number, code)
        m = 1 if code["once"] else self.c["inner"]
        self._alone(number, code)
        count, fault = self._bounds(o, code, m)
        x = self._source(o, code["x_source"], code["x_region"], code, count)
        y = self._source(o, code["y_source"], code["y_region"], code, count)
        live = self._live(o, code, count)
        value, unknown, wide = self._chain(code, x, y, m)
        k = self._scale_of(code)
        packed, byte, wide_too, clipped, term = self._pack(o, code, value, k)
        wide = wide | wide_too
        if (unknown & live).any():
            raise Unspecified(f"instruction {number} reads what is not known, and so may end the list")
        if (wide & live).any():
            raise VectorStop(Code.VECTOR_RANGE, Check.NONE, Unit.VECTOR, number)
        if count < m:
            raise VectorStop(Code.SCRATCHPAD_BOUNDS, fault, Unit.VECTOR, number)
        self.clips += int((clipped & live).sum())
        self._write(o, code, packed, byte, ~live)
        if code["reduce"]:
            self._reduce(o, number, code, value, term, live, k)

    @staticmethod
    def _meaning(number: int, code: Fields) -> None:
        x, y = code["x_source"], code["y_source"]
        if (
            x > Source.SCALAR
            or x == Source.ROW_MAX
            or y == 3
            or (y and x == y)
            or code["function"] > Function.SCALE
            or code["reduce"] > Reduce.TOP_ALL
            or code["target"] > Target.SCALAR
            or code["target"] == Target.LEFT
        ):
            raise VectorStop(Code.BAD_FIELD, Check.PROGRAM, Unit.VECTOR, number)

    def _alone(self, number: int, code: Fields) -> None:
        """What a program must not do."""
        reduce, to_scalar = code["reduce"], code["reduce_to"]
        if reduce and code["target"] == (Target.SCALAR if to_scalar else Target.LANE):
            raise Unspecified("a result and a reduction that go to the same place")
        if not (reduce and code["over_outer"]):
            return
        for other in range(self.c["first"], self.c["first"] + self.c["count"]):
            if other != number and kind_of(code_of(self.state.program[other].tobytes())["reduce"]) == kind_of(reduce):
                raise Unspecified("a reduction beside one of its kind over the outer loop")

    def _places(self, o: int, region: int, count: int) -> np.ndarray:
        c = self.c
        return (c[f"region{region}_base"] + o * c[f"region{region}_outer"] + np.arange(count) * c[f"region{region}_inner"]) & 0xFFFF

    def _column(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Column of the output buffer and which part of its lanes, of each word."""
        parts = self.config.rows // self.config.vector_lanes
        return places // parts, places % parts

    def _bounds(self, o: int, code: Fields, m: int) -> tuple[int, Check]:
        """How many words are inside their memories before the first that is not, and the check that this one fails."""
        first, check = m, Check.NONE
        streams = (
            (code["x_source"], code["x_region"]),
            (code["y_source"], code["y_region"]),
            (code["target"] if code["target"] in SCRATCH else 0, code["target_region"]),
        )
        for source, region in streams:
            if source not in (*SCRATCH, Source.OUT32):
                continue
            places = self._places(o, region, m)
            if source == Source.OUT32:
                places, depth, name = 4 * self._column(places)[0] // self.config.bus_bytes, self.config.out_depth, Check.OUT
            else:
                depth, name = len(self.state.scratch[SCRATCH[Source(source)]].value), Check[Source(source).name]
            outside = np.flatnonzero(places >= depth)
            if outside.size and outside[0] < first:
                first, check = int(outside[0]), name
        return first, check

    def _source(self, o: int, source: int, region: int, code: Fields, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Words of a stream and which are not known, [count, lanes]."""
        state, L = self.state, self.state.lanes
        if source == Source.SCALAR:
            number = code["s0"]
            return np.full((count, L), state.scalars.value[number]), np.full((count, L), self._scalar_unknown(code, number))
        if source == Source.NONE:
            return np.zeros((count, L)), np.zeros((count, L), bool)
        places = self._places(o, region, count)
        if source == Source.OUT32:
            column, part = self._column(places)
            W = self.config.bus_bytes
            at = (4 * column // W)[:, None, None], (4 * column % W)[:, None, None] + np.arange(4)
            lanes = (part[:, None] * L + np.arange(L))[:, :, None]
            data, unknown = (memory[(*at, lanes)] for memory in self.out)
            integers = np.ascontiguousarray(data).view("<i4")[:, :, 0]
            return rounded(integers.astype(np.float64))[0], np.asarray(unknown.any(axis=2))
        words = state.scratch[SCRATCH[Source(source)]]
        value, unknown = words.value[places], words.unknown[places]
        if code["target"] == source:
            written = self._places(o, code["target_region"], count)
            others = (places[:, None] == written) & ~np.eye(count, dtype=bool)
            unknown = unknown | others.any(axis=1)[:, None]
        return value, unknown

    def _scalar_unknown(self, code: Fields, number: int) -> bool:
        """Also what the instruction itself writes, but of a loop of one word."""
        own = code["target"] == Target.SCALAR and code["s3"] == number and not (code["once"] or self.c["inner"] == 1)
        return own or bool(self.state.scalars.unknown[number])

    def _live(self, o: int, code: Fields, count: int) -> np.ndarray:
        """Which lanes of which words are in the tensor."""
        c = self.c
        live = np.ones((count, self.state.lanes), bool)
        if c["partial_inner"]:
            if not code["once"] and count == c["inner"]:
                live[-1:, c["lanes"] :] = False
        elif o == c["outer"] - 1:
            live[:, c["lanes"] :] = False
        return live

    def _operand(self, code: Fields, name: str, x: tuple, y: tuple, m: int) -> tuple[np.ndarray, np.ndarray]:
        select, state = code[name], self.state
        if select == Operand.X:
            return x
        if select == Operand.Y:
            return y
        if select == Operand.SCALAR:
            number = code["s0" if name in "ab" else "s1"]
            return state.scalars.value[number], np.array(self._scalar_unknown(code, number))
        lane = select - Operand.L0
        own = code["target"] == Target.LANE and code["lane"] == lane and m > 1
        return state.registers.value[lane], state.registers.unknown[lane] | own

    def _chain(self, code: Fields, x: tuple, y: tuple, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """y = ((f(x a + b)) c + d): values, which are not known, which left the range."""
        value, unknown = x
        wide = np.zeros(value.shape, bool)

        def take(result: tuple[np.ndarray, np.ndarray]) -> None:
            nonlocal value, wide
            value, wide = result[0], wide | result[1]

        for product, sum_of in (("a", "b"), ("c", "d")):
            if code[product]:
                factor, mask = self._operand(code, product, x, y, m)
                unknown = unknown | mask
                take(rounded(value * factor))
            if product == "a" and code["a_negate"]:
                value = 0.0 - value
            if code[sum_of]:
                addend, mask = self._operand(code, sum_of, x, y, m)
                unknown = unknown | mask
                take(rounded(value - addend if code[f"{sum_of}_negate"] else value + addend))
            if product == "a" and code["function"]:
                with np.errstate(all="ignore"):  # of values out of range
                    take(FUNCTIONS[code["function"]](value))
        return value, np.broadcast_to(unknown, value.shape), wide

    def _scale_of(self, code: Fields) -> int:
        """k of a quantization, or of a sum's bound."""
        int8, sums = code["format"] >= Format.INT8, code["reduce"] in SUMS
        if not (int8 or sums):
            return 0
        if self._scalar_unknown(code, code["s2"]):
            raise Unspecified("a scale or bound that is not known")
        field = int(exponent_field(self.state.scalars.value[code["s2"]]))
        if int8:
            return field - 127
        if field == 0:
            raise Unspecified("a bound of zero: there is no next power of two")
        return field - 126

    def _pack(self, o: int, code: Fields, value: np.ndarray, k: int) -> tuple:
        """(words, low bytes or None, which left the range, which were clipped, terms of a sum)."""
        none = np.zeros(value.shape, bool)
        if code["format"] >= Format.INT8:
            random = self._bytes(o, code, len(value)) if code["format"] == Format.INT8_STOCHASTIC else None
            q, clipped = quantized(value, k, random)
            return value, q, none, clipped, q
        term, wide = terms(value, k) if code["reduce"] in SUMS else (None, none)
        if code["format"] == Format.BRAIN:
            brain, wide_too = rounded(value, BRAIN)
            return brain, None, wide | wide_too, none, term
        return value, None, wide, none, term

    def _bytes(self, o: int, code: Fields, count: int) -> np.ndarray:
        """Random bytes, [count, lanes]."""
        c, state, lane = self.c, self.state, np.arange(self.state.lanes)
        if state.key_unknown:
            raise Unspecified("stochastic rounding by a key that is not known")
        index = c["index_base"] + o * c["index_outer"] + np.arange(count, dtype=np.int64)[:, None] * c["index_inner"] + lane // HASH_LANES
        h = hash32((c["key0"] ^ state.key[0], c["key1"] ^ state.key[1]), (index & 0xFFFF_FFFF).astype(np.uint64))
        return (h >> (8 * (lane % HASH_LANES)).astype(np.uint64) & np.uint64(255)).astype(np.int64)

    def _write(self, o: int, code: Fields, value: np.ndarray, byte: np.ndarray | None, dead: np.ndarray) -> None:
        state, target = self.state, code["target"]
        if target == Target.LANE:
            # An INT8 is the low byte of a lane in V0 and V1 only.
            state.registers.put(code["lane"], value[-1], dead[-1] | (byte is not None))
        elif target == Target.SCALAR:
            state.scalars.put(code["s3"], value[-1, 0], np.array(byte is not None))
        elif target in SCRATCH:
            words, places = state.scratch[SCRATCH[Source(target)]], self._places(o, code["target_region"], len(value))
            if self.c[f"region{code['target_region']}_inner"] == 0:  # the last one stays
                places, value, dead = places[-1:], value[-1:], dead[-1:]
                byte = None if byte is None else byte[-1:]
            if byte is None:
                words.put(places, value, dead)
            else:
                words.put_bytes(places, byte, dead)

    # Reductions

    def _reduce(self, o: int, number: int, code: Fields, value: np.ndarray, term: np.ndarray | None, live: np.ndarray, k: int) -> None:
        seen = np.asarray(live.any(axis=0))
        if code["reduce"] in SUMS:
            assert term is not None
            part = _Partial(np.where(live, term, 0).sum(axis=0), seen, k)
        else:
            size = value if code["reduce"] in TOPS else np.abs(value)
            part = _Partial(np.where(live, size, -np.inf).max(axis=0), seen)
        if code["over_outer"]:
            before = self._partials.get(number)
            if before is not None:
                part = _joined(before, part, code["reduce"] in SUMS)
            self._partials[number] = part
            if o < self.c["outer"] - 1:
                return
        self._finish(number, code, part)

    def _finish(self, number: int, code: Fields, part: _Partial) -> None:
        reduce, state, L = code["reduce"], self.state, self.state.lanes
        total, unknown = part.total, np.zeros(L, bool)
        if reduce in OVER_LANES:
            total = np.full(L, total.sum() if reduce in SUMS else total.max())
        elif reduce in TOPS:
            unknown = ~part.seen  # the largest of no values
        if reduce in SUMS:
            if np.abs(total).max() >= 1 << 53:
                raise Unspecified("a sum that this oracle cannot hold")
            unit = part.k if code["format"] >= Format.INT8 else part.k - 32
            total, wide = rounded(np.ldexp(total.astype(np.float64), unit))
            if wide[0] or (wide.any() and not code["reduce_to"]):
                raise VectorStop(Code.VECTOR_RANGE, Check.NONE, Unit.VECTOR, number)
            if wide.any():
                raise Unspecified("a sum out of range that goes nowhere")
        total = np.where(np.isinf(total), 0.0, total)
        if code["reduce_to"]:
            state.scalars.put(code["s3"], total[0], unknown[0])
        else:
            state.registers.put(code["lane"], total, unknown)


def _joined(a: _Partial, b: _Partial, sums: bool) -> _Partial:
    if sums and a.k != b.k:
        raise Unspecified("a sum over the outer loop with bounds that differ")
    return _Partial(a.total + b.total if sums else np.maximum(a.total, b.total), a.seen | b.seen, a.k)
