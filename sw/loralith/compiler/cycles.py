"""Cycle model: how long a command list takes, and which command does what when, in plain Python.

Each command is walked once, each unit's in list order and the units' among each other as they can start. A legal list allows that:
whatever a command waits for is given by one before it. Each unit is described by when it takes a command, how long the command holds it,
and when its tokens are out:

    fetch    descriptors in order over the read channel, before the loads' words, as far ahead as its buffer and the units' queues have room
    LOAD     check, tokens, one burst per cycle with a bound on those in flight, one bus word per cycle after the memory's latency
    COMPUTE  check, tokens, one step per cycle; a tile takes at least as long as the one before it drains
    STORE    check, tokens, one bus word per cycle, the memory's response

`docs/dataflow.md` has its error against the RTL's counters for every shape that was run.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from loralith.compiler.command_list import CommandList, Fields, bytes_in_dram
from loralith.spec.commands import COMMAND_BYTES, SEMAPHORES, Command, LoadTarget, Opcode, OutMode
from loralith.spec.config import Config

__all__ = ["Activity", "Memory", "Timeline", "model"]

# Latencies of the RTL in cycles, from one event to the next.
CHECK = 35  # a transfer's check
CHECK_BOTH = 66  # of a load into both scratchpads
GRANT = 3  # tokens taken, transfer handed on
FIRST_BURST = 7  # from there to the first address on the bus
LOADED = 8  # from the last word to the load's tokens
DECODE = 27  # a compute's check
DEVICE_SHIFT = 24  # a shift that the device sets, about: it depends on the maximum
START = 5  # from its tokens to its first step
READ_DONE = 4  # from its last step to its read tokens
PIPELINE = 21  # from a tile's last step to its first result
STORE_FIRST = 13  # from a store's tokens to its first word
ANSWERED = 6  # from the last response to the store's tokens
FETCHED = 16
REFILL = 4  # from a command taken to the first word of the one that waits for its queue, and from its last word on
FETCH_AHEAD = 8  # descriptors that the fetch asks for before the queues take them
LEAST_SPACING = 5
IN_FLIGHT = 8


@dataclass(frozen=True)
class Memory:
    """The DRAM that the model assumes: latencies in cycles; each channel moves one word per cycle."""

    read_latency: int = 100
    write_latency: int = 20


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
        cycles: from the doorbell to the last response. busy: steps of the array. activities: in list order.
        read_words, write_words: on the bus, descriptors included.
    """

    cycles: int = 0
    busy: int = 0
    read_words: int = 0
    write_words: int = 0
    activities: list[Activity] = field(default_factory=list)


class _Model:
    def __init__(self, commands: tuple[Command, ...], config: Config, memory: Memory) -> None:
        self.config, self.memory = config, memory
        self.commands = commands
        self.tokens: list[deque[int]] = [deque() for _ in range(SEMAPHORES)]
        self.result = Timeline()
        self.descriptor = COMMAND_BYTES // config.bus_bytes
        # Of each unit, when its commands left its queue, which has room for two more: one whole in a register, and one that comes word by
        # word. When each command was there; when the fetch asks for each.
        self.taken: dict[Opcode, list[int]] = {op: [0] * (config.queue_depth + 2) for op in Opcode}
        self.dispatched: list[int] = []
        self.sent = dict.fromkeys(Opcode, 0)
        self.asked = deque([FETCHED] * min(FETCH_AHEAD, len(commands)))
        # Read channel and load unit.
        self.bus = 0
        self.in_flight: deque[int] = deque([0] * config.outstanding_reads, config.outstanding_reads)
        self.address = 0
        self.load_moved = self.load_issued = 0
        self.checked_ahead = False  # the next load has been checked already
        self.loads: deque[int] = deque([0] * IN_FLIGHT, IN_FLIGHT)
        # Compute unit.
        self.accepted = self.final = 0
        self.tile_end, self.spacing = 0, 0
        self.drained = 0
        # Store unit.
        self.store_moved = self.store_issued = self.written = self.answered = 0
        self.stores: deque[int] = deque([0] * IN_FLIGHT, IN_FLIGHT)

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

    def fetch(self) -> None:
        """Follows the fetch as far as is known: to the first command whose queue has room only after one that is not modelled yet."""
        while (index := len(self.dispatched)) < len(self.commands):
            opcode = self.commands[index].opcode
            taken, place = self.taken[opcode], self.sent[opcode]
            if place >= len(taken):
                break
            before = self.dispatched[-1] if index else FETCHED + self.memory.read_latency
            when = max(before + self.descriptor, taken[place] + REFILL + self.descriptor)
            self.dispatched.append(when)
            self.sent[opcode] += 1
            if index + FETCH_AHEAD < len(self.commands):
                self.asked.append(when + FIRST_BURST)

    def check_load(self, c: Command, at: int) -> None:
        begun = max(at, self.load_moved)
        self.taken[Opcode.LOAD].append(begun + 1)
        self.load_moved = max(begun + (CHECK_BOTH if c["target"] == LoadTarget.BOTH else CHECK), self.load_issued)

    def look_ahead(self, index: int) -> None:
        """The next load leaves its queue while this one's words come, and the fetch goes on: its descriptors come among those words."""
        self.fetch()
        following = next((i for i in range(index + 1, len(self.dispatched)) if self.commands[i].opcode == Opcode.LOAD), None)
        if following is not None:
            self.check_load(self.commands[following], self.dispatched[following])
            self.checked_ahead = True
            self.fetch()

    def soonest(self, waiting: dict[Opcode, deque[int]]) -> Opcode:
        """The unit whose next command can start first, of those whose tokens are known."""
        best, when = None, 0
        for opcode, free in ((Opcode.LOAD, self.load_moved), (Opcode.COMPUTE, self.final), (Opcode.STORE, self.store_moved)):
            if waiting[opcode] and (index := waiting[opcode][0]) < len(self.dispatched):
                command = self.commands[index]
                tokens = self.ready(command["wait"] | (command["segment_wait"] if opcode == Opcode.COMPUTE else 0))
                if tokens is not None:
                    start = max(tokens, free, self.dispatched[index])
                    if best is None or start < when:
                        best, when = opcode, start
        if best is None:
            raise IndexError("the list waits for a token that nothing before it gives")
        return best

    # Units. Each takes a command's place in the list and returns (ready but for tokens, start, end).

    def load(self, index: int) -> tuple[int, int, int]:
        c, at, config = self.commands[index], self.dispatched[index], self.config
        if self.checked_ahead:
            self.checked_ahead = False
        else:
            self.check_load(c, at)
        moved = self.load_moved
        tokens = self.take(c["wait"])
        granted = max(moved, tokens) + GRANT
        issue = max(granted, self.loads[0])
        words = -(-bytes_in_dram(Fields(c)) // config.bus_bytes)
        rows = c["rows"]
        # A word of a packed load is written in two, and a beat that spans several blocks of lanes once for each.
        lanes = config.cols if c["target"] == LoadTarget.RIGHT else config.rows
        split = not c["transpose"] and c["target"] != LoadTarget.SCALE and lanes < config.bus_bytes
        row_writes = -(-c["row_bytes"] // (lanes if split else config.bus_bytes))
        start = 0
        # The check's place is free for the next load once the splitter has this one: after the last row of the one before.
        self.load_issued = max(issue, self.address - FIRST_BURST)
        self.look_ahead(index)
        address = max(issue + FIRST_BURST, self.address)
        longest = min(config.max_burst, 4096 // config.bus_bytes)
        last, asked, in_flight, latency = self.bus, self.asked, self.in_flight, self.memory.read_latency
        for row in range(rows):
            left, place = words, (c["address"] + row * c["row_stride"]) % 4096 // config.bus_bytes
            while left:
                burst = min(left, longest, 4096 // config.bus_bytes - place)
                address = max(address + 1, in_flight[0] + 1)
                # The fetch goes first, and the memory answers in the order in which it was asked.
                while asked and asked[0] <= address:
                    last = max(last, max(asked.popleft(), in_flight[0] + 1) + latency) + self.descriptor
                    in_flight.append(last)
                    address = max(address, in_flight[0] + 1)
                first = max(address + latency, last)
                last = first + row_writes * burst // words
                in_flight.append(last)
                start = start or first
                left, place = left - burst, 0
        self.address = address
        self.result.read_words += rows * words
        extra = c["pad_rows"] * row_writes
        self.bus = last + extra + 1
        end = self.bus + LOADED
        self.loads.append(end)
        self.give(c["signal"], end)
        return moved, max(issue, start - self.memory.read_latency), end

    def compute(self, index: int) -> tuple[int, int, int]:
        c, at, config = self.commands[index], self.dispatched[index], self.config
        decoded = max(at, self.accepted) + DECODE
        self.taken[Opcode.COMPUTE].append(max(at, self.accepted) + 1)
        ready = max(decoded, self.take(c["wait"])) + (DEVICE_SHIFT if c["device_shift"] else 0)
        start = max(ready + START, self.final + 1)
        self.accepted = start - 1
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
                now = max(now, self.take(c["segment_wait"]) + 3)
            now += steps[1]
        now = max(now, self.tile_end + self.spacing)
        full, narrow = max(tile, width, LEAST_SPACING), max(tile, last_cols, LEAST_SPACING)
        # A tile waits for the drain of the one before it: of every row of tiles the first one for a narrow one.
        count = tiles_m * tiles_n - 1
        after_narrow = tiles_m - 1
        now += (count - after_narrow) * full + after_narrow * narrow
        self.final = now - 1
        self.tile_end, self.spacing = now, max(last_cols, LEAST_SPACING)
        self.result.busy += tiles_m * tiles_n * (tile - (0 if not c["chained"] else steps[1] - -(-c["k1"] // fold)))
        self.give(c["read_signal"], self.final + READ_DONE)
        end = self.final + PIPELINE + last_cols + (2 if c["out_mode"] == OutMode.INT32 else 0)
        self.drained = end
        self.give(c["signal"], end)
        return decoded, start, end

    def store(self, index: int) -> tuple[int, int, int]:
        c, at, config = self.commands[index], self.dispatched[index], self.config
        begun = max(at, self.store_moved)
        self.taken[Opcode.STORE].append(begun + 1)
        self.store_moved = max(begun + CHECK, self.store_issued)
        granted = max(self.store_moved, self.take(c["wait"])) + GRANT
        issue = max(granted, self.stores[0])
        self.store_issued = issue
        rows, row_bytes = c["rows"], c["row_bytes"]
        if c["packed"]:
            reads, words = rows, -(-rows * row_bytes // config.bus_bytes)
        elif c["transpose"] and config.rows < config.bus_bytes:
            reads = rows * -(-row_bytes // config.rows)
            words = rows * -(-row_bytes // config.bus_bytes)
        else:
            reads = words = rows * -(-row_bytes // config.bus_bytes)
        first = max(issue + STORE_FIRST, self.written)
        self.written = first + reads + 5
        self.result.write_words += words
        self.answered = max(self.answered, self.written + self.memory.write_latency)
        end = self.answered + ANSWERED
        self.stores.append(end)
        self.give(c["signal"], end)
        return self.store_moved, first, end


def model(commands: CommandList, config: Config, memory: Memory | None = None) -> Timeline:
    """The modelled run of a legal list. Raises IndexError for a list that waits for a token that nothing before it gives."""
    machine = _Model(commands.commands, config, memory or Memory())
    machine.result.read_words = len(commands.commands) * machine.descriptor
    run = {Opcode.LOAD: machine.load, Opcode.COMPUTE: machine.compute, Opcode.STORE: machine.store}
    waiting = {op: deque(i for i, c in enumerate(commands.commands) if c.opcode == op) for op in run}
    activities: list[Activity | None] = [None] * len(commands.commands)
    for _ in activities:
        machine.fetch()
        opcode = machine.soonest(waiting)
        index = waiting[opcode].popleft()
        note = commands.notes[index] if commands.notes else ""
        activities[index] = Activity(index, opcode, *run[opcode](index), note)
    machine.result.activities = [a for a in activities if a]
    machine.result.cycles = max((a.end for a in machine.result.activities), default=0)
    return machine.result
