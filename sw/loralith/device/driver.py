"""The machine seen through its registers: identity, doorbell, status, counters. Every backend with real registers drives it with this."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from loralith.device.device_errors import ConfigMismatch, DeviceError
from loralith.device.run_status import Counters, RunResult, Status
from loralith.spec.config import Config
from loralith.spec.registers import COUNTERS, ID, REGISTERS
from loralith.spec.version import VERSION

__all__ = ["RegisterPort", "Registers"]


class RegisterPort(Protocol):
    """The AXI4-Lite port. Both raise DeviceError for an answer other than OKAY, and for none at all."""

    def read_register(self, offset: int) -> int: ...

    def write_register(self, offset: int, value: int) -> None: ...


def _offsets(register: str) -> list[int]:
    """Of its 32-bit words, the low one first."""
    declared = REGISTERS[register]
    return [declared.offset + 4 * i for i in range(declared.width // 32)]


def mask_of(register: str, *names: str) -> int:
    """The named bits of a register as a mask."""
    bits = {b.name: ((1 << b.width) - 1) << b.lsb for b in REGISTERS[register].bits}
    return sum(bits[name] for name in names)


class Registers:
    """The register map by name. A 64-bit register is one value here."""

    def __init__(self, port: RegisterPort) -> None:
        self._port = port

    def read_words(self, offsets: Sequence[int]) -> list[int]:
        """32-bit words, read in this order."""
        return [self._port.read_register(offset) for offset in offsets]

    def write_words(self, values: Sequence[tuple[int, int]]) -> None:
        """Write 32-bit words by offset and value, in this order."""
        for offset, value in values:
            self._port.write_register(offset, value)

    def get(self, name: str) -> int:
        return self.get_all([name])[0]

    def get_all(self, names: Sequence[str]) -> list[int]:
        """Several registers, read in this order."""
        words = iter(self.read_words([offset for name in names for offset in _offsets(name)]))
        return [sum(next(words) << 32 * i for i in range(len(_offsets(name)))) for name in names]

    def set(self, name: str, value: int) -> None:
        self.set_all({name: value})

    def set_all(self, values: Mapping[str, int]) -> None:
        """Write several registers in this order."""
        self.write_words(
            [(offset, value >> 32 * i & 0xFFFF_FFFF) for name, value in values.items() for i, offset in enumerate(_offsets(name))]
        )

    def identify(self, config: Config) -> None:
        """Raise DeviceError where this is no loralith or one of another version, ConfigMismatch where its configuration is another."""
        found = self.get("ID")
        if found != ID:
            raise DeviceError(f"the ID register reads {found:#010x}, not {ID:#010x}: there is no loralith behind this port")
        version = self.get("VERSION")
        if version != VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2]:
            theirs = f"{version >> 16}.{version >> 8 & 0xFF}.{version & 0xFF}"
            raise DeviceError(f"the hardware has interface version {theirs}, the driver {'.'.join(map(str, VERSION))}: rebuild one of them")
        found = self.get("CONFIG_HASH")
        if found != config.hash:
            raise ConfigMismatch(config.hash, found, config.name)

    def open(self, config: Config, window_base: int, window_limit: int) -> None:
        """`identify`, then open the DRAM window and let the end of a list raise irq."""
        self.identify(config)
        enable = mask_of("IRQ_ENABLE", "done", "error")
        self.set_all({"WINDOW_BASE": window_base, "WINDOW_LIMIT": window_limit, "IRQ_ENABLE": enable})

    def start(self, address: int, length: int) -> None:
        """Ring the doorbell for `length` commands at `address`."""
        clear, start = mask_of("IRQ_STATUS", "done", "error"), mask_of("CONTROL", "start")
        self.set_all({"IRQ_STATUS": clear, "LIST_BASE": address, "LIST_LENGTH": length, "CONTROL": start})

    def abort(self) -> None:
        """Stop the list; outstanding bus responses still come in, see `busy`."""
        self.set("CONTROL", mask_of("CONTROL", "abort"))

    def drain(self, seconds: float, poll: float = 0.0) -> bool:
        """`abort`, and whether the bus comes to rest within ``seconds``; ``poll``: seconds between two reads of `busy`."""
        self.abort()
        deadline = time.monotonic() + seconds
        while self.busy():
            if time.monotonic() > deadline:
                return False
            time.sleep(poll)
        return True

    def busy(self) -> bool:
        """A list runs or drains."""
        return bool(self.get("STATUS") & mask_of("STATUS", "busy"))

    def status(self) -> Status:
        """How the latest list ended, or OK while it runs. Raises DeviceError for a code that the driver does not know."""
        raw, command, address = self.get_all(["STATUS", "ERROR_COMMAND", "ERROR_ADDRESS"])
        try:
            return Status.from_register(raw, command, address)
        except ValueError as error:
            raise DeviceError(f"the STATUS register reads {raw:#010x}: {error}") from None

    def counters(self) -> Counters:
        return Counters(*self.get_all([name.upper() for name, _ in COUNTERS]))

    def result(self) -> RunResult:
        """Status, counters and completed commands of a list that has ended; irq is taken back."""
        self.set("IRQ_STATUS", mask_of("IRQ_STATUS", "done", "error"))
        return RunResult(self.status(), self.counters(), self.get("COMMANDS_DONE"))
