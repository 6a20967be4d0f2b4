"""What a run reports: status and counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from loralith.spec.status import Check, Code, Unit

__all__ = ["Counters", "RunResult", "Status"]


@dataclass(frozen=True)
class Status:
    """How a list ended: the STATUS, ERROR_COMMAND and ERROR_ADDRESS registers, decoded.

    `command` and `address` mean nothing while `code` is OK.
    """

    code: Code = Code.OK
    detail: Check = Check.NONE
    unit: Unit = Unit.NONE
    command: int = 0
    address: int = 0

    @classmethod
    def from_register(cls, status: int, command: int, address: int) -> Status:
        """From the raw registers. Raises ValueError for a code that the command set does not know."""
        return cls(Code(status >> 8 & 0xFF), Check(status >> 16 & 0xFF), Unit(status >> 24 & 0xFF), command, address)

    def __str__(self) -> str:
        if self.code is Code.OK:
            return "OK"
        detail = f" ({self.detail.name})" if self.detail else ""
        address = f", DRAM address {self.address:#x}" if self.address else ""
        if self.unit in (Unit.NONE, Unit.HOST):
            return self.code.name  # of the whole machine
        return f"{self.code.name}{detail} in unit {self.unit.name}, command {self.command}{address}"


class Counters(NamedTuple):
    """The machine's counters, in the order and with the meaning of `loralith.spec.registers.COUNTERS`."""

    cycles: int = 0
    busy: int = 0
    wait_load: int = 0
    wait_store: int = 0
    fill_drain: int = 0
    idle: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    read_bursts: int = 0
    write_bursts: int = 0
    macs: int = 0
    saturations: int = 0
    vector_busy: int = 0

    def plus(self, other: Counters) -> Counters:
        """Sums, counter by counter."""
        return Counters(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Counters) -> Counters:
        """Differences, counter by counter: what happened between two readings."""
        return Counters(*(a - b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class RunResult:
    """One list's end: its status, its own counters and the number of commands that completed."""

    status: Status
    counters: Counters
    commands_done: int
