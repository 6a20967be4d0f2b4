"""Cycle model: how long a command list takes, and which command does what when, in plain Python.

Each command is walked once, each unit's in list order and the units' among each other as they can start. A legal list allows that:
whatever a command waits for is signalled by an earlier one. A unit is described by when it takes a command, how long the command holds it,
and when its tokens are out:

    fetch    descriptors in order over the read channel, before the loads' words, as far ahead as its buffer and the units' queues allow
    LOAD     check, tokens, one burst per cycle with a bound on those in flight, one bus word per cycle after the memory's latency
    COMPUTE  check, tokens, one step per cycle; a tile takes at least as long as the one before it drains
    STORE    check, tokens, one bus word per cycle, the memory's response
    VECTOR   tokens, then instruction after instruction, a word per cycle (docs/vector_unit.md)

`docs/dataflow.md` has its error against the RTL's counters for every shape that was run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from loralith.compiler.latencies import (
    BURST_SPLIT_LATENCY,
    CHECK_BOTH_LATENCY,
    CHECK_LATENCY,
    DECODE_LATENCY,
    FETCH_AHEAD,
    LOAD_DONE_LATENCY,
    PIPELINE_LATENCY,
    QUEUE_LATENCY,
    READ_DONE_LATENCY,
    START_LATENCY,
    TILE_INTERVAL,
    TRANSFERS_IN_FLIGHT,
)
from loralith.compiler.lists.command_list import CommandList, Fields, bytes_in_dram
from loralith.compiler.memories import Memory, Sdr16
from loralith.compiler.tokens.footprint import ProgramMemory
from loralith.compiler.vector_timing import row_cycles, vector_cycles
from loralith.spec.commands import COMMAND_BYTES, SEMAPHORES, Command, LoadTarget, Opcode, StoreSource
from loralith.spec.config import Config

__all__ = ["Activity", "Memory", "Sdr16", "Timeline", "model"]

# Latencies and intervals in cycles that span several blocks, as waveforms show them; those of a block are generated from its RTL
# (`latencies.py`). A token can be taken in the cycle in which it is signalled.
FIRST_FETCH_LATENCY = 17  # from the doorbell to the first descriptor's address
FETCH_INTERVAL = 3  # from one descriptor's address to the next one's
ARRIVAL_LATENCY = 3  # from a descriptor's last word to its last word out of the fetch
REQUEST_LATENCY = 12  # from there to the next address
GRANT_LATENCY = 2  # from the last of a command's tokens to the cycle in which it takes them
FIRST_ADDRESS_LATENCY = 6  # from a transfer's first burst prepared to the first address on the bus
BURSTS_AHEAD = 7  # bursts prepared before their addresses are on the bus
GATE_DEPTH = 4  # of the bursts that are prepared, with the fetch's: their order does not change any more
LOAD_DONE_INTERVAL = 7  # between the tokens of two loads
DEVICE_SHIFT_LATENCY = 24  # a shift that the device sets, about: it depends on the maximum
SEGMENT_LATENCY = 2  # from a second segment's tokens taken, which is not before the first one's last step, to its first step
FIRST_STORE_LATENCY = 12  # from a store's tokens taken to its first word
STORE_INTERVAL = 6  # from one store's last word to the first one of the next
RESPONSE_LATENCY = 3  # from the last response to the store's tokens
END_LATENCY = 4  # from the last tokens to the end
VECTOR_CHECK_LATENCY = 3  # from a VECTOR taken from its queue to its tokens taken, if they are there
VECTOR_DONE_LATENCY = 2  # from the end of a VECTOR to its tokens
ONE_BY_ONE = {Opcode.COMPUTE: DECODE_LATENCY, Opcode.VECTOR: VECTOR_CHECK_LATENCY}  # units that check a command as they take it
VECTOR_TARGETS = (LoadTarget.V0, LoadTarget.V1, LoadTarget.PROGRAM, LoadTarget.SCALARS, LoadTarget.KEY)
LIST_ADDRESS = 1 << 24  # of the list where the memory has rows: beyond the operands


@dataclass(frozen=True)
class Activity:
    """One command: cycles in which its unit worked for it, from `start` to `end`, and the cycle in which it was ready but for tokens."""

    command: int
    opcode: Opcode
    ready: int
    start: int
    end: int
    note: str = ""


@dataclass
class Timeline:
    """What `model` returns.

    Attributes:
        cycles: from the doorbell to the last response. busy: steps of the array. vector: cycles in which the vector unit runs a command.
        activities: in list order.
        read_words, write_words: on the bus, descriptors included.
    """

    cycles: int = 0
    busy: int = 0
    vector: int = 0
    read_words: int = 0
    write_words: int = 0
    activities: list[Activity] = field(default_factory=list)


class _Model:
    def __init__(self, commands: tuple[Command, ...], config: Config, memory: Memory | Sdr16, programs: Mapping[int, bytes]) -> None:
        self.program = ProgramMemory(programs)
        self.codes: dict[int, Sequence[Mapping[str, int]]] = {}
        for index, command in enumerate(commands):
            self.program.follow(command)
            if command.opcode == Opcode.VECTOR:
                found = self.program.codes(command["first"], command["count"])
                if found is None:
                    raise ValueError(f"command {index} runs instructions of which the bytes are not known")
                self.codes[index] = found
        self.config, self.memory = config, memory.server(config)
        self.commands = commands
        self.tokens: list[deque[int]] = [deque() for _ in range(SEMAPHORES)]
        self.result = Timeline()
        self.descriptor = COMMAND_BYTES // config.bus_bytes
        # Each unit's commands, and of those, as far as known, when they left their queue and freed an entry, when a transfer's
        # check was done, and when the checker was free for the next one (of a compute command: when its first step was).
        self.order = {op: [i for i, c in enumerate(commands) if c.opcode == op] for op in Opcode}
        self.taken: dict[Opcode, list[int]] = {op: [] for op in Opcode}
        self.checked: dict[Opcode, list[int]] = {op: [] for op in Opcode}
        self.free: dict[Opcode, list[int]] = {op: [] for op in Opcode}
        # Of each descriptor, as far as known: when its address can be on the bus, its last word, and when that left the fetch.
        self.fetch_requests = deque(FIRST_FETCH_LATENCY + FETCH_INTERVAL * i for i in range(min(FETCH_AHEAD, len(commands))))
        self.last_words: list[int] = []
        self.dispatched: list[int] = []
        self.sent = dict.fromkeys(Opcode, 0)
        # Read channel and load unit.
        self.bus = 0
        self.in_flight: deque[int] = deque([0] * config.outstanding_reads, config.outstanding_reads)
        self.gate: deque[int] = deque([0] * GATE_DEPTH, GATE_DEPTH)
        self.addresses: deque[int] = deque([0] * BURSTS_AHEAD, BURSTS_AHEAD)
        self.loads: deque[int] = deque([0] * TRANSFERS_IN_FLIGHT, TRANSFERS_IN_FLIGHT)
        # Compute unit.
        self.final = 0
        self.tile_end, self.spacing = 0, 0
        # Store unit.
        self.written = self.answered = 0
        self.stores: deque[int] = deque([0] * TRANSFERS_IN_FLIGHT, TRANSFERS_IN_FLIGHT)

    def run(self) -> Timeline:
        walk = {Opcode.LOAD: self.load, Opcode.COMPUTE: self.compute, Opcode.STORE: self.store, Opcode.VECTOR: self.vector}
        done = dict.fromkeys(Opcode, 0)
        activities: list[tuple[int, Opcode, int, int, int]] = []
        while len(activities) < len(self.commands):
            self.advance()
            found = self.soonest(done)
            if self.fetch_requests and (found is None or self.fetch_requests[0] <= found[0]):
                self.read_descriptor()
                continue
            if found is None:
                raise IndexError("the list waits for a token that nothing before it gives")
            granted, opcode = found
            index = self.order[opcode][done[opcode]]
            activities.append((index, opcode, *walk[opcode](index, granted, done[opcode])))
            done[opcode] += 1
        self.result.activities = [Activity(*activity) for activity in sorted(activities)]
        self.result.cycles = max((a.end for a in self.result.activities), default=0) + END_LATENCY
        return self.result

    # Tokens.

    def ready(self, mask: int) -> int | None:
        """The cycle in which one token of each semaphore of `mask` is there; None while that of one is not known."""
        ready = 0
        for i in range(mask.bit_length()):
            if mask >> i & 1:
                if not self.tokens[i]:
                    return None
                ready = max(ready, self.tokens[i][0])
        return ready

    def take(self, mask: int) -> int:
        """The cycle in which one token of each semaphore of `mask` is there; takes them."""
        ready = 0
        for i in range(mask.bit_length()):
            if mask >> i & 1:
                ready = max(ready, self.tokens[i].popleft())
        return ready

    def give(self, mask: int, when: int) -> None:
        for i in range(mask.bit_length()):
            if mask >> i & 1:
                self.tokens[i].append(when)

    # Commands on their way to the units.

    def read_descriptor(self) -> None:
        """The next descriptor's words on the bus, after all bursts that are there already."""
        address = max(self.fetch_requests.popleft(), self.in_flight[0] + 1)
        first, last = self.memory.read(address, LIST_ADDRESS + len(self.last_words) * COMMAND_BYTES, self.descriptor)
        self.bus = max(max(self.bus, first) + self.descriptor, last + 1)
        self.in_flight.append(self.bus)
        self.gate.append(address)
        self.last_words.append(self.bus - 1)

    def advance(self) -> None:
        """Follows the fetch and the checks as far as is known."""
        moved = True
        while moved:
            moved = self.dispatch()
            for opcode, order in self.order.items():
                taken, checked, free = self.taken[opcode], self.checked[opcode], self.free[opcode]
                place = len(taken)
                before = free if opcode in ONE_BY_ONE else checked
                if place < len(order) and order[place] < len(self.dispatched) and len(before) >= place:
                    read = self.descriptor if opcode == Opcode.VECTOR else 0  # out of the queue, once the unit is free
                    taken.append(max(self.dispatched[order[place]] + QUEUE_LATENCY, before[place - 1] + read if place else 0))
                    moved = True
                place = len(checked)
                if opcode not in ONE_BY_ONE and place < len(taken) and len(free) >= place:
                    both = opcode == Opcode.LOAD and self.commands[order[place]]["target"] == LoadTarget.BOTH
                    checked.append(max(taken[place] + (CHECK_BOTH_LATENCY if both else CHECK_LATENCY), free[place - 1] if place else 0))
                    moved = True

    def dispatch(self) -> bool:
        """Follows the fetch to the first command that has not arrived, or whose queue is full until a time that is not known yet."""
        moved = False
        while (index := len(self.dispatched)) < len(self.last_words):
            opcode = self.commands[index].opcode
            when, place = self.last_words[index] + ARRIVAL_LATENCY, self.sent[opcode] - self.config.queue_depth - 1
            if index:
                when = max(when, self.dispatched[-1] + self.descriptor)
            if place >= 0:
                if place >= len(self.taken[opcode]):
                    break
                when = max(when, self.taken[opcode][place] + self.descriptor - 1)
            self.dispatched.append(when)
            self.sent[opcode] += 1
            if index + FETCH_AHEAD < len(self.commands):
                self.fetch_requests.append(when + REQUEST_LATENCY)
            moved = True
        return moved

    def soonest(self, done: dict[Opcode, int]) -> tuple[int, Opcode] | None:
        """The cycle in which a command takes its tokens, and its unit: the first one, of those that are known."""
        best: tuple[int, Opcode] | None = None
        for opcode, order in self.order.items():
            place, known = done[opcode], self.taken[opcode] if opcode in ONE_BY_ONE else self.checked[opcode]
            if place < len(known):
                command = self.commands[order[place]]
                segment = command["segment_wait"] if opcode == Opcode.COMPUTE else 0
                tokens = self.ready(command["wait"])
                if tokens is not None and self.ready(segment) is not None:
                    ready = known[place] + ONE_BY_ONE.get(opcode, 1)
                    granted = max(ready, tokens + GRANT_LATENCY)
                    if best is None or granted < best[0]:
                        best = granted, opcode
        return best

    # Units. Each takes a command's number, the cycle in which it takes its tokens and its place among the unit's commands, and returns
    # (ready but for tokens, start, end).

    def load(self, index: int, granted: int, place: int) -> tuple[int, int, int]:
        c, config = self.commands[index], self.config
        self.take(c["wait"])
        words = -(-bytes_in_dram(Fields(c)) // config.bus_bytes)
        rows = c["rows"]
        # A word of a packed load is written in two, and a beat that spans several blocks of lanes once for each.
        lanes = config.cols if c["target"] == LoadTarget.RIGHT else config.rows
        split = not c["transpose"] and c["target"] != LoadTarget.SCALE and lanes < config.bus_bytes
        row_writes = -(-c["row_bytes"] // (lanes if split else config.bus_bytes))
        if c["target"] in VECTOR_TARGETS:
            row_writes = row_cycles(Fields(c), config)
        start = latency = 0
        issue = max(granted + BURST_SPLIT_LATENCY, self.loads[0], self.addresses[0])
        self.free[Opcode.LOAD].append(issue)
        self.advance()
        made = issue + FIRST_ADDRESS_LATENCY - 1
        line = 4096 // config.bus_bytes
        longest = min(config.max_burst, line)
        first_byte, stride = c["address"], c["row_stride"]
        fetch_requests, in_flight = self.fetch_requests, self.in_flight
        for row in range(rows):
            remaining, byte = words, first_byte + row * stride
            while remaining:
                burst = min(remaining, longest, line - byte % 4096 // config.bus_bytes)
                made = max(made + 1, self.gate[0] + GATE_DEPTH)
                # The fetch goes first, and the memory answers in the order of the requests.
                while fetch_requests and fetch_requests[0] <= made:
                    self.read_descriptor()
                    self.advance()
                    made = max(made, self.gate[0] + GATE_DEPTH)
                address = max(made, self.gate[-1] + 1, in_flight[0] + 1)
                self.gate.append(address)
                first, last = self.memory.read(address, byte, burst)
                begun = max(first, self.bus)
                self.bus = max(begun + row_writes * burst // words, last + 1)
                in_flight.append(self.bus)
                self.addresses.append(address)
                if not start:
                    start, latency = begun, first - address
                remaining, byte = remaining - burst, byte + burst * config.bus_bytes
        self.result.read_words += rows * words
        extra = c["pad_rows"] * row_writes
        end = max(self.bus + extra + LOAD_DONE_LATENCY, self.loads[-1] + LOAD_DONE_INTERVAL)
        self.bus += extra + 1
        self.loads.append(end)
        self.give(c["signal"], end)
        return self.checked[Opcode.LOAD][place] + 1, max(issue, start - latency), end

    def compute(self, index: int, granted: int, place: int) -> tuple[int, int, int]:
        c, config = self.commands[index], self.config
        self.take(c["wait"])
        start = max(granted + (DEVICE_SHIFT_LATENCY if c["device_shift"] else 0) + START_LATENCY, self.final + 1)
        self.free[Opcode.COMPUTE].append(start)
        fold = 1 << c["fold_log2"]
        width = config.cols // fold
        steps = [-(-c["k0"] // fold)]
        if c["chained"]:
            shift = c["shift"]
            extra = max(shift // 4 + shift % 4 - 1, 0)  # the last stage rides on the first product
            steps.append(-(-c["k1"] // fold) + extra)
        now = start
        tiles_n = -(-c["n_cols"] // width)
        last_cols = c["n_cols"] - (tiles_n - 1) * width
        tiles_m = -(-c["m_rows"] // config.rows)
        tile = sum(steps)
        # The first tile, with the wait for the second segment's operands.
        now += steps[0]
        if c["chained"]:
            if c["segment_wait"]:
                now = max(now, self.take(c["segment_wait"]) + GRANT_LATENCY) + SEGMENT_LATENCY
            now += steps[1]
        now = max(now, self.tile_end + self.spacing)
        full, narrow = max(tile, width, TILE_INTERVAL), max(tile, last_cols, TILE_INTERVAL)
        # A tile waits for the drain of the one before it: of every row of tiles the first one for a narrow one.
        count = tiles_m * tiles_n - 1
        after_narrow = tiles_m - 1
        now += (count - after_narrow) * full + after_narrow * narrow
        self.final = now - 1
        self.tile_end, self.spacing = now, max(last_cols, TILE_INTERVAL)
        self.result.busy += tiles_m * tiles_n * (tile - (0 if not c["chained"] else steps[1] - -(-c["k1"] // fold)))
        self.give(c["read_signal"], self.final + READ_DONE_LATENCY)
        end = self.final + PIPELINE_LATENCY + last_cols
        self.give(c["signal"], end)
        return self.taken[Opcode.COMPUTE][place] + DECODE_LATENCY, start, end

    def store(self, index: int, granted: int, place: int) -> tuple[int, int, int]:
        c, config = self.commands[index], self.config
        self.take(c["wait"])
        self.free[Opcode.STORE].append(max(granted + BURST_SPLIT_LATENCY, self.stores[0]))
        rows, row_bytes = c["rows"], c["row_bytes"]
        if c["packed"]:
            reads, words = rows, -(-rows * row_bytes // config.bus_bytes)
        elif c["transpose"] and config.rows < config.bus_bytes:
            reads = rows * -(-row_bytes // config.rows)
            words = rows * -(-row_bytes // config.bus_bytes)
        else:
            reads = words = rows * -(-row_bytes // config.bus_bytes)
        if c["source"] in (StoreSource.V0, StoreSource.V1):
            reads = rows * row_cycles(Fields(c), config)
        first = max(self.free[Opcode.STORE][-1] + FIRST_STORE_LATENCY - BURST_SPLIT_LATENCY, self.written + STORE_INTERVAL)
        self.written = first + reads
        self.result.write_words += words
        beats = words if c["packed"] else words // rows
        run, beats = (1, words) if c["packed"] else (rows, words // rows)
        taken, answered = self.memory.write(first, self.written, c["address"], run, beats, c["row_stride"])
        self.written = max(self.written, taken)
        self.answered = max(self.answered, answered)
        end = self.answered + RESPONSE_LATENCY
        self.stores.append(end)
        self.give(c["signal"], end)
        return self.checked[Opcode.STORE][place] + 1, first, end

    def vector(self, index: int, granted: int, place: int) -> tuple[int, int, int]:
        c = self.commands[index]
        self.take(c["wait"])
        cycles = vector_cycles(Fields(c), self.codes[index], self.config)
        self.result.vector += cycles
        start = granted + 1
        end = start + cycles + VECTOR_DONE_LATENCY
        self.free[Opcode.VECTOR].append(end)
        self.give(c["signal"], end)
        return self.taken[Opcode.VECTOR][place] + VECTOR_CHECK_LATENCY, start, end


def model(
    commands: CommandList, config: Config, memory: Memory | Sdr16 | None = None, programs: Mapping[int, bytes] | None = None
) -> Timeline:
    """The modelled run of a legal list, with a memory that moves a word per cycle unless one is given; ``programs``: the bytes of its
    VECTOR commands' instructions in DRAM, by address.

    Raises IndexError for a list that waits for a token that nothing before it gives, ValueError for instructions that are not known.
    """
    timeline = _Model(commands.commands, config, memory or Memory(), programs or {}).run()
    timeline.read_words += len(commands.commands) * (COMMAND_BYTES // config.bus_bytes)
    if commands.notes:
        timeline.activities = [replace(a, note=commands.notes[a.command]) for a in timeline.activities]
    return timeline
