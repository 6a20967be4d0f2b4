"""The LOAD unit stops at a bad command and at a bus error, with the code and address that docs/machine.md says."""

import random

import pytest

from helpers.load_rig import BASE, CONFIGS, SIZE, simulate
from loralith.spec.commands import Command, LoadTarget, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.status import Check, Code
from loralith.verif.axi_model import Stalls


def check_fault(command, code, detail, address=0, config=PRESETS["tiny"]):
    good = Command.make(Opcode.LOAD, address=BASE, rows=2, row_bytes=9, row_stride=16, base=0, block_stride=1)
    _, _, events, result = simulate(config, [good, command, good], Stalls(), until_fault=True)
    assert sum(kind == "wait" for kind, *_ in events) <= 1, "a bad load takes no tokens"
    assert result["fault"] == {"valid": 1, "code": code, "detail": detail, "command": 1, "address": address}
    assert not result["busy"]


GOOD = {"address": BASE, "rows": 2, "row_bytes": 9, "row_stride": 16, "base": 0, "block_stride": 1}


@pytest.mark.parametrize(
    ("change", "code", "detail", "address"),
    [
        ({"target": 4}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 3, "transpose": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"transpose": 1, "pad_rows": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 2}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 2, "rows": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 2, "rows": 1, "block_stride": 0, "packed4": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"row_bytes": 0, "packed4": 1}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"row_stride": 12, "packed4": 1}, Code.MISALIGNED, Check.STRIDE, BASE),
        ({"address": BASE + 4, "packed4": 1}, Code.MISALIGNED, Check.ADDRESS, BASE + 4),
        ({"base": 126, "packed4": 1}, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
        ({"address": BASE + SIZE - 24, "row_bytes": 17, "packed4": 1}, Code.DRAM_WINDOW, Check.ADDRESS, BASE + SIZE - 24),
        ({"rows": 0}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"row_bytes": 0, "address": 1}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"address": BASE + 4, "row_stride": 1}, Code.MISALIGNED, Check.ADDRESS, BASE + 4),
        ({"row_stride": 17}, Code.MISALIGNED, Check.STRIDE, BASE),
        ({"base": 126}, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
        ({"base": 125, "block_stride": 2, "target": 1, "address": 0}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT, 0),
        ({"base": 127, "transpose": 1}, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
        ({"base": 63, "rows": 1, "row_bytes": 17, "target": 2, "block_stride": 0}, Code.SCRATCHPAD_BOUNDS, Check.SCALE, 0),
        ({"address": BASE - 8}, Code.DRAM_WINDOW, Check.ADDRESS, BASE - 8),
        ({"address": BASE + SIZE - 24}, Code.DRAM_WINDOW, Check.ADDRESS, BASE + SIZE - 24),
        ({"address": 2**64 - 8}, Code.DRAM_WINDOW, Check.ADDRESS, 2**64 - 8),
    ],
)
def test_a_bad_load_stops_the_unit_with_its_code(change, code, detail, address):
    check_fault(Command.make(Opcode.LOAD, **(GOOD | change)), code, detail, address)


BOTH = {"target": LoadTarget.BOTH, "transpose": 1}


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        ({"transpose": 0}, Code.BAD_FIELD, Check.ENUM),
        ({"pad_rows": 1}, Code.BAD_FIELD, Check.ENUM),
        ({"base": 64}, Code.SCRATCHPAD_BOUNDS, Check.LEFT),
        ({"base": 64, "right_base": 64}, Code.SCRATCHPAD_BOUNDS, Check.LEFT),
        ({"right_base": 64}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
        ({"right_base": 63, "right_stride": 1, "row_bytes": 17, "row_stride": 32}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
        ({"right_base": 63, "rows": 17}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
        ({"right_base": 62, "right_stride": 2, "row_bytes": 17, "row_stride": 32}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
    ],
)
def test_a_bad_load_into_both_stops_the_unit_with_its_code(change, code, detail):
    check_fault(Command.make(Opcode.LOAD, **(GOOD | BOTH | change)), code, detail, config=CONFIGS[3])


@pytest.mark.parametrize(
    "change",
    [
        {"base": 63, "right_base": 63},
        {"rows": 17, "block_stride": 40, "right_base": 61, "right_stride": 1, "row_bytes": 17, "row_stride": 32},
    ],
)
def test_a_load_into_both_at_the_edge_is_good(change):
    command = Command.make(Opcode.LOAD, **(GOOD | BOTH | change))
    *_, result = simulate(CONFIGS[3], [command], Stalls())
    assert not result["fault"]["valid"]


@pytest.mark.parametrize(
    "change",
    [
        *({"base": 125}, {"address": BASE + SIZE - 32}, {"rows": 1, "row_stride": 1}, {"block_stride": 63, "base": 1}),
        *({"address": BASE + SIZE - 24, "row_bytes": 16, "packed4": 1}, {"address": BASE + SIZE - 24, "row_bytes": 15, "packed4": 1}),
    ],
)
def test_a_load_at_the_edge_is_good(change):
    command = Command.make(Opcode.LOAD, **(GOOD | change))
    *_, result = simulate(PRESETS["tiny"], [command], Stalls())
    assert not result["fault"]["valid"]


def test_a_reserved_bit_stops_the_unit():
    class Reserved:
        def pack(self):
            return Command.make(Opcode.LOAD, **GOOD).pack()[:-1] + b"\x80"

    check_fault(Reserved(), Code.BAD_FIELD, Check.RESERVED)


@pytest.mark.parametrize("seed", range(3))
def test_a_read_error_names_the_beat_and_takes_in_what_is_outstanding(seed):
    rng = random.Random(seed)
    config = PRESETS["tiny"]
    commands = [
        Command.make(Opcode.LOAD, address=BASE + 4096 * i, rows=9, row_bytes=40, row_stride=64, base=0, block_stride=2) for i in range(4)
    ]
    bad = BASE + 4096 * 2 + 3 * 64 + 8 * 2
    _, _, events, result = simulate(
        config, commands, Stalls.random(rng), seed=seed, error=lambda a: 2 + seed % 2 if a == bad else 0, until_fault=True
    )
    assert result["fault"] == {"valid": 1, "code": Code.AXI_READ_ERROR, "detail": 0, "command": 2, "address": bad}
    assert sum(kind == "done" for kind, *_ in events) == 2
    # A beat is two writes of four lanes: of two whole loads, of three rows and of two beats; none of what comes after the error.
    assert sum(kind == "write" for kind, *_ in events) == 2 * (2 * 9 * 5 + 3 * 5 + 2)


@pytest.mark.parametrize("word", [0, 1, 2])
def test_a_read_error_of_a_packed_load_names_the_word_on_the_bus(word):
    config = PRESETS["tiny"]
    commands = [
        Command.make(Opcode.LOAD, address=BASE + 4096 * i, rows=9, row_bytes=40, row_stride=64, base=0, block_stride=2, packed4=1)
        for i in range(2)
    ]
    bad = BASE + 4096 + 3 * 64 + 8 * word
    *_, result = simulate(config, commands, Stalls(), error=lambda a: 2 if a == bad else 0, until_fault=True)
    assert result["fault"] == {"valid": 1, "code": Code.AXI_READ_ERROR, "detail": 0, "command": 1, "address": bad}
