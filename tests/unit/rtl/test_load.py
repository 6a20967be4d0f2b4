"""The LOAD unit with its read master on a memory that stalls, against docs/machine.md written out in numpy."""

import random

import pytest

from helpers.load_rig import BASE, CONFIGS, WRITE_DELAY, Pads, assert_equal, bus_words, odd, simulate, some_load
from loralith.spec.commands import Command, LoadTarget, Opcode
from loralith.spec.config import PRESETS
from loralith.verif.axi_model import Stalls


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("seed", range(3))
def test_scratchpads_hold_what_the_rules_say(config, seed):
    rng = random.Random(seed)
    commands = [some_load(config, rng, i) for i in range(12)]
    stall = rng.choice([0.0, 0.4])
    memory, pads, events, result = simulate(config, commands, Stalls.random(rng), seed=seed, write_stall=stall)
    want = Pads(config)
    for command in commands:
        want.model(command, memory)
    assert_equal(pads, want, commands)
    assert [detail for kind, _, detail in events if kind == "done"] == [c["signal"] for c in commands]
    assert not result["fault"]["valid"]
    assert not result["busy"]
    assert sum(beats for _, beats in memory.reads) == sum(c["rows"] * bus_words(c, config) for c in commands)


def test_a_load_is_signalled_after_its_last_byte_is_readable():
    config = PRESETS["tiny"]
    rng = random.Random(5)
    commands = [some_load(config, rng, i) for i in range(6)]
    _, _, events, _ = simulate(config, commands, Stalls(), write_stall=0.3)
    writes = [cycle for kind, cycle, _ in events if kind == "write"]
    dones = [cycle for kind, cycle, _ in events if kind == "done"]
    seen = 0
    for command, done in zip(commands, dones, strict=True):
        lanes = {LoadTarget.LEFT: config.rows, LoadTarget.RIGHT: config.cols}.get(command["target"], 64)
        step = config.bus_bytes if command["transpose"] else min(config.bus_bytes, lanes)
        seen += (command["rows"] + command["pad_rows"]) * -(-command["row_bytes"] // step)
        assert done >= writes[seen - 1] + WRITE_DELAY


@pytest.mark.parametrize("rows", [1, 2])
def test_a_load_is_signalled_as_soon_as_its_last_byte_is_readable(rows):
    """Nothing stalls: not a cycle sooner, and not one later than the unit needs to hand the mask on."""
    command = Command.make(Opcode.LOAD, address=BASE, rows=rows, row_bytes=8, row_stride=8, base=0, block_stride=1, signal=1)
    _, _, events, _ = simulate(PRESETS["tiny"], [command], Stalls())
    last_write = max(cycle for kind, cycle, _ in events if kind == "write")
    assert [cycle - last_write for kind, cycle, _ in events if kind == "done"] == [WRITE_DELAY + 1]


@pytest.mark.parametrize("pad_rows", [1, 2])
@pytest.mark.parametrize("row_bytes", [1, 9, 24])
@pytest.mark.parametrize("target", [LoadTarget.LEFT, LoadTarget.RIGHT])
def test_rows_of_padding_are_as_long_as_the_others(target, row_bytes, pad_rows):
    """Zeros lie in the scratchpad up to the last bus word of the last row, and the next load is not disturbed."""
    config = PRESETS["tiny"]
    stride = -(-row_bytes // 8) * 8
    fields = {"target": target, "row_bytes": row_bytes, "row_stride": stride, "block_stride": 2}
    commands = [
        Command.make(Opcode.LOAD, address=BASE, rows=3, pad_rows=pad_rows, base=0, **fields),
        Command.make(Opcode.LOAD, address=BASE + 4096, rows=2, base=40, **fields),
    ]
    memory, pads, _, result = simulate(config, commands, Stalls())
    want = Pads(config)
    for command in commands:
        want.model(command, memory)
    assert_equal(pads, want, commands)
    assert not result["busy"]


@pytest.mark.parametrize(("block_stride", "right_stride"), [(5, 2), (3, 7)])
@pytest.mark.parametrize("packed4", [0, 1])
def test_the_halves_of_a_load_into_both_have_strides_of_their_own(block_stride, right_stride, packed4):
    """Several blocks of lanes on both sides."""
    config = CONFIGS[3]
    command = Command.make(
        Opcode.LOAD,
        **{"target": LoadTarget.BOTH, "transpose": 1, "address": BASE, "rows": 20, "row_bytes": 40, "row_stride": 48, "packed4": packed4},
        **{"base": 1, "block_stride": block_stride, "right_base": 3, "right_stride": right_stride},
    )
    memory, pads, _, result = simulate(config, [command], Stalls())
    want = Pads(config)
    want.model(command, memory)
    assert_equal(pads, want, [command])
    assert not result["fault"]["valid"]


def test_latency_shows_once_and_not_per_command():
    """Sixteen loads of 16 one-beat rows behind 100 cycles of latency: one beat per cycle but for a cycle per load."""
    config = odd("base", rows=16, cols=16, bus_bytes=16, left_bytes=16384, right_bytes=16384, outstanding_reads=128)
    commands = [
        Command.make(Opcode.LOAD, address=BASE + 1024 * i, rows=64, row_bytes=16, row_stride=16, base=0, block_stride=4, transpose=i % 2)
        for i in range(16)
    ]
    memory, *_ = simulate(config, commands, Stalls(latency=100))
    assert memory.read_cycles[-1] - memory.read_cycles[0] <= 16 * (64 + 2)


@pytest.mark.parametrize(
    "fields", [{}, {"transpose": 1}, {"transpose": 1, "target": LoadTarget.BOTH}], ids=["natural", "transposed", "both"]
)
@pytest.mark.parametrize("row_bytes", [1, 2, 15, 16, 17, 31, 32, 33, 48, 64])
def test_a_packed_row_of_any_length_moves_half_the_words_and_takes_a_cycle_per_write(fields, row_bytes):
    config = CONFIGS[3]
    command = Command.make(
        Opcode.LOAD, address=BASE + 64, rows=33, row_bytes=row_bytes, row_stride=64, block_stride=4, right_stride=4, packed4=1, **fields
    )
    memory, pads, events, _ = simulate(config, [command], Stalls())
    want = Pads(config)
    want.model(command, memory)
    assert_equal(pads, want, [command])
    assert sum(beats for _, beats in memory.reads) == 33 * -(-row_bytes // 32)
    writes = [cycle for kind, cycle, _ in events if kind == "write"]
    assert len(writes) == 33 * -(-row_bytes // 16)
    if row_bytes > 32:  # else the memory's bursts of one word are the limit
        assert writes[-1] - writes[0] <= len(writes) + 2


def test_a_packed_load_of_long_rows_writes_every_cycle():
    """Words come as fast as the bus has them, and wait until they are written: two cycles for each."""
    config = CONFIGS[3]
    command = Command.make(Opcode.LOAD, address=BASE, rows=16, row_bytes=1024, row_stride=512, transpose=1, packed4=1)
    _, _, events, _ = simulate(config, [command], Stalls())
    writes = [cycle for kind, cycle, _ in events if kind == "write"]
    assert writes[-1] - writes[0] == 16 * 64 - 1
