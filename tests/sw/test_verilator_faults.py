"""Faults on the native model: every single bit of a command flipped, every bus response an error, aborts at every time.

Each ends in a decoded status or in a list that is done; none hangs, none reaches past the window, and the next list runs right.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.same_values import assert_same_values
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.schedules.example import Example, example
from loralith.device.native.memory_model import Faults, MemoryTiming
from loralith.device.reference import ReferenceDevice
from loralith.device.run_status import RunResult, Status
from loralith.device.verilator import VerilatorDevice
from loralith.reports import result_files as results
from loralith.spec.commands import COMMAND_BYTES, COMMANDS, Command, LoadTarget, Opcode, StoreSource
from loralith.spec.config import load_config
from loralith.spec.status import Check, Code, Unit

BASE, BYTES = 1 << 32, 1 << 16
CONFIG = load_config("tiny")
TIMING = MemoryTiming(read_latency=10, write_latency=5)
WATCHDOG = 2000
TOKENS = {"wait", "signal", "read_signal", "segment_wait"}
# A bit here makes other lanes or columns part of the result than were computed: what lies there is unspecified.
UNSPECIFIED = {(Opcode.COMPUTE, "m_rows"), (Opcode.COMPUTE, "n_cols"), (Opcode.STORE, "rows"), (Opcode.STORE, "row_bytes")}


def one_by_one(commands: CommandList) -> CommandList:
    """The list with tokens that let a command start only when the one before it is complete: a broken command then races with none."""
    order = [Opcode.LOAD, Opcode.COMPUTE, Opcode.STORE]

    def semaphore(i: int) -> int:
        return 1 << 3 * order.index(commands[i].opcode) + order.index(commands[i + 1].opcode)

    chained = []
    for i, command in enumerate(commands):
        fields = {name: value for name, value in command.fields if name not in TOKENS}
        fields["wait"] = semaphore(i - 1) if i else 0
        fields["signal"] = semaphore(i) if i + 1 < len(commands) else 0
        chained.append(Command.make(command.opcode, **fields))
    return CommandList.of(chained)


def legal(data: bytes) -> bool:
    """The list has one right result, whatever the queues' speeds."""
    try:
        check(CommandList.unpack(data), CONFIG, (BASE, BASE + BYTES))
    except IllegalList:
        return False
    return True


class Bench:
    """The example on the RTL and on the reference, with the list next to its data."""

    def __init__(self) -> None:
        self.device = VerilatorDevice(CONFIG, memory_base=BASE, memory_bytes=BYTES, timing=TIMING, max_cycles=200_000)
        self.reference = ReferenceDevice(CONFIG, BYTES, BASE)
        self.it: Example = example(CONFIG, BASE + 4096)
        self.data = one_by_one(self.it.commands).pack()
        self.length = len(self.data) // COMMAND_BYTES
        self.good = self.expected(self.data)[1]
        self.kind = ""
        self.ends: Counter[tuple[str, str]] = Counter()
        self.next_right: Counter[str] = Counter()

    def image(self, data: bytes) -> np.ndarray:
        memory = np.full(BYTES, 0x5A, np.uint8)
        memory[: len(data)] = np.frombuffer(data, np.uint8)
        memory[4096 : 4096 + self.it.image.size] = self.it.image
        return memory

    def expected(self, data: bytes) -> tuple[RunResult, np.ndarray]:
        self.reference = ReferenceDevice(CONFIG, BYTES, BASE)
        self.reference.write(BASE, self.image(data))
        result = self.reference._execute(BASE, len(data) // COMMAND_BYTES, 1.0)
        return result, self.reference.read(BASE, BYTES)

    def fresh(self) -> None:
        self.device.power_cycle()
        self.device.registers.set("WATCHDOG", WATCHDOG)

    def run(self, data: bytes) -> tuple[RunResult, np.ndarray]:
        self.device.write(BASE, self.image(data))
        result = self.device.run_at(BASE, len(data) // COMMAND_BYTES)
        assert self.device.bus().outside_window == 0
        return result, self.device.read(BASE, BYTES)

    def ended(self, status: Status) -> None:
        words = (status.code.name, status.detail.name, status.unit.name)
        self.ends[self.kind, " ".join(word for word in words if word != "NONE")] += 1

    def good_list_runs(self) -> None:
        self.device.configure(timing=TIMING, faults=Faults())
        result, memory = self.run(self.data)
        assert result.status.code is Code.OK
        np.testing.assert_array_equal(memory, self.good)
        self.next_right[self.kind] += 1

    def table(self) -> list[str]:
        """Markdown: how many faults of each kind ended how, and after how many the next list was run and right."""
        lines = ["| fault | ends as | times |", "|---|---|---|"]
        for kind, following in sorted(self.next_right.items()):
            ends = sorted((end, count) for (of, end), count in self.ends.items() if of == kind)
            lines += [f"| {kind if i == 0 else ''} | {end} | {count} |" for i, (end, count) in enumerate(ends)]
            lines.append(f"| | the next list runs right | {following} |")
        return lines


@pytest.fixture(scope="module")
def the_bench() -> Iterator[Bench]:
    """With LORALITH_RESULTS, a folder, in the environment the table of all faults is written there."""
    bench = Bench()
    yield bench
    folder = os.environ.get("LORALITH_RESULTS")
    if folder:
        command = "LORALITH_RESULTS=docs/results python -m pytest -p no:xdist tests/sw/test_verilator_faults.py"
        text = "Every fault ends in a decoded status, none hangs, and the list after it gives every bit that it should."
        figures = {"ends": [[*key, count] for key, count in sorted(bench.ends.items())], "next_right": dict(bench.next_right)}
        results.write(Path(folder) / "faults", "Faults on the RTL", command, figures, [text, "", *bench.table()])


@pytest.fixture
def bench(the_bench: Bench, request: pytest.FixtureRequest) -> Bench:
    the_bench.kind = KINDS[request.function.__name__].format(**getattr(getattr(request.node, "callspec", None), "params", {}))
    return the_bench


KINDS = {
    "test_every_flipped_bit_ends_as_on_the_reference": "a bit of a {victim} flipped",
    "test_every_failing_read_beat_stops_the_list_at_its_address": "{response} on a read beat",
    "test_every_failing_write_burst_stops_the_list_at_its_address": "{response} on a write burst",
    "test_error_address_is_that_of_the_beat_or_burst": "an address that always fails",
    "test_abort_at_any_time_ends_the_list_and_the_next_runs": "abort",
    "test_memory_that_does_not_answer_expires_the_watchdog": "channel {channel} stands still",
    "test_accesses_stop_at_either_end_of_the_window": "a window that ends or begins in the list's data",
    "test_bad_list_is_refused": "a list out of bounds, misaligned or empty",
    "test_wait_that_is_never_met_expires_the_watchdog": "a token that nobody gives",
}


VICTIMS: dict[str, Callable[[Command], bool]] = {
    "load": lambda c: c.opcode is Opcode.LOAD and not c["transpose"] and c["target"] == LoadTarget.RIGHT,
    "compute": lambda c: c.opcode is Opcode.COMPUTE and bool(c["chained"]),
    "store": lambda c: c.opcode is Opcode.STORE and bool(c["transpose"]),
    "store of statistics": lambda c: c.opcode is Opcode.STORE and c["source"] == StoreSource.STATS,
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_every_flipped_bit_ends_as_on_the_reference(bench: Bench, victim: str) -> None:
    index, opcode = next((i, c.opcode) for i, c in enumerate(bench.it.commands) if VICTIMS[victim](c))
    field_of = {bit: f.name for f in COMMANDS[opcode].fields.values() for bit in range(f.offset, f.offset + f.width)}
    for bit in range(8 * COMMAND_BYTES):
        flipped = bytearray(bench.data)
        flipped[index * COMMAND_BYTES + bit // 8] ^= 1 << bit % 8
        field = field_of.get(bit, "reserved")
        bench.fresh()
        result, memory = bench.run(bytes(flipped))
        status = result.status
        bench.ended(status)
        where = f"{opcode.name} bit {bit} ({field}): {status}"
        expected, image = bench.expected(bytes(flipped))
        # Where the bit takes the order or the tokens away, the list may end either way; but it ends.
        ordered = status.code is not Code.WATCHDOG or field not in TOKENS | {"opcode"}
        assert not ordered or status == expected.status, f"{where}, expected {expected.status}"
        if status.code is Code.OK and (opcode, field) not in UNSPECIFIED and legal(bytes(flipped)):
            assert_same_values(memory, image, where)
        bench.good_list_runs()


@pytest.mark.parametrize("response", ["SLVERR", "DECERR"])
def test_every_failing_read_beat_stops_the_list_at_its_address(bench: Bench, response: str) -> None:
    bench.fresh()
    before = bench.device.bus().read_beats
    bench.run(bench.data)
    beats = bench.device.bus().read_beats - before
    for beat in range(1, beats + 1):
        bench.device.configure(faults=Faults(read_beat=beat, response=response))
        result, _ = bench.run(bench.data)
        assert result.status.code is Code.AXI_READ_ERROR, f"beat {beat}: {result.status}"
        assert result.status.unit in (Unit.FETCH, Unit.LOAD)
        assert BASE <= result.status.address < BASE + BYTES
        bench.ended(result.status)
        bench.good_list_runs()


@pytest.mark.parametrize("response", ["SLVERR", "DECERR"])
def test_every_failing_write_burst_stops_the_list_at_its_address(bench: Bench, response: str) -> None:
    bench.fresh()
    before = bench.device.bus().write_bursts
    bench.run(bench.data)
    bursts = bench.device.bus().write_bursts - before
    assert bursts > 10
    for burst in range(1, bursts + 1):
        bench.device.configure(faults=Faults(write_burst=burst, response=response))
        result, _ = bench.run(bench.data)
        assert (result.status.code, result.status.unit) == (Code.AXI_WRITE_ERROR, Unit.STORE), f"burst {burst}: {result.status}"
        bench.ended(result.status)
        bench.good_list_runs()


@pytest.mark.parametrize("is_write", [False, True])
def test_error_address_is_that_of_the_beat_or_burst(bench: Bench, is_write: bool) -> None:
    opcode = Opcode.STORE if is_write else Opcode.LOAD
    W = CONFIG.bus_bytes
    for index, command in enumerate(bench.it.commands):
        if command.opcode is not opcode:
            continue
        address = command["address"]
        if not is_write and command["row_bytes"] > W:
            address += W  # not the burst's first beat
        bench.device.configure(faults=Faults(region=(address, address + 1)))
        result, _ = bench.run(bench.data)
        code = Code.AXI_WRITE_ERROR if is_write else Code.AXI_READ_ERROR
        assert (result.status.code, result.status.command, result.status.address) == (code, index, address)
        bench.ended(result.status)
        bench.good_list_runs()


def test_abort_at_any_time_ends_the_list_and_the_next_runs(bench: Bench) -> None:
    bench.fresh()
    device = bench.device
    cycles = bench.run(bench.data)[0].counters.cycles
    for delay in range(0, cycles + 20, 3):
        device.write(BASE, bench.image(bench.data))
        device.registers.start(BASE, bench.length)
        device.model.tick(delay)
        device.registers.abort()
        for _ in range(1000):
            if not device.registers.busy():
                break
            device.model.tick(1)
        assert not device.registers.busy(), f"abort after {delay} cycles"
        stats = device.bus()
        assert (stats.reads_pending, stats.writes_pending) == (0, 0), f"abort after {delay} cycles"
        assert device.registers.status().code in (Code.HOST_ABORT, Code.OK)
        bench.ended(device.registers.status())
        bench.good_list_runs()


@pytest.mark.parametrize("channel", ["ar", "r", "aw", "w", "b"])
def test_memory_that_does_not_answer_expires_the_watchdog(bench: Bench, channel: str) -> None:
    bench.fresh()
    device = bench.device
    device.configure(timing=MemoryTiming(stall={channel: 1.0}, stall_length=1 << 31))
    device.write(BASE, bench.image(bench.data))
    device.registers.start(BASE, bench.length)
    device.model.tick(2 * WATCHDOG + 2000)
    assert device.registers.status().code is Code.WATCHDOG
    device.configure(timing=TIMING)  # it answers at last
    assert device.model.wait(10_000)
    assert not device.registers.busy()
    assert device.registers.result().status.code is Code.WATCHDOG
    bench.ended(device.registers.status())
    bench.good_list_runs()


@pytest.mark.parametrize("shift", [-4096, -64, -8, 0, 8, 64, 4096])
def test_accesses_stop_at_either_end_of_the_window(bench: Bench, shift: int) -> None:
    """A window that ends just before, at, or past the last byte that the list reaches, and one that begins around the first."""
    bench.fresh()
    device = bench.device
    last = bench.it.address + bench.it.image.size
    for window in ((BASE, last + shift), (BASE + 4096 + shift, BASE + BYTES)):
        device.configure(window=window)
        list_base = BASE if window[0] <= BASE else BASE + BYTES - 8192
        image = bench.image(bench.data)
        image[list_base - BASE : list_base - BASE + len(bench.data)] = np.frombuffer(bench.data, np.uint8)
        device.write(BASE, image)
        before = device.bus().outside_window
        result = device.run_at(list_base, bench.length)
        assert device.bus().outside_window == before
        fits = window[0] <= BASE + 4096 and last <= window[1]
        assert result.status.code is (Code.OK if fits else Code.DRAM_WINDOW), f"window {window}: {result.status}"
        bench.ended(result.status)
        if not fits:
            list_fits = list_base + len(bench.data) <= window[1]
            assert result.status.detail is (Check.ADDRESS if list_fits else Check.LIST)
    device.configure(window=(BASE, BASE + BYTES))
    bench.good_list_runs()


@pytest.mark.parametrize(
    ("base", "length", "code"),
    [
        (BASE + 4, 1, Code.MISALIGNED),
        (BASE, 0, Code.BAD_FIELD),
        (BASE - 128, 2, Code.DRAM_WINDOW),
        (BASE + BYTES - 128, 2, Code.DRAM_WINDOW),
        (BASE + BYTES, 1, Code.DRAM_WINDOW),
        (BASE, 0xFFFF_FFFF, Code.DRAM_WINDOW),
        ((1 << 64) - 128, 2, Code.DRAM_WINDOW),
        (0, 1, Code.DRAM_WINDOW),
    ],
)
def test_bad_list_is_refused(bench: Bench, base: int, length: int, code: Code) -> None:
    bench.fresh()
    status = bench.device.run_at(base, length).status
    assert (status.code, status.detail, status.unit) == (code, Check.LIST, Unit.FETCH)
    bench.ended(status)
    assert bench.device.bus().outside_window == 0
    bench.good_list_runs()


def test_wait_that_is_never_met_expires_the_watchdog(bench: Bench) -> None:
    bench.fresh()
    flipped = bytearray(bench.data)
    flipped[4] |= 0x80  # the first command waits for a semaphore that nobody gives
    result, _ = bench.run(bytes(flipped))
    assert result.status.code is Code.WATCHDOG
    assert result.counters.cycles >= WATCHDOG
    bench.ended(result.status)
    bench.good_list_runs()
