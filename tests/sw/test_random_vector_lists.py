"""Random raw lists with VECTORs, fixed seeds: oracle, reference device, checker and RTL agree; `loralith soak --lists` runs more."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from helpers.vector_lists import TINY
from loralith.cli import main
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import check
from loralith.soak.list_runner import Machines
from loralith.spec.commands import Command, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.status import Check, Code, Unit
from loralith.spec.vector import numbers
from loralith.spec.vector.program import Format, Function, Operand, Reduce, Source, Target
from loralith.verif.lists.case import BASE, Case
from loralith.verif.lists.drawn_configs import random_vector_config
from loralith.verif.lists.expect import expect
from loralith.verif.lists.generate import generate
from loralith.verif.lists.illegal import illegal
from loralith.verif.lists.legal import fault
from loralith.verif.lists.vector_footprint import Programs
from loralith.verif.lists.vector_numbers import BRAIN, FUNCTIONS, low_bytes, quantized, rounded, terms, words_of

SEEDS = 24


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    each = Machines(TINY)
    yield each
    each.close()


@pytest.mark.parametrize("first", range(0, SEEDS, 6))
def test_lists_with_vectors_do_what_the_oracle_says(machines: Machines, first: int) -> None:
    for seed in range(first, first + 6):
        assert machines.compare(generate(TINY, seed)) is None, f"seed {seed}"


BOUND_THAT_IS_WRITTEN = {
    "config": asdict(TINY),
    "seed": 339925354420004,
    "lists": [
        [
            {"opcode": 1, "target": 7, "rows": 1, "address": BASE + 0x34E18, "row_bytes": 76, "base": 6},
            {"opcode": 1, "signal": 1024, "target": 6, "rows": 1, "address": BASE + 0x38028, "row_bytes": 32, "base": 16},
            {"opcode": 4, "wait": 1024, "signal": 32, "first": 16, "count": 4, "lanes": 1, "outer": 1, "inner": 1},
            {"opcode": 3, "wait": 32, "source": 4, "rows": 1, "address": BASE + 0x18000, "row_bytes": 4},
        ]
    ],
    "broken": None,
    "timing": {"read_latency": 1, "write_latency": 1},
    "window": [0, 262144],
    "data": [[0x38028, "00000000000000000000033005b1c01800000000000000000000070080020080"]],
}
"""The second instruction writes scalar 6, which is its sum's bound too; the sum goes to a lane register, and from there to scalar 0. A
random case of 274,121 commands that was made small."""


def test_a_sum_keeps_the_bound_that_its_instruction_replaces(machines: Machines) -> None:
    case = Case.from_json(json.dumps(BOUND_THAT_IS_WRITTEN))
    assert machines.compare(case) is None


@pytest.mark.parametrize("first", range(0, 2 * SEEDS, 12))
def test_illegal_lists_with_vectors_are_refused_alike(machines: Machines, first: int) -> None:
    for seed in range(first, first + 12):
        assert machines.compare(illegal(TINY, seed)) is None, f"seed {seed}"


@pytest.mark.parametrize("seed", range(6))
def test_lanes_of_any_number_on_the_reference_device(seed: int) -> None:
    config = random_vector_config(seed)
    machines = Machines(config, native=False)
    for number in range(3):
        assert machines.compare(generate(config, number, 15)) is None, f"seed {number} of {config}"
        assert machines.compare(illegal(config, number)) is None, f"seed {number} of {config}"


def instructions(case: Case) -> Iterator[dict[str, int]]:
    """Those of each VECTOR, in turn."""
    for commands in case.lists:
        programs = Programs(case.programs)
        for command in commands:
            yield from (code for code in programs.codes(command) if code is not None)
            programs.follow(command)


def test_the_generator_draws_every_choice() -> None:
    """Every source, operand, function, reduction, target and format; every memory and format of transfers; tokens of VECTORs."""
    seen: set[tuple] = set()
    for seed in range(60):
        case = generate(TINY, seed)
        for code in instructions(case):
            seen |= {(name, value) for name, value in code.items() if not name.startswith("s")}
            seen |= {("over the outer loop", code["reduce"] in (Reduce.SUM_LANE, Reduce.SUM_ALL))} if code["over_outer"] else set()
        for c in (c for commands in case.lists for c in commands):
            kind = c.get("target", c.get("source", -1))
            seen |= {(Opcode(c["opcode"]), name, kind, c[name]) for name in ("format", "broadcast") if name in c}
            if c["opcode"] == Opcode.VECTOR:
                seen |= {(name, bool(c[name])) for name in ("wait", "signal", "partial_inner")}
                seen |= {("loops", c["outer"] > 1, c["inner"] > 1), ("long", c["inner"] > 41)}
                seen |= {("a partial word", c["lanes"] < TINY.vector_lanes), ("backward", c["region0_inner"] == 0xFFFF)}
    flags = ("a_negate", "b_negate", "d_negate", "once", "reduce_to", "over_outer")
    facts = ("wait", "signal", "partial_inner", "long", "a partial word", "backward", "over the outer loop")
    choices: dict[str, list] = {
        "x_source": [source for source in Source if source != Source.ROW_MAX],
        "y_source": [Source.NONE, Source.V0, Source.V1],
        "function": list(Function),
        "reduce": list(Reduce),
        "target": [target for target in Target if target != Target.LEFT],
        "format": list(Format),
        **{name: list(Operand) for name in "abcd"},
        **{name: [0, 1] for name in flags},
        **{name: [False, True] for name in facts},
    }
    wanted = {(name, value) for name, values in choices.items() for value in values}
    wanted |= {("loops", outer, inner) for outer in (False, True) for inner in (False, True)}
    scratchpads = ((Opcode.LOAD, LoadTarget.V0, LoadTarget.V1), (Opcode.STORE, StoreSource.V0, StoreSource.V1))
    for opcode, *memories in scratchpads:
        wanted |= {(opcode, "format", memory, form) for memory in memories for form in VectorFormat}
        wanted |= {(opcode, "broadcast", memory, value) for memory in memories for value in (0, 1)}
    others = [(Opcode.LOAD, t) for t in (LoadTarget.PROGRAM, LoadTarget.SCALARS, LoadTarget.KEY)] + [(Opcode.STORE, StoreSource.SCALARS)]
    wanted |= {(opcode, "format", memory, 0) for opcode, memory in others}
    assert wanted - seen == set()


def test_illegal_lists_end_in_every_way_that_a_vector_can() -> None:
    ways = {
        (Code.BAD_FIELD, Check.RESERVED),
        (Code.BAD_FIELD, Check.SIZE),
        (Code.BAD_FIELD, Check.PROGRAM),
        (Code.SCRATCHPAD_BOUNDS, Check.PROGRAM),
        (Code.SCRATCHPAD_BOUNDS, Check.V0),
        (Code.SCRATCHPAD_BOUNDS, Check.V1),
        (Code.SCRATCHPAD_BOUNDS, Check.OUT),
        (Code.VECTOR_RANGE, Check.NONE),
    }
    missing = {(*way, Unit.VECTOR) for way in ways} | {(Code.VECTOR_RANGE, Check.NONE, Unit.LOAD)}
    for seed in range(400):
        missing -= {(e.code, e.detail, e.unit) for e in expect(illegal(TINY, seed)).endings}
        if not missing:
            break
    assert missing == set()


def test_tokens_are_legal_by_a_reading_of_the_finished_lists() -> None:
    for seed in range(20):
        case = generate(TINY, seed)
        assert [fault(commands, TINY, programs=case.programs) for commands in case.lists] == [""] * len(case.lists), f"seed {seed}"


def test_a_wrong_reference_is_found_made_small_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that turns no sign of a first product."""
    from loralith.device.interpreter import vector

    right = vector._Run._chain

    def wrong(self, code, *rest):
        return right(self, {**code, "a_negate": 0}, *rest)

    config = tmp_path / "small.json"
    config.write_text(json.dumps(TINY.as_dict()))
    failure = tmp_path / "failure.json"
    monkeypatch.setattr(vector._Run, "_chain", wrong)
    arguments = ["soak", "--lists", "--device", "reference", "--config", str(config), "--commands", "20000", "--seed", "3"]
    assert main([*arguments, "--failure", str(failure)]) == 1
    case = Case.from_json(json.dumps(json.loads(failure.read_text())["case"]))
    assert case.commands <= 6  # of some forty
    assert any(code["a_negate"] for code in instructions(case))
    assert main(["soak", "--replay", str(failure), "--device", "reference"]) == 1
    monkeypatch.setattr(vector._Run, "_chain", right)
    assert main(["soak", "--replay", str(failure), "--device", "reference"]) == 0


def test_a_region_outside_of_memories_that_nothing_uses_is_no_race() -> None:
    """The checker does not know the instructions, and so which memories the region belongs to."""
    fields = {"count": 1, "outer": 1, "inner": 1, "lanes": 1, "region0_base": 60_000}
    check(CommandList((Command.make(Opcode.VECTOR, **fields), Command.make(Opcode.VECTOR, **fields))), TINY)


# The oracle's numbers, in double precision, against the definitions on integers.


def operands(rng: random.Random, count: int) -> np.ndarray:
    """Words of all exponents, most of them near 1, some zero, short and long fractions, as values."""
    words = []
    for _ in range(count):
        exponent = rng.choice([rng.randint(0, 254), rng.randint(110, 140), rng.randint(124, 130)])
        fraction = rng.getrandbits(16) & rng.choice([0xFFFF, 0xFF00, 0, 0xFFFF])
        words.append(numbers.to_float(rng.getrandbits(1) << 24 | exponent << 16 | fraction))
    return np.array(words) + 0.0


def defined(function: Callable[..., int], *arguments: object) -> float | None:
    """The value of a definition's word, None where it is out of range."""
    try:
        return numbers.to_float(function(*arguments))
    except numbers.RangeError:
        return None


def as_word(value: float) -> int:
    return numbers.from_float(float(value))


def found(result: tuple[np.ndarray, np.ndarray]) -> list[float | None]:
    return [None if wide else float(value) for value, wide in zip(*result, strict=True)]


DEFINITIONS = {
    Function.EXP2: numbers.exp2,
    Function.RECIPROCAL: numbers.reciprocal,
    Function.RSQRT: numbers.rsqrt,
    Function.PHI: numbers.phi,
    Function.SCALE: lambda word: numbers.quantize_shift(word) + numbers.BIAS << numbers.FRACTION_BITS,
}


@pytest.mark.parametrize("function", DEFINITIONS)
def test_the_oracles_functions_are_the_definitions(function: Function) -> None:
    x = operands(random.Random(function), 2000)
    with np.errstate(all="ignore"):
        assert found(FUNCTIONS[function](x)) == [defined(DEFINITIONS[function], as_word(value)) for value in x]


def test_the_oracles_arithmetic_is_the_definition() -> None:
    rng = random.Random(1)
    x, y = operands(rng, 2000), operands(rng, 2000)
    pairs = [(as_word(a), as_word(b)) for a, b in zip(x, y, strict=True)]
    assert found(rounded(x * y)) == [defined(numbers.multiply, *pair) for pair in pairs]
    assert found(rounded(x + y)) == [defined(numbers.add, *pair) for pair in pairs]
    assert found(rounded(x, BRAIN)) == [defined(numbers.round_brain, a) for a, _ in pairs]
    assert low_bytes(x).tolist() == [a & 255 for a, _ in pairs]
    for k in (-127, -9, 0, 3, 120):
        random_bytes = np.array([rng.getrandbits(8) for _ in x])
        for byte in (None, random_bytes):
            q, clipped = quantized(x, k, byte)
            draws = [None] * len(x) if byte is None else byte.tolist()
            wanted = [numbers.quantize(a, k, draw) for (a, _), draw in zip(pairs, draws, strict=True)]
            assert list(zip(q.tolist(), clipped.tolist(), strict=True)) == wanted
        term, wide = terms(x, k)
        for (a, _), own, too_large in zip(pairs, term.tolist(), wide.tolist(), strict=True):
            if too_large:
                with pytest.raises(numbers.RangeError):
                    numbers.sum_term(a, k)
            else:
                assert own == numbers.sum_term(a, k)


def test_numbers_of_dram_become_words_as_the_page_says() -> None:
    bits = np.array([0, 1 << 31, 1, 0x007F_FFFF, 0x0080_0000, 0x3F80_007F, 0xBF80_0080, 0x7F7F_FFFF, 0x7F80_0000, 0xFFC0_0001], np.uint32)
    values, special = words_of(bits)
    assert values.tolist()[:8] == [0, 0, 0, 0, 2.0**-126, 1.0, -1 - 2.0**-16, (2 - 2.0**-16) * 2.0**127]
    assert not np.signbit(values[1])
    assert special.tolist() == [False] * 8 + [True] * 2
