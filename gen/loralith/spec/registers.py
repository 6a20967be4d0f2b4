"""The register map of the AXI4-Lite port: 32-bit registers; 64-bit values take two, low word first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["ADDRESS_BITS", "COUNTERS", "ID", "REGISTERS", "WATCHDOG_RESET", "Access", "Bits", "Register", "address_of"]

ID = 0x4C4F5241
"""'LORA' in ASCII."""
ADDRESS_BITS = 9
WATCHDOG_RESET = 1 << 20


class Access(Enum):
    RO = "read-only"
    RW = "read-write"
    WO = "write-only"
    W1C = "write one to clear"


@dataclass(frozen=True)
class Bits:
    """A named part of a register."""

    name: str
    lsb: int
    width: int
    doc: str


@dataclass(frozen=True)
class Register:
    """``width`` is 32 or 64 bits; a 64-bit register lies at ``offset`` (low) and ``offset`` + 4 (high).

    ``locked``: a list depends on it, and a write while one runs or drains is refused with SLVERR.
    """

    name: str
    offset: int
    access: Access
    doc: str
    width: int = 32
    reset: int = 0
    bits: tuple[Bits, ...] = ()
    locked: bool = False


COUNTERS: tuple[tuple[str, str], ...] = (
    ("cycles", "cycles from the doorbell to the last response of the list"),
    ("busy", "cycles in which the array takes a step"),
    ("wait_load", "cycles without a step while a load or a command fetch is in progress"),
    ("wait_store", "cycles without a step or load while a store is in progress"),
    ("fill_drain", "cycles in which only the array's pipeline, the post-processing unit or the vector unit works"),
    ("idle", "cycles of none of these; the five causes sum to cycles"),
    ("bytes_read", "bytes of all read beats"),
    ("bytes_written", "bytes of all write beats, strobed or not"),
    ("read_bursts", "read bursts issued, command fetch included"),
    ("write_bursts", "write bursts issued"),
    ("macs", "useful multiply-accumulates: M x N x K of every product, padding left out"),
    ("saturations", "INT8 results that were clipped"),
    ("vector_busy", "cycles in which the vector unit runs a command, whatever else goes on; 0 without vector lanes"),
)
"""(name, meaning) in register order. 64 bit, cleared by the doorbell, frozen when the list ends."""

_COUNTER_BASE = 0x80

REGISTERS: dict[str, Register] = {
    r.name: r
    for r in (
        Register("ID", 0x00, Access.RO, "'LORA' in ASCII", reset=ID),
        Register("VERSION", 0x04, Access.RO, "major, minor and patch in bits 31..16, 15..8 and 7..0"),
        Register("CONFIG_HASH", 0x08, Access.RO, "hash of the configuration; the driver compares it with its own"),
        Register(
            "CONTROL",
            0x10,
            Access.WO,
            "commands to the machine; a doorbell is refused with SLVERR while a list runs or drains, an abort beside it counts",
            bits=(
                Bits("start", 0, 1, "doorbell: run the list at LIST_BASE"),
                Bits("abort", 1, 1, "stop the list, take in all outstanding responses"),
            ),
        ),
        Register(
            "STATUS",
            0x14,
            Access.RO,
            "state of the machine; all but busy and draining are sticky until the next doorbell",
            bits=(
                Bits("busy", 0, 1, "a list runs or drains"),
                Bits("done", 1, 1, "the list ended without a fault"),
                Bits("error", 2, 1, "the list was stopped"),
                Bits("draining", 3, 1, "stopped; outstanding bus responses are still coming in"),
                Bits("code", 8, 8, "why it stopped (loralith.spec.status.Code)"),
                Bits("detail", 16, 8, "which check failed (loralith.spec.status.Check)"),
                Bits("unit", 24, 8, "which unit stopped it (loralith.spec.status.Unit)"),
            ),
        ),
        Register(
            "IRQ_ENABLE",
            0x18,
            Access.RW,
            "which events drive irq",
            bits=(Bits("done", 0, 1, "the list ended"), Bits("error", 1, 1, "the list was stopped and has drained")),
        ),
        Register(
            "IRQ_STATUS",
            0x1C,
            Access.W1C,
            "pending events; irq is high while an enabled one is pending",
            bits=(Bits("done", 0, 1, "the list ended"), Bits("error", 1, 1, "the list was stopped and has drained")),
        ),
        Register("LIST_BASE", 0x20, Access.RW, "DRAM address of the command list, a multiple of bus_bytes", width=64, locked=True),
        Register("LIST_LENGTH", 0x28, Access.RW, "commands in the list, at least 1", locked=True),
        Register(
            "WATCHDOG", 0x2C, Access.RW, "cycles without any progress that stop a list, at least 1", reset=WATCHDOG_RESET, locked=True
        ),
        Register("WINDOW_BASE", 0x30, Access.RW, "first DRAM byte that may be accessed", width=64, locked=True),
        Register("WINDOW_LIMIT", 0x38, Access.RW, "first DRAM byte past the window", width=64, locked=True),
        Register("ERROR_COMMAND", 0x40, Access.RO, "index in the list of the command that stopped it"),
        Register("COMMANDS_DONE", 0x44, Access.RO, "commands completed"),
        Register("ERROR_ADDRESS", 0x48, Access.RO, "DRAM address of the fault, 0 if it has none", width=64),
        *(Register(name.upper(), _COUNTER_BASE + 8 * i, Access.RO, doc, width=64) for i, (name, doc) in enumerate(COUNTERS)),
    )
}


def address_of(name: str) -> int:
    """Byte offset of a register. Raises KeyError for an unknown name."""
    return REGISTERS[name].offset
