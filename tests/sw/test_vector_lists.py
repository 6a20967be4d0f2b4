"""Lists with VECTOR commands on the native model with vector lanes: order, status, counters, and the list after a fault."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from helpers.vector_lists import TINY, Draw, image_of
from loralith.compiler.proof.checker import check
from loralith.compiler.tokens.sync import synchronize
from loralith.device import open_device
from loralith.device.device_errors import DeviceFault
from loralith.device.native.memory_model import MemoryTiming
from loralith.device.run_status import RunResult, Status
from loralith.device.verilator import VerilatorDevice
from loralith.spec.commands import COMMAND_BYTES, VECTOR, Command, Opcode
from loralith.spec.status import Check, Code, Unit

CONFIG = TINY
IDLE = {"count": 1, "outer": 1, "inner": 1, "lanes": 4}
"""Instructions of a program memory of zeros: nothing is read, nothing written."""


@pytest.fixture(scope="module")
def device() -> Iterator[VerilatorDevice]:
    with VerilatorDevice(CONFIG, memory_bytes=1 << 16, timing=MemoryTiming(read_latency=10, write_latency=5), max_cycles=500_000) as opened:
        yield opened


def run(device: VerilatorDevice, *commands: bytes) -> RunResult:
    device.registers.set("WATCHDOG", 2000)
    data = b"".join(commands)
    device.write(device.memory_base, np.frombuffer(data, np.uint8))
    return device.run_at(device.memory_base, len(data) // COMMAND_BYTES)


def vector(**fields: int) -> bytes:
    return Command.make(Opcode.VECTOR, **(IDLE | fields)).pack()


def with_wait(command: bytes, mask: int) -> bytes:
    """The command with those semaphores in ``wait``."""
    at = VECTOR.fields["wait"].offset // 8
    return command[:at] + mask.to_bytes(2, "little") + command[at + 2 :]


def test_vector_commands_run_in_order_by_their_tokens_and_are_counted(device: VerilatorDevice) -> None:
    """Each waits for the token of the one before it; the long one is longer than the watchdog's time."""
    long = {"outer": 100, "inner": 40}
    result = run(device, vector(signal=1), vector(wait=1, signal=6, **long), vector(wait=6, count=64))
    assert result.status == Status()
    assert result.commands_done == 3
    counted = result.counters
    assert counted.vector_busy > 100 * 40
    assert counted.cycles == counted.busy + counted.wait_load + counted.wait_store + counted.fill_drain + counted.idle
    assert counted.vector_busy - counted.wait_load <= counted.fill_drain <= counted.vector_busy


RESERVED = (VECTOR.reserved_mask & -VECTOR.reserved_mask).bit_length() - 1
FAULTS = {
    "reserved": (bytes(b | 1 << RESERVED % 8 if i == RESERVED // 8 else b for i, b in enumerate(vector())), Code.BAD_FIELD, Check.RESERVED),
    "size": (vector(inner=0), Code.BAD_FIELD, Check.SIZE),
    "lanes": (vector(lanes=5), Code.BAD_FIELD, Check.SIZE),
    "program": (vector(first=60, count=5), Code.SCRATCHPAD_BOUNDS, Check.PROGRAM),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_refused_command_is_named_and_the_next_list_runs(device: VerilatorDevice, name: str) -> None:
    command, code, detail = FAULTS[name]
    result = run(device, vector(signal=1), vector(wait=1, signal=2), with_wait(command, 2), vector())
    assert result.status == Status(code, detail, Unit.VECTOR, 2, 0)
    result = run(device, vector(), vector())
    assert (result.status, result.commands_done) == (Status(), 2)


def test_a_token_that_nobody_gives_and_a_fault_elsewhere_end_a_list(device: VerilatorDevice) -> None:
    """The second list's VECTOR would run for weeks; an unknown opcode behind it stops it."""
    assert run(device, vector(wait=1)).status.code is Code.WATCHDOG
    endless = vector(outer=65535, inner=65535)
    assert run(device, endless, bytes([9]) + bytes(COMMAND_BYTES - 1)).status == Status(Code.BAD_OPCODE, Check.NONE, Unit.FETCH, 1, 0)
    assert run(device, vector()).status == Status()


@pytest.mark.parametrize("seed", range(30))
def test_random_lists_equal_the_reference_device(seed: int) -> None:
    """Loads of every format, integers of the array, a random program, stores of all that it may have written: DRAM and clips."""
    seen = []
    for name in ("reference", "verilator"):
        with open_device(name, CONFIG, memory_bytes=1 << 20, **({"max_cycles": 500_000} if name == "verilator" else {})) as device:
            base = device.alloc(1 << 16, 4096)
            draw = Draw(random.Random(seed), CONFIG, base)
            draw.whole()
            commands = synchronize(draw.list(), CONFIG, draw.programs)
            check(commands, CONFIG, programs=draw.programs)
            device.write(base, image_of(draw))
            try:
                ended: object = device.run(commands).counters.saturations
            except DeviceFault as fault:
                ended = str(fault.status)
            seen.append((ended, device.read(base, 1 << 16)))
    (ended, wanted), (found_end, found) = seen
    assert found_end == ended
    if not isinstance(ended, str):
        assert np.flatnonzero(found != wanted).tolist() == [], "bytes of DRAM differ"
