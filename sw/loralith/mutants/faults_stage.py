"""The second stage of a campaign: errors on the bus, aborts and illegal lists on the native model. A list must then run right.

`tests/sw/test_verilator_faults.py` has the same faults, more of each, on the design as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from loralith.compiler.schedules.example import example
from loralith.device.device_errors import DeviceError
from loralith.device.reference import ReferenceDevice
from loralith.device.verilator import Faults, MemoryTiming
from loralith.mutants.mutant_error import MutantError
from loralith.mutants.native_stage import SECONDS, SEED
from loralith.mutants.schema_model import MutantDevice
from loralith.soak.list_runner import Machines
from loralith.spec.config import Config
from loralith.spec.status import Code, Unit
from loralith.verif.lists.case import BASE, Layout
from loralith.verif.lists.expect import expect
from loralith.verif.lists.illegal import illegal
from loralith.verif.mutation.forked import Died, forked

__all__ = ["FAULTS", "ILLEGAL", "FaultsStage"]

FAULTS = 8
"""Read errors, write errors and aborts each, spread over the list."""
ILLEGAL = 24
"""Cases of lists that a check refuses, or that end while they run."""
AT, BYTES = 1 << 32, 1 << 16
TIMING = MemoryTiming(read_latency=10, write_latency=5)
MOST_CYCLES = 50_000
ABORTED = 2_000
"""Cycles that an aborted list has until it must have ended."""


class FaultsStage:
    """Runs mutants of a model. Raises MutantError where a fault ends otherwise than it should with no mutant in force."""

    def __init__(self, config: Config, library: Path) -> None:
        self._config, self._library = config, library
        self._machines = Machines(config, native=False, checker=False)
        self._cases = []
        for number in range(ILLEGAL):
            case = illegal(config, (SEED << 32) + number)
            self._cases.append((number, case, expect(case)))
        it = example(config, AT + 4096)
        self._data, self._length = it.commands.pack(), len(it.commands)
        self._image = np.full(BYTES, 0x5A, np.uint8)
        self._image[: len(self._data)] = np.frombuffer(self._data, np.uint8)
        self._image[4096 : 4096 + it.image.size] = it.image
        reference = ReferenceDevice(config, BYTES, AT)
        reference.write(AT, self._image)
        reference.run_at(AT, self._length)
        self._right = reference.read(AT, BYTES)
        with self._device(0) as device:
            before = device.bus()
            what = self._good(device, "alone")
            after = device.bus()
            self._cycles = device.registers.result().counters.cycles
        self._beats, self._bursts = after.read_beats - before.read_beats, after.write_bursts - before.write_bursts
        what = what or self._run(0)
        if what:
            raise MutantError(f"with no mutant in force, {what}")

    def killed_by(self, number: int) -> str:
        """The first fault after which the mutant does what it should not; empty where there is none."""
        try:
            return forked(lambda: self._run(number), SECONDS)
        except Died as error:
            return f"faults: the model's process {error}"

    def _device(self, mutant: int) -> MutantDevice:
        device = MutantDevice(
            self._config, memory_base=AT, memory_bytes=BYTES, timing=TIMING, max_cycles=MOST_CYCLES, library=self._library
        )
        device.mutant = mutant
        device.power_cycle()
        device.registers.set("WATCHDOG", ABORTED)
        return device

    def _run(self, mutant: int) -> str:
        try:
            with self._device(mutant) as device:
                for what in self._outcomes(device):
                    if what:
                        return f"faults: {what}"
        except DeviceError as error:
            return f"faults: {str(error).splitlines()[0]}"
        return self._refusals(mutant)

    def _outcomes(self, device: MutantDevice) -> Iterator[str]:
        """What is wrong after each fault, and with the list after it."""
        for beat in _spread(self._beats):
            device.configure(faults=Faults(read_beat=beat))
            yield self._ends(device, f"an error on read beat {beat}", Code.AXI_READ_ERROR, (Unit.FETCH, Unit.LOAD))
        for burst in _spread(self._bursts):
            device.configure(faults=Faults(write_burst=burst))
            yield self._ends(device, f"an error on write burst {burst}", Code.AXI_WRITE_ERROR, (Unit.STORE,))
        for delay in (0, 1, *_spread(self._cycles)):
            yield self._aborts(device, delay)

    def _ends(self, device: MutantDevice, fault: str, code: Code, units: Sequence[Unit]) -> str:
        device.write(AT, self._image)
        status = device.run_at(AT, self._length).status
        if status.code is not code or status.unit not in units:
            return f"{fault} ends as {status}"
        return self._good(device, f"after {fault}")

    def _aborts(self, device: MutantDevice, delay: int) -> str:
        device.configure(timing=TIMING, faults=Faults())
        device.write(AT, self._image)
        device.registers.start(AT, self._length)
        device.model.tick(delay)
        device.registers.abort()
        device.model.tick(ABORTED)
        status, stats = device.registers.status(), device.bus()
        if device.registers.busy() or status.code not in (Code.HOST_ABORT, Code.OK):
            return f"an abort after {delay} cycles ends as {status}"
        if stats.reads_pending or stats.writes_pending:
            return f"an abort after {delay} cycles leaves bursts behind"
        return self._good(device, f"after an abort after {delay} cycles")

    def _good(self, device: MutantDevice, when: str) -> str:
        """A list without faults gives every byte."""
        device.configure(timing=TIMING, faults=Faults())
        device.write(AT, self._image)
        result = device.run_at(AT, self._length)
        if result.status.code is not Code.OK:
            return f"a list {when} ends as {result.status}"
        wrong = np.flatnonzero(device.read(AT, BYTES) != self._right)
        return f"a list {when} leaves {wrong.size} wrong bytes" if wrong.size else ""

    def _refusals(self, mutant: int) -> str:
        with MutantDevice(
            self._config, memory_base=BASE, memory_bytes=Layout.size, max_cycles=MOST_CYCLES, library=self._library
        ) as device:
            device.mutant = mutant
            self._machines.native = device
            for number, case, expected in self._cases:
                try:
                    what = self._machines.native_differs(case, expected)
                except DeviceError as error:
                    what = str(error)
                if what:
                    return f"faults: illegal case {number} of seed {SEED}: {what.splitlines()[0]}"
        return ""


def _spread(most: int) -> list[int]:
    """`FAULTS` numbers from 1 to ``most``."""
    return sorted({1 + (most - 1) * i // (FAULTS - 1) for i in range(FAULTS)})
