"""The first hour with a board: link, clock, memory, identity, a self-test list and a training step, in this order, each failure decoded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loralith.board.memory_test import MemoryFailure, address_lines, byte_masks, data_lines, march
from loralith.board.raw_link import RawLink
from loralith.compiler.schedules.example import example
from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.device.device import Device
from loralith.device.device_errors import ConfigMismatch, DeviceFault, DeviceTimeout
from loralith.device.driver import Registers
from loralith.device.link.link_errors import LinkError
from loralith.device.link.port import BAUD
from loralith.device.reference import ReferenceDevice
from loralith.device.serial import SerialDevice
from loralith.errors import LoralithError
from loralith.spec.config import PRESETS, Config
from loralith.spec.link import ACCELERATOR_BASE, MAX_PAYLOAD, SOC_BASE
from loralith.spec.soc import SOC_ID, SOC_REGISTERS

__all__ = ["CHECKS", "BringUp", "Outcome", "SettingsError", "is_simulated"]

CHECKS = ("link", "clock", "memory", "identity", "self-test", "training step")
CLOCK_SECONDS = 0.5
CLOCK_TOLERANCE = 0.02
"""Of oscillators and PLL together far more than they are off."""
SIMULATED_MARCH = 16384
STEP = Linear("bring-up", 12, 16, 8, 2)
LIST_SECONDS = 60.0
OFFSETS = {register.name: SOC_BASE + register.offset for register in SOC_REGISTERS}


class SettingsError(LoralithError):
    """What `BringUp` was told cannot be."""


class Failed(LoralithError):
    """A check that did not pass, and what to do."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True)
class Outcome:
    """Of one of `CHECKS`: ``ok`` None where an earlier one failed and this one was not made. detail: what was seen; failure, advice: empty
    where it passed."""

    name: str
    ok: bool | None
    detail: str = ""
    failure: str = ""
    advice: str = ""
    seconds: float = 0.0


def is_simulated(path: str) -> bool:
    """Whether the port is a pseudo terminal: what is behind it does not run in the host's time."""
    return os.path.realpath(path).startswith("/dev/pts/")


class BringUp:
    """Checks a board on a serial port.

    Parameters: config, that of the bitstream; path, the port; baud; patience, see `SerialDevice`; march_bytes, how much of memory the march
    covers: None for all, or for a little of a simulated board's, which takes a second for 100 KB.

    Raises SettingsError for march_bytes that is no positive multiple of 4.
    """

    def __init__(self, config: Config, path: str, *, baud: int = BAUD, patience: float = 5.0, march_bytes: int | None = None) -> None:
        if march_bytes is not None and (march_bytes < 4 or march_bytes % 4):
            raise SettingsError(f"march bytes must be a multiple of 4 above 0, not {march_bytes}")
        self._config, self._path, self._baud, self._patience, self._march = config, path, baud, patience, march_bytes
        self._raw: RawLink | None = None
        self._identity: dict[str, int] = {}

    def run(self, on_outcome: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
        """All checks up to the first that fails; ``on_outcome`` gets each as it ends."""
        work = (self._link, self._clock, self._memory, self._check_identity, self._self_test, self._training_step)
        outcomes: list[Outcome] = []
        failed = False
        try:
            for name, check in zip(CHECKS, work, strict=True):
                outcomes.append(Outcome(name, None) if failed else self._one(name, check))
                failed = failed or not outcomes[-1].ok
                on_outcome(outcomes[-1])
        finally:
            self._release()
        return outcomes

    def _one(self, name: str, check: Callable[[], str]) -> Outcome:
        began = time.monotonic()
        try:
            return Outcome(name, True, check(), seconds=time.monotonic() - began)
        except LoralithError as error:
            advice = error.advice if isinstance(error, (Failed, MemoryFailure)) else _advice(name, error)
            return Outcome(name, False, failure=str(error), advice=advice, seconds=time.monotonic() - began)

    def _release(self) -> None:
        if self._raw:
            self._raw.close()
            self._raw = None

    @property
    def raw(self) -> RawLink:
        assert self._raw is not None
        return self._raw

    # The checks. Each returns what it has seen, and raises LoralithError.

    def _link(self) -> str:
        self._raw = RawLink(self._path, self._baud, self._patience)
        self._identity = self.raw.begin()
        ramp = bytes(i & 0xFF for i in range(MAX_PAYLOAD))
        payloads = (ramp, bytes(MAX_PAYLOAD), b"\xff" * MAX_PAYLOAD, b"\x55\xaa" * (MAX_PAYLOAD // 2))
        for payload in payloads:
            if self.raw.echo(payload) != payload:
                raise Failed(
                    "an echo that the CRC found good is not what was sent", "the link's memory in the FPGA fails: build it again, slower"
                )
        link = self.raw.link
        return (
            f"protocol {self._identity['protocol']}, {len(payloads)} echoes of {MAX_PAYLOAD} bytes,"
            f" {link.resent} sent again, {link.reader.damaged} answers damaged"
        )

    def _clock(self) -> str:
        stated_hz = self._identity["clock_hz"]

        def sample() -> tuple[float, float, int]:
            before = time.monotonic()
            cycles = self.raw.read_register(OFFSETS["CYCLES"])
            return before, time.monotonic(), cycles

        first = sample()
        time.sleep(CLOCK_SECONDS)
        last = sample()
        passed = (last[2] - first[2]) & 0xFFFF_FFFF
        if passed == 0:
            raise Failed("the cycle counter stands still", "the PLL or the reset does not work: load the bitstream again")
        if is_simulated(self._path):
            return f"{stated_hz / 1e6:g} MHz by its identity; the counter runs, a simulated board not in the host's time"
        longest, shortest = last[1] - first[0], last[0] - first[1]
        slowest, fastest = passed / longest, passed / shortest
        if fastest < stated_hz * (1 - CLOCK_TOLERANCE) or slowest > stated_hz * (1 + CLOCK_TOLERANCE):
            raise Failed(
                f"the clock runs at {slowest / 1e6:.1f} to {fastest / 1e6:.1f} MHz, and its identity says {stated_hz / 1e6:g}",
                "the bitstream is for another oscillator than this board's 25 MHz: build it for this board",
            )
        return f"{stated_hz / 1e6:g} MHz by its identity, {(slowest + fastest) / 2e6:.1f} measured"

    def _memory(self) -> str:
        base, nbytes = self._identity["memory_base"], self._identity["memory_bytes"]
        if nbytes < 4096 or nbytes & (nbytes - 1):
            raise Failed(f"its identity says {nbytes:,} bytes of memory, no power of two", "the bitstream is no loralith's: build it again")
        deadline = time.monotonic() + self._patience
        while not self.raw.read_register(OFFSETS["STATUS"]) & 1:
            if time.monotonic() > deadline:
                raise Failed("the memory controller has not started the chip", "the reset does not end: load the bitstream again")
        covered = SIMULATED_MARCH if is_simulated(self._path) else nbytes
        covered = min(nbytes, self._march or covered)
        seen = [data_lines(self.raw, base), byte_masks(self.raw, base), address_lines(self.raw, base, nbytes)]
        return ", ".join([*seen, march(self.raw, base, covered)])

    def _check_identity(self) -> str:
        found = self.raw.read_register(OFFSETS["ID"])
        if found != SOC_ID:
            raise Failed(
                f"the system's ID register reads {found:#010x}, not {SOC_ID:#010x}",
                "the bitstream has no system of loralith around the link: build it with `loralith synth --part soc`",
            )
        if self._identity["config_hash"] != self._config.hash:
            raise ConfigMismatch(self._config.hash, self._identity["config_hash"], self._config.name)
        registers = Registers(_Accelerator(self.raw))
        registers.identify(self._config)
        return f"{self._config.name}, hash {self._config.hash:#010x}, {self._identity['memory_bytes'] >> 20} MB of memory"

    def _open(self) -> SerialDevice:
        self._release()
        return SerialDevice(self._config, self._path, baud=self._baud, patience=self._patience)

    def _self_test(self) -> str:
        with self._open() as device:
            test = example(self._config, device.memory_base + 8192)
            reference = _on_reference(device, {test.address: test.image}, test.commands.pack(), [test.results])[0]
            device.write(test.address, test.image)
            device.write(test.results[0], bytes(test.results[1]))
            device.run(test.commands, LIST_SECONDS)
            _compare("the self-test list", test.results[0], device.read(*test.results), reference)
            return f"{len(test.commands.commands)} commands, {device.last_counters.cycles:,} cycles, {test.results[1]:,} bytes bit-exact"

    def _training_step(self) -> str:
        with self._open() as device:
            tensors, _ = place(STEP, device.memory_base + 8192, self._config)
            commands = compile_step([(STEP, tensors)], self._config).pack()
            rng = np.random.default_rng(7)
            images = {
                layout.address: rng.integers(0, 256, layout.nbytes, dtype=np.uint8)
                for layout in (getattr(tensors, name) for name in ("x", "w", "a", "b", "a_chain", "b_chain", "dy"))
            }
            images[tensors.zeros] = np.zeros(64, np.uint8)
            results = [layout for name in ("h", "y", "dh", "dx", "db", "da") if (layout := getattr(tensors, name))]
            for layout in results:
                images[layout.address] = np.zeros(layout.nbytes, np.uint8)  # what they were before must not matter
            stretches = [(layout.address, layout.nbytes) for layout in results]
            reference = _on_reference(device, images, commands, stretches)
            for address, image in images.items():
                device.write(address, image)
            device.run(commands, LIST_SECONDS)
            for (address, nbytes), expected in zip(stretches, reference, strict=True):
                _compare("the training step", address, device.read(address, nbytes), expected)
            compared = sum(nbytes for _, nbytes in stretches)
            return f"forward, backward and gradients of a layer, {device.last_counters.cycles:,} cycles, {compared:,} bytes bit-exact"


class _Accelerator:
    """Its registers as `Registers` takes them."""

    def __init__(self, raw: RawLink) -> None:
        self._raw = raw

    def read_register(self, offset: int) -> int:
        return self._raw.read_register(ACCELERATOR_BASE + offset)

    def write_register(self, offset: int, value: int) -> None:
        self._raw.write_register(ACCELERATOR_BASE + offset, value)


def _on_reference(device: Device, images: dict[int, np.ndarray], commands: bytes, results: list[tuple[int, int]]) -> list[np.ndarray]:
    """What the list leaves in each of ``results`` (first byte, bytes) on the reference device, with ``images`` at their addresses."""
    with ReferenceDevice(device.config, device.memory_bytes, device.memory_base) as reference:
        for address, image in images.items():
            reference.write(address, image)
        reference.run(commands)
        return [reference.read(*stretch) for stretch in results]


def _compare(what: str, address: int, found: np.ndarray, expected: np.ndarray) -> None:
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        at = int(wrong[0])
        raise Failed(
            f"{what} left {found[at]:#04x} at {address + at:#x}, where the reference has {expected[at]:#04x}; {len(wrong):,} of "
            f"{expected.size:,} bytes differ",
            "the logic does not keep up with its clock, or its supply is weak: build the bitstream at a lower --frequency and try again; "
            "if the same byte differs each time, report it, with the bitstream's seed and the output of this command with --json",
        )


def _advice(check: str, error: LoralithError) -> str:
    """What to do about an error of the driver, whose message says what it is."""
    if isinstance(error, ConfigMismatch):
        named = [config.name for config in PRESETS.values() if config.hash == error.found]
        if named:
            return f"it is that of the preset {named[0]}: give --config {named[0]}, or load the bitstream of {_name_of(error)}"
        return "give --config the file that the bitstream was built from, or build and load one of this configuration"
    if isinstance(error, DeviceFault):
        return "the list is legal: the accelerator has read its commands wrong, so look at memory and clock first (a lower --frequency)"
    if isinstance(error, DeviceTimeout):
        return "the accelerator or the memory hangs: load the bitstream again; if it hangs again, build one at a lower --frequency"
    if isinstance(error, LinkError) and check not in ("link",):
        return "if it happens now and then, the line is bad: another cable, no hub; if always, load the bitstream again"
    if check == "link":
        return (
            "a ULX3S shows as a USB device 0403:6015 (`lsusb`) and as /dev/ttyUSB0; use the socket US1, a cable with data lines, and load "
            "the bitstream with `loralith flash`; no other program may have the port open"
        )
    if check == "identity":
        return "load a bitstream that this version of loralith has built"
    return "load the bitstream again and run this once more"


def _name_of(error: ConfigMismatch) -> str:
    """The configuration that was asked for."""
    return next((config.name for config in PRESETS.values() if config.hash == error.expected), "the configuration that you gave")
