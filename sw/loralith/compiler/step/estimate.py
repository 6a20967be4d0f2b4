"""Cycles of a compiled step, command by command: what each unit works for each kind of operator, and how long the list takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loralith.compiler.cycles import Memory, Sdr16, Timeline, model
from loralith.compiler.lists.command_list import CommandList, Fields
from loralith.compiler.step.compile import CompiledStep
from loralith.compiler.step.tiles import Work
from loralith.compiler.tokens.footprint import ProgramMemory
from loralith.compiler.vector_timing import command_cycles, vector_memory
from loralith.spec.commands import COMMAND_BYTES, FORMAT_BYTES, Opcode, OutMode, VectorFormat
from loralith.spec.config import Config

__all__ = ["Costs", "StepEstimate", "estimate", "modelled"]

UNITS = {Opcode.LOAD: "load", Opcode.STORE: "store", Opcode.COMPUTE: "array", Opcode.VECTOR: "vector"}
BETWEEN = {Opcode.LOAD: 7, Opcode.STORE: 6, Opcode.VECTOR: 6}
"""Cycles from a command of a unit to the next one: their tokens, a store's first word, a VECTOR's check."""


@dataclass
class Costs:
    """Of the commands of one kind: how many there are; elements that LOAD and STORE of the vector scratchpads and VECTOR visit; products;
    cycles in which each unit works for them."""

    commands: int = 0
    elements: int = 0
    macs: int = 0
    load: int = 0
    store: int = 0
    array: int = 0
    vector: int = 0


@dataclass
class StepEstimate:
    """What a step's commands cost, by the names of their kinds (`Work`)."""

    config: Config
    kinds: dict[str, Costs] = field(default_factory=dict)

    def of(self, unit: str) -> int:
        """A figure of all commands together."""
        return sum(getattr(costs, unit) for costs in self.kinds.values())

    @property
    def bound(self) -> int:
        """Cycles that no order of the commands goes below: those of the busiest unit; LOAD shares its bus with the list."""
        fetch = self.of("commands") * (COMMAND_BYTES // self.config.bus_bytes)
        return max(self.of("load") + fetch, self.of("store"), self.of("array"), self.of("vector"))

    def figures(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("commands", "elements", "macs", *UNITS.values())
        return {
            "config": self.config.name,
            "lanes": self.config.vector_lanes,
            **{name: self.of(name) for name in names},
            "cycles_at_least": self.bound,
            "cycles_one_by_one": sum(self.of(unit) for unit in UNITS.values()),
            "utilization_at_most": self.of("macs") / (self.bound * self.config.processing_elements) if self.bound else 0.0,
            "kinds": {name: vars(costs) for name, costs in self.kinds.items()},
        }


def estimate(step: CompiledStep) -> StepEstimate:
    """Work of each unit by kind of operator. What units do at the same time is not looked at: see ``bound`` and `modelled`."""
    result = StepEstimate(step.config, {work.value: Costs() for work in Work})
    program = ProgramMemory(step.static)
    for command, work in zip(step.commands.commands, step.works, strict=True):
        program.follow(command)
        costs, c = result.kinds[work.value], Fields(command)
        costs.commands += 1
        unit = UNITS[command.opcode]
        setattr(costs, unit, getattr(costs, unit) + _cycles(c, program, step.config) + BETWEEN.get(command.opcode, 0))
        costs.elements += _elements(c, step.config)
        if command.opcode is Opcode.COMPUTE and c["out_mode"] != OutMode.INT8:  # not those that only move bytes
            costs.macs += c["m_rows"] * c["n_cols"] * (c["k0"] + c["k1"])
    return result


def modelled(commands: CommandList, step: CompiledStep, memory: Memory | Sdr16 | None = None) -> Timeline:
    """The step's list with tokens, ``commands``, by the cycle model: units at the same time, as their tokens let them."""
    return model(commands, step.config, memory, step.static)


def _cycles(c: Fields, program: ProgramMemory, config: Config) -> int:
    codes = program.codes(c["first"], c["count"]) if c.opcode is Opcode.VECTOR else ()
    assert codes is not None
    return command_cycles(c, codes, config)


def _elements(c: Fields, config: Config) -> int:
    if c.opcode is Opcode.VECTOR:
        return c["outer"] * c["inner"] * config.vector_lanes
    if c.opcode is Opcode.COMPUTE or not vector_memory(c):
        return 0
    return c["rows"] * c["row_bytes"] // FORMAT_BYTES[VectorFormat(c["format"])]
