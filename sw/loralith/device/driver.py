"""The machine seen through its registers: identity, doorbell, status, counters. Every backend with real registers drives it with this."""

from __future__ import annotations

from typing import Protocol

from loralith.device.errors import ConfigMismatch, DeviceError
from loralith.device.run_status import Counters, RunResult, Status
from loralith.spec.config import Config
from loralith.spec.registers import COUNTERS, ID, REGISTERS
from loralith.spec.version import VERSION

__all__ = ["RegisterPort", "Registers"]


class RegisterPort(Protocol):
    """The AXI4-Lite port. Both raise DeviceError for an answer other than OKAY, and for none at all."""

    def read_register(self, offset: int) -> int: ...

    def write_register(self, offset: int, value: int) -> None: ...


def mask_of(register: str, *names: str) -> int:
    """The named bits of a register as a mask."""
    bits = {b.name: ((1 << b.width) - 1) << b.lsb for b in REGISTERS[register].bits}
    return sum(bits[name] for name in names)


class Registers:
    """The register map by name. A 64-bit register is one value here."""

    def __init__(self, port: RegisterPort) -> None:
        self._port = port

    def get(self, name: str) -> int:
        register = REGISTERS[name]
        value = self._port.read_register(register.offset)
        if register.width == 64:
            value |= self._port.read_register(register.offset + 4) << 32
        return value

    def set(self, name: str, value: int) -> None:
        register = REGISTERS[name]
        self._port.write_register(register.offset, value & 0xFFFF_FFFF)
        if register.width == 64:
            self._port.write_register(register.offset + 4, value >> 32)

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
        self.set("WINDOW_BASE", window_base)
        self.set("WINDOW_LIMIT", window_limit)
        self.set("IRQ_ENABLE", mask_of("IRQ_ENABLE", "done", "error"))

    def start(self, address: int, length: int) -> None:
        """Ring the doorbell for `length` commands at `address`."""
        self.set("IRQ_STATUS", mask_of("IRQ_STATUS", "done", "error"))
        self.set("LIST_BASE", address)
        self.set("LIST_LENGTH", length)
        self.set("CONTROL", mask_of("CONTROL", "start"))

    def abort(self) -> None:
        """Stop the list; outstanding bus responses still come in, see `busy`."""
        self.set("CONTROL", mask_of("CONTROL", "abort"))

    def busy(self) -> bool:
        """A list runs or drains."""
        return bool(self.get("STATUS") & mask_of("STATUS", "busy"))

    def status(self) -> Status:
        """How the latest list ended, or OK while it runs. Raises DeviceError for a code that the driver does not know."""
        raw = self.get("STATUS")
        try:
            return Status.from_register(raw, self.get("ERROR_COMMAND"), self.get("ERROR_ADDRESS"))
        except ValueError as error:
            raise DeviceError(f"the STATUS register reads {raw:#010x}: {error}") from None

    def counters(self) -> Counters:
        return Counters(*(self.get(name.upper()) for name, _ in COUNTERS))

    def result(self) -> RunResult:
        """Status, counters and completed commands of a list that has ended; irq is taken back."""
        self.set("IRQ_STATUS", mask_of("IRQ_STATUS", "done", "error"))
        return RunResult(self.status(), self.counters(), self.get("COMMANDS_DONE"))
