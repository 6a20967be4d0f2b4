"""The vector unit as docs/vector_unit.md says, one element after the other, and random programs for it.

``Machine`` is written from the page, with the words of ``loralith.spec.vector.numbers``.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

from loralith.spec.numerics import hash32
from loralith.spec.vector import numbers
from loralith.spec.vector.program import Format, Function, Operand, Reduce, Source, Target

LANES = 2
DEPTHS = (64, 32)
FUNCTIONS = {
    Function.PASS: lambda x: x,
    Function.EXP2: numbers.exp2,
    Function.RECIPROCAL: numbers.reciprocal,
    Function.RSQRT: numbers.rsqrt,
    Function.PHI: numbers.phi,
    Function.SCALE: lambda x: numbers.quantize_shift(x) + numbers.BIAS << numbers.FRACTION_BITS,
}


class UnknownError(Exception):
    """A lane of the tensor depends on one outside of it, whose number left the range."""


@dataclass
class Machine:
    """What a command changes. ``integers`` are taken one word after the other; ``left`` holds the writes, (address, lanes, bytes)."""

    memories: list[list[list[int]]]
    scalars: list[int]
    registers: list[list[int]] = field(default_factory=lambda: [[0] * LANES for _ in range(4)])
    integers: list[list[int]] = field(default_factory=list)
    left: list[tuple[int, int, list[int]]] = field(default_factory=list)
    saturations: int = 0

    def run(self, program: list[dict], command: dict) -> int | None:
        """The first instruction that left the range of numbers, or None."""
        self.saturations, self.left = 0, []
        self.sums, self.maxima = [0] * LANES, [0] * LANES
        for outer in range(command["outer"]):
            for number in range(command["first"], command["first"] + command["count"]):
                try:
                    self._instruction(program[number], command, outer)
                except numbers.RangeError:
                    return number
        return None

    def _instruction(self, code: dict, command: dict, outer: int) -> None:
        if code["reduce"] and not (code["over_outer"] and outer):
            gathered = "sums" if code["reduce"] in (Reduce.SUM_LANE, Reduce.SUM_ALL) else "maxima"
            setattr(self, gathered, [None if code["reduce"] >= Reduce.TOP_LANE else 0] * LANES)
        registers = [list(row) for row in self.registers]
        for inner in range(1 if code["once"] else command["inner"]):
            last_inner, last_outer = inner == command["inner"] - 1 and not code["once"], outer == command["outer"] - 1
            partial = last_inner if command["partial_inner"] else last_outer
            live = [not partial or bool(command["lanes"] >> lane & 1) for lane in range(LANES)]
            results = self._word(code, command, outer, inner, live, registers)
            self._write(code, command, outer, inner, live, results)
        last = outer == command["outer"] - 1
        if code["reduce"] and (last or not code["over_outer"]):
            self._reduce(code)

    def _word(self, code, command, outer, inner, live, registers) -> list[int]:
        def at(region):
            place = command["regions"][region]
            return (place["base"] + outer * place["outer_stride"] + inner * place["inner_stride"]) % 2**16

        def stream(source, region):
            if source in (Source.V0, Source.V1):
                memory = self.memories[source - 1]
                return memory[at(region) % len(memory)]
            return [0] * LANES

        x, y = stream(code["x_source"], code["x_region"]), stream(code["y_source"], code["y_region"])
        if code["x_source"] == Source.OUT32:
            x = [numbers.from_integer(value) for value in self.integers.pop(0)]
        if code["x_source"] == Source.SCALAR:
            x = [self.scalars[code["s0"]]] * LANES
        k = (self.scalars[code["s2"]] >> 16 & 0xFF) - numbers.BIAS
        index = command["index_base"] + outer * command["index_outer"] + inner * command["index_inner"]
        results = []
        for lane in range(LANES):

            def operand(name, lane=lane):
                kind, scalar = code[name], code["s0" if name in "ab" else "s1"]
                fixed = {
                    Operand.NONE: numbers.ONE if name in "ac" else 0,
                    Operand.X: x[lane],
                    Operand.Y: y[lane],
                    Operand.SCALAR: self.scalars[scalar],
                }
                word = fixed[kind] if kind in fixed else registers[kind - Operand.L0][lane]
                return numbers.negate(word) if word is not None and code.get(f"{name}_negate") and name != "a" else word

            if None in (x[lane], y[lane], *(operand(name) for name in "abcd")):
                if live[lane]:
                    raise UnknownError
                results.append(None)
                continue
            try:
                value = numbers.multiply(x[lane], operand("a"))
                value = numbers.negate(value) if code["a_negate"] else value
                value = FUNCTIONS[code["function"]](numbers.add(value, operand("b")))
                value = numbers.add(numbers.multiply(value, operand("c")), operand("d"))
                results.append(self._pack(code, value, k, index, lane, live[lane]))
            except numbers.RangeError:
                if live[lane]:
                    raise
                results.append(None)
        return results

    def _pack(self, code, value, k, index, lane, live) -> int:
        summing = code["reduce"] in (Reduce.SUM_LANE, Reduce.SUM_ALL)
        term = None
        if code["format"] in (Format.INT8, Format.INT8_STOCHASTIC):
            hashed = hash32(self.key, (index + lane // 4) % 2**32) >> 8 * (lane % 4) & 0xFF
            q, clipped = numbers.quantize(value, k, hashed if code["format"] == Format.INT8_STOCHASTIC else None)
            self.saturations += clipped and live
            term, stored = q, q % 256
        else:
            stored = numbers.round_brain(value) if code["format"] == Format.BRAIN else value
            if summing and live:
                term = numbers.sum_term(value, k + 1)
        if live:
            self.sums[lane] += term if summing else 0
            if code["reduce"] >= Reduce.TOP_LANE:
                seen = [value] if self.maxima[lane] is None else [self.maxima[lane], value]
                self.maxima[lane] = max(seen, key=numbers.to_float)
            elif code["reduce"] and not summing:
                self.maxima[lane] = max(self.maxima[lane], value % 2**24)
        return stored

    def _write(self, code, command, outer, inner, live, results) -> None:
        place = command["regions"][code["target_region"]]
        address = (place["base"] + outer * place["outer_stride"] + inner * place["inner_stride"]) % 2**16
        if code["target"] in (Target.V0, Target.V1):
            memory = self.memories[code["target"] - 1]
            memory[address % len(memory)] = results
        elif code["target"] == Target.LEFT:
            self.left.append((address, sum(bit << lane for lane, bit in enumerate(live)), [(word or 0) & 0xFF for word in results]))
        elif code["target"] == Target.LANE:
            self.registers[code["lane"]] = results
        elif code["target"] == Target.SCALAR:
            self.scalars[code["s3"]] = results[0]

    def _reduce(self, code) -> None:
        k = (self.scalars[code["s2"]] >> 16 & 0xFF) - numbers.BIAS
        exponent = k if code["format"] >= Format.INT8 else k + 1 - numbers.SUM_FRACTION_BITS
        words = {
            Reduce.SUM_LANE: lambda: [numbers.from_integer(total, exponent) for total in self.sums],
            Reduce.SUM_ALL: lambda: [numbers.from_integer(sum(self.sums), exponent)] * LANES,
            Reduce.MAX_LANE: lambda: self.maxima,
            Reduce.MAX_ALL: lambda: [max(self.maxima)] * LANES,
            # Zero where no element of the tensor was.
            Reduce.TOP_LANE: lambda: [word or 0 for word in self.maxima],
            Reduce.TOP_ALL: lambda: [max((word for word in self.maxima if word is not None), key=numbers.to_float)] * LANES,
        }[code["reduce"]]()
        if code["reduce_to"]:
            self.scalars[code["s3"]] = words[0]
        else:
            self.registers[code["lane"]] = list(words)


def draw_instruction(rng: random.Random, plain: bool) -> dict:
    """Any fields; ``plain`` ones only where a result stays in the range of numbers."""
    x, y = rng.choice([source for source in Source if source != Source.ROW_MAX]), rng.choice([Source.NONE, Source.V0, Source.V1])
    target = rng.choice([Target.V0, Target.V1, Target.LEFT, Target.LANE, Target.SCALAR, Target.NONE])
    reduce = rng.choice([Reduce.NONE, Reduce.NONE, *Reduce])
    code = {
        "x_source": x,
        "y_source": Source.NONE if x == y else y,
        "function": Function.PASS if plain else rng.choice([Function.PASS, Function.EXP2, Function.PHI, Function.SCALE]),
        **{name: rng.choice(list(Operand)) for name in "abcd"},
        **{name: rng.getrandbits(1) for name in ("a_negate", "b_negate", "d_negate", "once", "reduce_to")},
        **{name: rng.randrange(4) for name in ("x_region", "y_region", "lane")},
        "target": target,
        "format": rng.choice(list(Format)) if target in (Target.LEFT, Target.NONE) else rng.choice([Format.WORD, Format.BRAIN]),
        "reduce": reduce,
        "over_outer": 0,
        **{name: rng.randrange(8) for name in ("s0", "s1")},
        "s2": rng.randrange(24, 32) if reduce in (Reduce.SUM_LANE, Reduce.SUM_ALL) else rng.randrange(8, 16),
        "s3": rng.randrange(16, 24),
    }
    # What an instruction reads again of what it writes is not specified: it reads and writes different regions.
    others = [region for region in range(4) if region not in (code["x_region"], code["y_region"])]
    code["target_region"] = rng.choice(others)
    if reduce and target in (Target.LANE, Target.SCALAR):
        code["reduce_to"] = int(target == Target.LANE)
    return code


def follow(rng: random.Random, code: dict, before: dict) -> dict:
    """``code``, which likely reads what the instruction before it leaves: words of the same region or of any, a lane register, a scalar."""
    code = dict(code)
    if before["target"] in (Target.V0, Target.V1) and rng.random() < 0.7:
        source, region = Source(before["target"]), before["target_region"] if rng.random() < 0.7 else rng.randrange(4)
        stream = "x" if code["y_source"] != source and rng.random() < 0.6 else "y"
        if stream == "x" or code["x_source"] != source:
            code |= {f"{stream}_source": source, f"{stream}_region": region}
    if (before["target"] == Target.LANE or (before["reduce"] and not before["reduce_to"])) and rng.random() < 0.7:
        code[rng.choice("abcd")] = Operand.L0 + before["lane"]
    if (before["target"] == Target.SCALAR or (before["reduce"] and before["reduce_to"])) and rng.random() < 0.7:
        code |= {rng.choice("ab"): Operand.SCALAR, "s0": before["s3"], "s3": 16 + (before["s3"] - 15) % 8}  # not one that it writes itself
    return code


def chain(rng: random.Random, count: int) -> list[dict]:
    """Instructions of which each likely reads what the one before it or the one before that leaves."""
    program: list[dict] = []
    for _ in range(count):
        code = draw_instruction(rng, rng.random() < 0.7)
        if program:
            code = follow(rng, code, program[-1 if len(program) < 2 or rng.random() < 0.7 else -2])
        if code["target_region"] in (code["x_region"], code["y_region"]):
            code["target_region"] = min({0, 1, 2, 3} - {code["x_region"], code["y_region"]})
        program.append(code)
    return program


def draw_command(rng: random.Random, count: int) -> dict:
    return {
        "first": rng.randrange(8),
        "count": count,
        "outer": rng.randint(1, 3),
        "inner": rng.randint(1, 5),
        "regions": [{"base": 8 * i, "outer_stride": rng.randrange(2), "inner_stride": rng.randrange(2)} for i in range(4)],
        "lanes": rng.randrange(1, 1 << LANES),
        **{name: rng.getrandbits(32) for name in ("key0", "key1", "index_base", "index_outer", "index_inner")},
        "partial_inner": rng.getrandbits(1),
    }


def word(rng: random.Random) -> int:
    return rng.getrandbits(1) << 24 | rng.randint(118, 128) << 16 | rng.getrandbits(16)


def machine(rng: random.Random, depths: tuple[int, int] = DEPTHS) -> Machine:
    """Small numbers everywhere; the last eight scalars are bounds of sums' terms."""
    memories = [[[word(rng) for _ in range(LANES)] for _ in range(depth)] for depth in depths]
    scalars = [word(rng) for _ in range(24)] + [rng.randint(130, 150) << 16 for _ in range(8)]
    return Machine(memories, scalars, [[word(rng) for _ in range(LANES)] for _ in range(4)])


def assert_same_words(found: list[list[int]], wanted: list[list[int | None]], note: object) -> None:
    """All words are equal, but for those of lanes outside of the tensor that left the range of numbers; ``note`` is the stimulus."""
    for number, (got_row, row) in enumerate(zip(found, wanted, strict=True)):
        for lane, (got, want) in enumerate(zip(got_row, row, strict=True)):
            assert want is None or got == want, f"word {number}, lane {lane}: {got:#x} instead of {want:#x}, of {note}"


def legal(rng: random.Random, dependent: bool = False, integers: bool = True) -> tuple[Machine, list[dict], dict, list[list[int]], Machine]:
    """A state, a program, a command, its integers, and the state after it; drawn until nothing leaves the range of numbers.

    ``dependent``: see ``chain``; two regions may be the same words then. Without ``integers`` X is never the output buffer's.
    """
    while True:
        before, count = machine(rng), rng.randint(1, 4)
        program = chain(rng, count) if dependent else [draw_instruction(rng, rng.random() < 0.5) for _ in range(count)]
        if not integers and any(code["x_source"] == Source.OUT32 for code in program):
            continue
        command = draw_command(rng, count)
        if dependent and rng.random() < 0.3:
            one, other = rng.sample(range(4), 2)
            command["regions"][one] = command["regions"][other]
        words = [[rng.randrange(-300, 300) for _ in range(LANES)] for _ in range(200)]
        after = copy.deepcopy(before)
        after.integers, after.key = [list(row) for row in words], (command["key0"], command["key1"])
        try:
            fault = after.run([{}] * command["first"] + program, command)
        except UnknownError:
            continue
        if fault is None and None not in after.scalars:
            return before, program, command, words, after
