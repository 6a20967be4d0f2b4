"""The order of a step's commands, and the places of its tiles on chip: a list scheduler that plays the units.

Tiles that do not wait for each other by way of DRAM may run side by side. The scheduler goes through time as the machine would: a tile is
*admitted* when there is room for it on chip, and each unit takes one of the commands of admitted tiles that wait for nothing: first those
of tiles that use the array, and of these, as of the others, the one with the longest way to the end of the step. Commands stand in the list
in the order in which they began. So whatever a command needs stands before it, and the list means the same on a machine of any speed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from heapq import heappop, heappush

from loralith.compiler.step.dependencies import PLACED, Codes, Flow, flow_of
from loralith.compiler.step.instructions import Program
from loralith.compiler.step.on_chip import OperandCache, ProgramCache, RowAllocator, ScalarCache
from loralith.compiler.step.relocation import placed, relocated
from loralith.compiler.step.tiles import Draft, Tile
from loralith.compiler.step.waiting_tiles import WaitingTiles
from loralith.compiler.tokens.footprint import memory_rows
from loralith.errors import LoralithError
from loralith.spec.commands import Command, LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, SCALARS

__all__ = ["scheduled"]

LEAST = {Opcode.LOAD: 34, Opcode.STORE: 34, Opcode.COMPUTE: 26, Opcode.VECTOR: 0}
"""Cycles from one command of a unit to the next one at least: its check."""
BETWEEN = {Opcode.LOAD: 16, Opcode.STORE: 6, Opcode.COMPUTE: 0, Opcode.VECTOR: 14}
"""Cycles of a unit beside its work; LOAD shares its bus with the list's commands."""
LATENCY = {Opcode.LOAD: 115, Opcode.STORE: 35, Opcode.COMPUTE: 20, Opcode.VECTOR: 4}
"""From the end of a command's work to what waits for it, with a memory that answers after 100 cycles."""
BACKLOG = 4
"""LOADs that may wait for their unit before another tile is admitted: what is admitted later may be more urgent."""
EARLY = 6
"""Tiles that may be admitted while they wait for others, so that what does not wait is loaded ahead."""
FIRST = 1 << 62
"""More urgent than all else."""
PASSED = 4
"""Tiles that need different things on chip that are tried where there is no room for the most urgent one."""
OPERANDS = ("left", "right")
"""Memories in which a tile finds what another one has loaded."""


class _Tile:
    """A tile that is admitted: ``bases`` of its memories; ``firsts``, instructions of its programs; ``left``, commands that have not
    ended, ``touching`` each memory."""

    def __init__(self, left: int, bases: dict[str, int], scalars: int, programs: list[Program]) -> None:
        self.left, self.bases, self.scalars, self.programs = left, bases, scalars, programs
        self.touching: dict[str, int] = {}
        self.firsts: dict[Program, int] = {}


class _Scheduler:
    def __init__(self, tiles: Sequence[Tile], flow: Flow, config: Config, program_at: Callable[[bytes], int]) -> None:
        self.tiles, self.flow, self.config, self.program_at = tiles, flow, config, program_at
        self.operands = {memory: OperandCache(memory_rows(memory, config)) for memory in OPERANDS}
        self.places = {memory: self.operands.get(memory) or RowAllocator(memory_rows(memory, config)) for memory in PLACED}
        self.scalars, self.programs, self.codes = ScalarCache(), ProgramCache(), Codes()
        self.own: list[range] = []  # numbers of each tile's commands
        first = 0
        for tile in tiles:
            self.own.append(range(first, first + len(tile.drafts)))
            first += len(tile.drafts)
        self.urgent = self._urgency()
        self.running: dict[int, _Tile] = {}
        self.ended = bytearray(first)
        self.gone = bytearray(first)  # LOADs of operands and scalars that are there
        self.relocated: dict[tuple[Program, int], Program] = {}
        self.events: list[tuple[int, int]] = []
        self.ready: dict[Opcode, list[tuple[int, int]]] = {op: [] for op in Opcode}
        self.free = dict.fromkeys(Opcode, 0)
        self.order: list[int] = []
        # Between tiles: how many of those that each waits for have not been admitted, and have not ended.
        self.behind: list[list[int]] = [[] for _ in tiles]
        self.unknown, self.unready = [0] * len(tiles), [0] * len(tiles)
        for number, others in enumerate(flow.after):
            tile = flow.tile[number]
            for other in {flow.tile[o] for o in others} - {tile}:
                self.behind[tile].append(other)
                self.unknown[other] += 1
                self.unready[other] += 1
        self.now = 0
        self.needs = [(tile.scalars, *sorted(extents.items())) for tile, extents in zip(tiles, flow.extents, strict=True)]
        self.whole = WaitingTiles(self.needs.__getitem__)  # tiles that wait for nothing
        self.known = WaitingTiles(self.needs.__getitem__)  # tiles of which all others are admitted
        self.early: set[int] = set()
        self.given, self.tried = 1, 0  # how often a tile may have found room since the last one that did not

    def _urgency(self) -> list[int]:
        """The longest way from each command's beginning to the end of the step; more than any of them for a tile of the array, which works
        for most of a step: a product that could run does not wait until all else that is long has been loaded."""
        flow = self.flow
        found = [0] * len(flow.tile)
        for number in range(len(found) - 1, -1, -1):
            after = max((found[other] for other in flow.after[number]), default=0)
            draft = flow.drafts[number]
            found[number] = after + flow.cycles[number] + LATENCY[draft.opcode]
            if draft.opcode is Opcode.LOAD and draft.fields.get("target") == LoadTarget.KEY:
                found[number] = FIRST  # all VECTORs may use it
        longest = max((urgent for urgent in found if urgent < FIRST), default=0)
        for own, extents in zip(self.own, flow.extents, strict=True):
            if "left" in extents:
                for number in own:
                    found[number] += longest
        return found

    def run(self) -> list[Command]:
        for tile in range(len(self.tiles)):
            if not self.unknown[tile]:
                self.whole.push(self._urgent(tile), tile)
        while True:
            self._admit()
            self._start()
            if not self.events:
                break
            self.now = self.events[0][0]
            while self.events and self.events[0][0] == self.now:
                _, number = heappop(self.events)
                if number >= 0:
                    self._end(number)
        if len(self.order) + sum(self.gone) != len(self.flow.tile):
            raise LoralithError(self._stuck())
        return [self._command(number) for number in self.order]

    def _stuck(self) -> str:
        """What to say of a tile that found no room when all others had ended."""
        tile = self.whole.any()
        names = dict.fromkeys(self.flow.drafts[number].note for number in self.own[tile])
        sizes = {memory: (size, self.places[memory].depth) for memory, size in self.flow.extents[tile].items()}
        sizes["scalars"] = self.tiles[tile].scalars, SCALARS
        programs = dict.fromkeys(self.flow.drafts[number].program or () for number in self.own[tile])
        sizes["program"] = sum(map(len, programs)), PROGRAM_INSTRUCTIONS
        needs = ", ".join(f"{size} words of {memory}, which has {depth}" for memory, (size, depth) in sizes.items() if size > depth)
        return f"{', '.join(names)}: a tile does not fit on chip of the configuration {self.config.name}: it takes {needs}"

    def _urgent(self, tile: int) -> int:
        return max(self.urgent[number] for number in self.own[tile])

    # Admission.

    def _admit(self) -> None:
        while self.tried < self.given and len(self.ready[Opcode.LOAD]) < BACKLOG:
            if self.whole.first(self._waits, self._place, PASSED) is not None:
                continue
            early = self.known.first(self._waits_for_others, self._place, PASSED) if len(self.early) < EARLY else None
            if early is None:
                self.tried = self.given
            else:
                self.early.add(early)

    def _waits(self, tile: int) -> bool:
        return tile not in self.running and bool(self.own[tile])

    def _waits_for_others(self, tile: int) -> bool:
        return self._waits(tile) and self.unready[tile] > 0

    def _place(self, tile: int) -> bool:
        """Whether a tile found its places; its commands may begin then."""
        flow, own = self.flow, self.own[tile]
        brought = self._brought(tile)
        shared = {memory: at for memory, (what, _) in brought.items() if (at := self.operands[memory].lookup(what)) is not None}
        if not all(memory in shared or self.places[memory].fits(size) for memory, size in flow.extents[tile].items()):
            return False
        scalars = self._scalars(tile)
        if scalars is None:
            return False
        programs = list(dict.fromkeys(self._program(flow.drafts[n].program, scalars) for n in own if flow.drafts[n].program is not None))
        missing = self.programs.acquire(programs, len(flow.tile))
        if missing is None:
            if self.tiles[tile].scalars:
                self.scalars.release(scalars, self.tiles[tile].scalars)
            return False
        bases = {memory: self.places[memory].allocate(size) for memory, size in flow.extents[tile].items() if memory not in shared}
        running = _Tile(len(own), bases, scalars, programs)
        for memory, (what, number) in brought.items():
            if memory not in shared:
                self.operands[memory].hold(what, bases[memory], flow.extents[tile][memory], number)
                continue
            self.operands[memory].share(what)
            bases[memory], load = shared[memory]
            self._leave_out(number, load, running)
        self.running[tile] = running
        for number in own:
            for memory in () if self.gone[number] else flow.memories[number]:
                running.touching[memory] = running.touching.get(memory, 0) + 1
        running.firsts = {program: self.programs.locate(program)[0] for program in programs}
        self._load_programs(tile, running, missing)
        self._load_scalars(tile, running)
        for number in own:
            if not flow.waits[number] and not self.gone[number]:
                heappush(self.ready[flow.drafts[number].opcode], (-self.urgent[number], number))
        for other in self.behind[tile]:
            self.unknown[other] -= 1
            if not self.unknown[other]:
                self.known.push(self._urgent(other), other)
        return True

    def _program(self, program: Program | None, scalars: int) -> Program:
        assert program is not None
        key = program, scalars
        if key not in self.relocated:
            self.relocated[key] = relocated(program, lambda number: number + scalars) if scalars else program
        return self.relocated[key]

    def _scalars(self, tile: int) -> int | None:
        count = self.tiles[tile].scalars
        if not count:
            return 0
        loads = [n for n in self.own[tile] if self.flow.drafts[n].scalar]
        words = {self._index(n): self._word(n) for n in loads}
        return self.scalars.acquire(count, words, len(words) < count)

    def _index(self, number: int) -> int:
        return self.flow.drafts[number].fields.get("base", 0)

    def _word(self, number: int) -> tuple[int, int]:
        return self.flow.drafts[number].fields.get("address", 0), max(self.flow.writers[number])

    def _load_programs(self, tile: int, running: _Tile, missing: Sequence[Program]) -> None:
        """LOADs of programs, which the tile's VECTORs wait for."""
        flow = self.flow
        vectors = [n for n in self.own[tile] if flow.drafts[n].program is not None]
        for program in missing:
            code = b"".join(program)
            place = {"address": self.program_at(code), "base": running.firsts[program]}
            fields = {"target": LoadTarget.PROGRAM, "rows": 1, "row_bytes": len(code), **place}
            by = flow.drafts[vectors[0]]
            draft = Draft(Opcode.LOAD, {name: int(value) for name, value in fields.items() if value}, by.note, by.work)
            number = flow.add(draft, tile, 1)
            self.urgent.append(self.urgent[vectors[0]])
            self.ended.append(0)
            self.gone.append(0)
            running.left += 1
            heappush(self.ready[Opcode.LOAD], (-self.urgent[number], number))
        for number in vectors:
            _, load = self.programs.locate(self._program(flow.drafts[number].program, running.scalars))
            if not self.ended[load]:
                flow.wait(number, [load])

    def _load_scalars(self, tile: int, running: _Tile) -> None:
        """Which of the tile's scalars are there already."""
        flow, base = self.flow, running.scalars
        loads = {self._index(n): n for n in self.own[tile] if flow.drafts[n].scalar}
        for index in range(self.tiles[tile].scalars):
            number = loads.get(index)
            if number is None:
                self.scalars.fill(base, index, None, -1)
                continue
            word = self._word(number)
            load = self.scalars.lookup(base, index, word)
            if load is None:
                self.scalars.fill(base, index, word, number)
                continue
            self._leave_out(number, load, running)

    def _leave_out(self, number: int, load: int, running: _Tile) -> None:
        """LOAD ``number`` of a tile is left out: ``load`` has brought the same."""
        flow = self.flow
        self.gone[number] = 1
        running.left -= 1
        if self.ended[load]:
            self._release(number)
        else:
            flow.after[load] += flow.after[number]
        flow.after[number] = []

    def _brought(self, tile: int) -> dict[str, tuple[Hashable, int]]:
        """What one LOAD alone brings to all of a tile's rows of an operand scratchpad: it by its place in DRAM, its shape and who had
        written it; the LOAD."""
        flow, found = self.flow, {}
        for memory in OPERANDS:
            if memory not in flow.extents[tile]:
                continue
            loads = [n for n in self.own[tile] if flow.drafts[n].opcode is Opcode.LOAD and memory in flow.memories[n]]
            if len(loads) == 1 and not any(flow.drafts[n].fields.get("to_left") for n in self.own[tile]):
                (number,) = loads
                fields = flow.drafts[number].fields
                found[memory] = (tuple(sorted(fields.items())), frozenset(flow.writers[number])), number
        return found

    # Time.

    def _start(self) -> None:
        """Units that are free take what waits for nothing."""
        flow = self.flow
        for opcode, ready in self.ready.items():
            if ready and self.free[opcode] <= self.now:
                _, number = heappop(ready)
                self.order.append(number)
                cycles = flow.cycles[number] + BETWEEN[opcode]
                self.free[opcode] = self.now + max(cycles, LEAST[opcode])
                heappush(self.events, (self.free[opcode], -1))
                heappush(self.events, (self.now + cycles + LATENCY[opcode], number))

    def _release(self, number: int) -> None:
        """What waited for a command waits for one less."""
        flow = self.flow
        for other in flow.after[number]:
            flow.waits[other] -= 1
            if not flow.waits[other] and flow.tile[other] in self.running and not self.gone[other]:
                heappush(self.ready[flow.drafts[other].opcode], (-self.urgent[other], other))

    def _end(self, number: int) -> None:
        flow = self.flow
        self.ended[number] = 1
        self._release(number)
        tile = flow.tile[number]
        running = self.running[tile]
        for memory in flow.memories[number]:
            running.touching[memory] -= 1
            if not running.touching[memory]:
                self.places[memory].free(running.bases[memory], flow.extents[tile][memory])
                self.given += 1
        running.left -= 1
        if not running.left:
            self.given += 1
            self.early.discard(tile)
            self.programs.release(running.programs)
            if self.tiles[tile].scalars:
                self.scalars.release(running.scalars, self.tiles[tile].scalars)
            for other in self.behind[tile]:
                self.unready[other] -= 1
                if not self.unready[other]:
                    self.early.discard(other)
                    if other not in self.running:
                        self.whole.push(self._urgent(other), other)

    def _command(self, number: int) -> Command:
        draft, running = self.flow.drafts[number], self.running[self.flow.tile[number]]
        if draft.program is None:
            return placed(draft, running.bases, running.scalars, self.config)
        program = self._program(draft.program, running.scalars)
        return placed(draft, running.bases, running.scalars, self.config, self.codes.of(program), running.firsts[program])


def scheduled(
    tiles: Sequence[Tile], config: Config, base: int, nbytes: int, program_at: Callable[[bytes], int]
) -> tuple[list[Command], list[Draft]]:
    """``tiles``, in an order in which they may run, as commands with places on chip in the order of a list, and what each was.

    DRAM from ``base`` on has ``nbytes``. ``program_at``: the address of instructions that the host writes once.
    Raises LoralithError, which names the nodes, the memory and its size, for a tile that does not fit on chip.
    """
    flow = flow_of(tiles, config, base, nbytes)
    scheduler = _Scheduler(tiles, flow, config, program_at)
    commands = scheduler.run()
    return commands, [flow.drafts[number] for number in scheduler.order]
