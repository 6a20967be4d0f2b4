"""Cycle model: how long a command list takes, and which command does what when, in plain Python.

The list is walked once, in list order, which a legal list allows: whatever a command waits for is given by one before it. Each unit of the
machine is described by when it takes a command, how long the command holds it, and when its tokens are out:

    fetch    descriptors in order over the read channel, as long as the queue of their unit has room
    LOAD     check, tokens, one burst per cycle with a bound on those in flight, one bus word per cycle after the memory's latency
    COMPUTE  check, tokens, one step per cycle; a tile takes at least as long as the one before it drains
    STORE    check, tokens, one bus word per cycle, the memory's response

`docs/dataflow.md` has its error against the RTL's counters for every shape that was run.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from loralith.compiler.command_list import CommandList
from loralith.spec.commands import COMMAND_BYTES, SEMAPHORES, Command, LoadTarget, Opcode, OutMode
from loralith.spec.config import Config

__all__ = ["Activity", "Memory", "Timeline", "model"]

# Latencies of the RTL in cycles, from one event to the next.
CHECK = 35  # a transfer's check
CHECK_BOTH = 66  # of a load into both scratchpads
GRANT = 3  # tokens taken, transfer handed on
FIRST_BURST = 6  # from there to the first address on the bus
LOADED = 6  # from the last word to the load's tokens
DECODE = 27  # a compute's check
START = 5  # from its tokens to its first step
READ_DONE = 4  # from its last step to its read tokens
PIPELINE = 16  # from a tile's last step to its first result
STORE_FIRST = 10  # from a store's tokens to its first word
ANSWERED = 5  # from the last response to the store's tokens
FETCHED = 7
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
    def __init__(self, config: Config, memory: Memory) -> None:
        self.config, self.memory = config, memory
        self.tokens: list[deque[int]] = [deque() for _ in range(SEMAPHORES)]
        self.result = Timeline()
        self.descriptor = COMMAND_BYTES // config.bus_bytes
        self.dispatched = 0
        self.taken: dict[Opcode, deque[int]] = {op: deque([0] * config.queue_depth, config.queue_depth) for op in Opcode}
        # Read channel and load unit.
        self.bus = 0
        self.in_flight: deque[int] = deque([0] * config.outstanding_reads, config.outstanding_reads)
        self.address = 0
        self.load_moved = self.load_issued = self.load_end = 0
        self.loads: deque[int] = deque([0] * IN_FLIGHT, IN_FLIGHT)
        # Compute unit.
        self.accepted = self.final = 0
        self.tile_end, self.spacing = 0, 0
        self.drained = 0
        # Store unit.
        self.store_moved = self.store_issued = self.written = self.answered = 0
        self.stores: deque[int] = deque([0] * IN_FLIGHT, IN_FLIGHT)

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

    def dispatch(self, opcode: Opcode) -> int:
        """When the next descriptor is in its unit's queue."""
        room = self.taken[opcode][0]
        self.bus += self.descriptor
        self.result.read_words += self.descriptor
        self.dispatched = max(self.dispatched + self.descriptor + 1, room + 1)
        return self.dispatched

    # Units. Each returns (ready but for tokens, start, end).

    def load(self, c: Command, at: int) -> tuple[int, int, int]:
        config = self.config
        checked = max(at, self.load_moved) + (CHECK_BOTH if c["target"] == LoadTarget.BOTH else CHECK)
        self.load_moved = max(checked, self.load_issued)
        self.taken[Opcode.LOAD].append(self.load_moved)
        tokens = self.take(c["wait"])
        granted = max(self.load_moved, tokens) + GRANT
        issue = max(granted, self.loads[0])
        words = -(-c["row_bytes"] // config.bus_bytes)
        rows = c["rows"]
        # A beat that spans several blocks of lanes is written once for each.
        lanes = config.cols if c["target"] == LoadTarget.RIGHT else config.rows
        split = not c["transpose"] and c["target"] != LoadTarget.SCALE and lanes < config.bus_bytes
        row_writes = -(-c["row_bytes"] // lanes) if split else words
        start = 0
        # The check's place is free for the next load once the splitter has this one: after the last row of the one before.
        self.load_issued = max(issue, self.address - FIRST_BURST)
        address = max(issue + FIRST_BURST, self.address)
        longest = min(config.max_burst, 4096 // config.bus_bytes)
        last = self.bus
        for row in range(rows):
            left, place = words, (c["address"] + row * c["row_stride"]) % 4096 // config.bus_bytes
            while left:
                burst = min(left, longest, 4096 // config.bus_bytes - place)
                address = max(address + 1, self.in_flight[0] + 1)
                first = max(address + self.memory.read_latency, last)
                last = first + (row_writes * burst // words if split else burst)
                self.in_flight.append(last)
                start = start or first
                left, place = left - burst, 0
        self.address = address
        self.result.read_words += rows * words
        extra = c["pad_rows"] * row_writes
        self.bus = last + extra + 1
        end = self.bus + LOADED
        self.loads.append(end)
        self.give(c["signal"], end)
        return max(self.load_moved, at), max(issue, start - self.memory.read_latency), end

    def compute(self, c: Command, at: int) -> tuple[int, int, int]:
        config = self.config
        decoded = max(at, self.accepted) + DECODE
        self.taken[Opcode.COMPUTE].append(max(at, self.accepted) + 1)
        start = max(max(decoded, self.take(c["wait"])) + START, self.final + 1)
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

    def store(self, c: Command, at: int) -> tuple[int, int, int]:
        config = self.config
        checked = max(at, self.store_moved) + CHECK
        self.store_moved = max(checked, self.store_issued)
        self.taken[Opcode.STORE].append(self.store_moved)
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
        self.written = first + reads + 4
        self.result.write_words += words
        self.answered = max(self.answered, self.written + self.memory.write_latency)
        end = self.answered + ANSWERED
        self.stores.append(end)
        self.give(c["signal"], end)
        return self.store_moved, first, end


def model(commands: CommandList, config: Config, memory: Memory | None = None) -> Timeline:
    """The modelled run of a legal list. Raises IndexError for a list that waits for a token that nothing before it gives."""
    machine = _Model(config, memory or Memory())
    machine.dispatched = FETCHED + machine.memory.read_latency
    end = 0
    for index, command in enumerate(commands.commands):
        at = machine.dispatch(command.opcode)
        unit = {Opcode.LOAD: machine.load, Opcode.COMPUTE: machine.compute, Opcode.STORE: machine.store}[command.opcode]
        ready, start, done = unit(command, at)
        note = commands.notes[index] if commands.notes else ""
        machine.result.activities.append(Activity(index, command.opcode, ready, start, done, note))
        end = max(end, done)
    machine.result.cycles = end
    return machine.result
