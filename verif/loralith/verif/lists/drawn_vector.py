"""Draws programs of the vector unit, the LOADs that bring them, and VECTORs that run them, all of which docs/vector_unit.md defines.

A VECTOR and its program are drawn together, one instruction after the other, and each is tried on the oracle: what would leave the range
or read what is not specified is drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loralith.spec.commands import LoadTarget, Opcode
from loralith.spec.vector.program import (
    INSTRUCTION,
    INSTRUCTION_BYTES,
    PROGRAM_INSTRUCTIONS,
    SCALARS,
    Format,
    Function,
    Operand,
    Reduce,
    Source,
    Target,
)
from loralith.verif.lists.case import BASE, Layout
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.drawn_places import Fields, fields_of
from loralith.verif.lists.drawn_vector_transfer import draw_vector_load
from loralith.verif.lists.vector_oracle import SUMS, VectorRun, kind_of
from loralith.verif.lists.vector_state import Unspecified, VectorState, VectorStop

__all__ = ["Programming", "draw_vector"]

ATTEMPTS = 5
"""Drawings of an instruction, or of a VECTOR's regions."""
MOST = 5
"""Instructions of a program."""


@dataclass
class Programming:
    """What the VECTORs of a case run.

    Attributes:
        data: bytes in DRAM of each program, by address.
        written: bytes of the programs' part of DRAM that are taken.
        runs: (first, count) of the instructions of each program that the present list has loaded and not overwritten.
        waiting: a VECTOR whose program is loaded next, or has been.
    """

    data: dict[int, bytes] = field(default_factory=dict)
    written: int = 0
    runs: list[tuple[int, int]] = field(default_factory=list)
    waiting: Fields | None = None

    def begin(self) -> None:
        """A list begins: its VECTORs run what it loads itself."""
        self.runs, self.waiting = [], None

    def load(self, data: bytes, first: int, alignment: int) -> Fields:
        """A LOAD of the instructions in ``data``, which get a place in DRAM."""
        address = BASE + Layout().programs + self.written
        self.written += -(-len(data) // alignment) * alignment
        assert Layout().programs + self.written <= Layout().size, "a case with too many programs"
        self.data[address] = data
        return fields_of(Opcode.LOAD, target=LoadTarget.PROGRAM, rows=1, row_bytes=len(data), base=first, address=address)

    def loaded(self, c: Fields) -> None:
        """The list has taken such a LOAD."""
        first, count = c["base"], c["row_bytes"] // INSTRUCTION_BYTES
        self.runs = [run for run in self.runs if run[0] + run[1] <= first or first + count <= run[0]]
        self.runs.append((first, count))


def draw_vector(draw: Draw, programming: Programming) -> Fields | None:
    state = draw.oracle.vector
    assert state is not None
    if not state.scalars.value.any() and draw.chance(0.8):
        return draw_vector_load(draw, LoadTarget.SCALARS)
    waiting, programming.waiting = programming.waiting, None
    if waiting is not None and draw.oracle.permits(waiting):
        return waiting
    if programming.runs and draw.chance(0.6):
        first, count = programming.runs[int(draw.rng.integers(len(programming.runs)))]
        skipped = draw.upto(count - 1, 0) if draw.chance(0.2) else 0
        for _ in range(ATTEMPTS):
            c = _shape(draw) | {"first": first + skipped, "count": draw.upto(count - skipped) if draw.chance(0.2) else count - skipped}
            if draw.oracle.permits(c):
                return c
        return None
    return _new_program(draw, programming)


def _new_program(draw: Draw, programming: Programming) -> Fields | None:
    """A LOAD of a program; the VECTOR that it was drawn for waits, and any other may run it too."""
    state = draw.oracle.vector
    assert state is not None
    c = _shape(draw)
    wanted = draw.upto(MOST)
    first = draw.upto(PROGRAM_INSTRUCTIONS - wanted, 0)
    codes: list[Fields] = []
    for _ in range(ATTEMPTS * wanted):
        code = _instruction(draw, state, codes, c)
        if _runs(draw, state, c | {"first": first, "count": len(codes) + 1}, [*codes, code]):
            codes.append(code)
            if len(codes) == wanted:
                break
    if not codes:
        return None
    load = programming.load(b"".join(INSTRUCTION.pack(code) for code in codes), first, draw.config.bus_bytes)
    programming.waiting = c | {"first": first, "count": len(codes)}
    return load


def _runs(draw: Draw, state: VectorState, c: Fields, codes: list[Fields]) -> bool:
    """Whether the VECTOR would run to its end with these instructions."""
    trial, out = state.copy(), draw.oracle.out
    for number, code in enumerate(codes, c["first"]):
        trial.program[number] = np.frombuffer(INSTRUCTION.pack(code), np.uint8)
        trial.program_unknown[number] = False
    try:
        VectorRun(c, trial, (out.data, out.unknown), draw.config).run()
    except (VectorStop, Unspecified):
        return False
    return True


def _shape(draw: Draw) -> Fields:
    """A VECTOR without its instructions."""
    config, rng = draw.config, draw.rng
    outer, inner = draw.upto(4), draw.upto(draw.upto(8))
    if draw.chance(0.12):  # longer than the lanes' pipeline
        inner = draw.upto(min(config.v0_words, config.v1_words, 90))
        outer = min(outer, 2)
    elif draw.chance(0.05):
        outer, inner = draw.upto(24), draw.upto(2)
    lanes = config.vector_lanes if draw.chance(0.25) else draw.upto(config.vector_lanes)
    c = fields_of(Opcode.VECTOR, outer=outer, inner=inner, lanes=lanes, partial_inner=int(draw.chance(0.5)))
    for number in range(4):
        base, by_outer, by_inner = _region(draw, outer, inner, out=number == 3 or draw.chance(0.1))
        c |= {f"region{number}_base": base, f"region{number}_outer": by_outer, f"region{number}_inner": by_inner}
    if draw.chance(0.3):  # one region for two streams, or one just after the other
        c |= {f"region1_{name}": c[f"region0_{name}"] for name in ("base", "outer", "inner")}
        c["region1_base"] = (c["region1_base"] + int(rng.choice([0, 1, 0xFFFF, inner]))) & 0xFFFF
    c |= {name: draw.bits(32) for name in ("key0", "key1", "index_base", "index_outer", "index_inner")}
    if draw.chance(0.3):
        c |= {"index_inner": draw.upto(4), "index_outer": 4 * inner}
    return c


def _region(draw: Draw, outer: int, inner: int, out: bool) -> tuple[int, int, int]:
    """(base, outer stride, inner stride) of words that mostly fit in either scratchpad, or of columns of the output buffer."""
    rng, config = draw.rng, draw.config
    by_inner = int(rng.choice([0, 1, 1, 1, 1, 2, 3, -1]))
    by_outer = int(rng.choice([0, 1, by_inner * inner, by_inner * inner, inner + 1, -1]))
    parts = config.rows // config.vector_lanes
    if out and draw.chance(0.3):
        by_inner, by_outer = by_inner * parts, by_outer * parts
    span = [by_inner * (inner - 1), by_outer * (outer - 1)]
    low, high = sum(min(part, 0) for part in span), sum(max(part, 0) for part in span)
    if out:
        row, rows = draw.stretch["out"]
        first, size = row * config.bus_bytes // 4 * parts, rows * config.bus_bytes // 4 * parts
    else:
        memory = "v0" if draw.chance(0.5) else "v1"
        first, size = draw.stretch[memory]
        if high - low >= size:
            first, size = 0, min(config.v0_words, config.v1_words)
        elif draw.used[memory] and draw.chance(0.4):
            first = draw.used[memory][int(rng.integers(len(draw.used[memory])))][0]
            size = high - low + 1 + draw.upto(3, 0)
    base = first - low + draw.upto(max(size - (high - low) - 1, 0), 0)
    return base & 0xFFFF, by_outer & 0xFFFF, by_inner & 0xFFFF


def _instruction(draw: Draw, state: VectorState, before: list[Fields], c: Fields) -> Fields:
    rng = draw.rng
    code = dict.fromkeys(INSTRUCTION.fields, 0)
    x = int(rng.choice([Source.NONE, *[Source.V0, Source.V1] * 3, *[Source.OUT32] * 2, Source.SCALAR]))
    streams = [y for y in (Source.NONE, Source.V0, Source.V1) if y == Source.NONE or y != x]
    code |= {"x_source": x, "x_region": 3 if x == Source.OUT32 and draw.chance(0.8) else draw.bits(2)}
    code |= {"y_source": int(rng.choice(streams)), "y_region": draw.bits(2), "target_region": draw.bits(2)}
    for name in "abcd":
        code[name] = int(rng.choice([Operand.NONE] * 8 + [Operand.X] + [Operand.Y] * 3 + [Operand.SCALAR] * 3 + [*range(4, 8)]))
    code |= {name: draw.bits(1) for name in ("a_negate", "b_negate", "d_negate", "reduce_to")}
    code["function"] = Function.PASS if draw.chance(0.5) else int(rng.choice(list(Function)))
    code["target"] = int(rng.choice([Target.NONE, *[Target.V0, Target.V1] * 3, Target.LANE, Target.LANE, Target.SCALAR]))
    code["format"] = int(rng.choice([Format.WORD] * 4 + [Format.BRAIN] * 2 + [Format.INT8] + [Format.INT8_STOCHASTIC] * 2))
    code["reduce"] = Reduce.NONE if draw.chance(0.5) else int(rng.choice([*Reduce, *SUMS, *SUMS]))
    code |= {"once": int(draw.chance(0.25)), "lane": draw.bits(2)}
    few = draw.chance(0.7)
    code |= {name: draw.bits(3 if few else 5) for name in ("s0", "s1", "s2", "s3")}
    _choose_scalars(draw, state, code)
    if code["reduce"]:
        kinds = {(kind_of(other["reduce"]), other["over_outer"]) for other in before}
        kind = kind_of(code["reduce"])
        if (kind, 1) in kinds:
            code["reduce"] = Reduce.NONE
        elif (kind, 0) not in kinds:
            code["over_outer"] = int(draw.chance(0.4))
    if code["reduce"] and code["target"] in (Target.LANE, Target.SCALAR):
        code["reduce_to"] = int(code["target"] == Target.LANE)
    return {name: int(value) for name, value in code.items()}


def _choose_scalars(draw: Draw, state: VectorState, code: Fields) -> None:
    """Mostly an argument above zero for a reciprocal or root; a scale near the numbers, or a bound above them."""
    sums = code["reduce"] in SUMS and code["format"] < Format.INT8
    known = np.where(state.scalars.unknown, 0.0, state.scalars.value)
    if code["function"] in (Function.RECIPROCAL, Function.RSQRT) and draw.chance(0.85):
        code |= {"a": Operand.X, "a_negate": 0, "b": Operand.SCALAR, "b_negate": 0, "s0": int(draw.rng.choice(np.argsort(known)[-4:]))}
    if (code["format"] < Format.INT8 and not sums) or draw.chance(0.2):
        return
    known = np.abs(known)
    if sums:
        code["s2"] = int(known.argmax())
        return
    wanted = [number for number in range(SCALARS) if 2.0**-12 < known[number] < 4.0]
    if wanted:
        code["s2"] = int(draw.rng.choice(wanted))
