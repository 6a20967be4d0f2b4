"""Runs a case of `loralith.verif.lists` on devices and compares what they do with the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.device.device import Device
from loralith.device.device_errors import DeviceError
from loralith.device.reference import ReferenceDevice
from loralith.device.run_status import RunResult
from loralith.device.verilator import MemoryTiming, VerilatorDevice
from loralith.spec.config import Config
from loralith.spec.status import Code
from loralith.verif.lists.case import BASE, Case, Layout
from loralith.verif.lists.expect import Ending, Expected, expect
from loralith.verif.lists.legal import fault, loosen

__all__ = ["Difference", "Machines"]

WATCHDOG = 5_000
MAX_CYCLES = 5_000_000


@dataclass(frozen=True)
class Difference:
    """The first thing that a device did otherwise than the oracle: ``where`` is checker, reference or verilator."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Machines:
    """The devices of one configuration. ``native`` is the RTL's model, None to leave it out.

    Attributes: `cycles`, simulated so far; `legal`, whether the latest case should run to its end; `expected`, what it should do.
    """

    def __init__(self, config: Config, *, native: bool = True, checker: bool = True) -> None:
        self.config, self.checker = config, checker
        self.native = VerilatorDevice(config, memory_base=BASE, memory_bytes=Layout.size, max_cycles=MAX_CYCLES) if native else None
        self.cycles, self.legal = 0, True
        self.expected: Expected | None = None

    def close(self) -> None:
        if self.native:
            self.native.close()

    def compare(self, case: Case) -> Difference | None:
        """Run a case from reset on every device; the first difference, or None."""
        expected = self.expected = expect(case)
        self.legal = all(ending.code is Code.OK for ending in expected.endings)
        if self.checker and self.legal:
            what = self._checker_differs(case)
            if what:
                return Difference("checker", what)
        reference = ReferenceDevice(self.config, Layout.size, BASE, (BASE + case.window[0], BASE + case.window[1]))
        what = self._differs(case, expected, reference)
        if what:
            return Difference("reference", what)
        what = self.native_differs(case, expected) if self.native else ""
        return Difference("verilator", what) if what else None

    def native_differs(self, case: Case, expected: Expected) -> str:
        """What the RTL does otherwise than ``expected`` of a case that it runs from reset; empty if nothing."""
        assert self.native is not None, "these machines have no RTL"
        self.native.power_cycle()
        self.native.registers.set("WATCHDOG", WATCHDOG)
        self.native.configure(timing=MemoryTiming(**case.timing), window=(BASE + case.window[0], BASE + case.window[1]))
        return self._differs(case, expected, self.native)

    def _checker_differs(self, case: Case) -> str:
        """What the compiler's checker refuses or lets pass, otherwise than docs/machine.md; empty if nothing."""
        for index in range(len(case.lists)):
            reason = self._refusal(case, index)
            # Of DRAM areas of different strides the checker compares the extents alone.
            if reason and not reason.startswith("touches DRAM"):
                return f"list {index} is refused: {reason}"
        loose = loosen(case, np.random.default_rng(case.seed))
        wrong = fault(loose.lists[0], self.config, programs=case.programs)
        return f"a list with a token less passes, though {wrong}" if wrong and not self._refusal(loose, 0) else ""

    def _refusal(self, case: Case, index: int) -> str:
        try:
            check(CommandList.unpack(case.packed(index)), self.config, programs=case.programs)
        except IllegalList as error:
            return error.reason
        return ""

    def _differs(self, case: Case, expected: Expected, device: Device) -> str:
        """What the device does otherwise; empty if nothing."""
        device.write(BASE, case.image())
        native = isinstance(device, VerilatorDevice)
        for index, ending in enumerate(expected.endings):
            data = case.packed(index)
            device.write(BASE + case.place(index), data)
            try:
                result = device.run_at(BASE + case.place(index), len(case.lists[index]))
            except DeviceError as error:
                return f"list {index}: {error}"
            what = _ending_differs(result, ending, native)
            if native:
                self.cycles += result.counters.cycles
            if what:
                return f"list {index}: {what}"
        found = device.read(BASE, Layout.size)
        wrong = np.flatnonzero((found != expected.dram) & ~expected.unknown)
        if wrong.size:
            at = int(wrong[0])
            return f"{wrong.size} bytes of DRAM, the first at offset {at:#x}: {found[at]:#04x} instead of {expected.dram[at]:#04x}"
        return ""


def _ending_differs(result: RunResult, ending: Ending, native: bool) -> str:
    status, counters = result.status, result.counters
    if status.code is not ending.code:
        return f"ends as {status} instead of {ending.code.name} ({ending.detail.name}), command {ending.command}"
    if status.code is not Code.OK:
        for name in ("detail", "unit", "command", "address"):
            if getattr(status, name) != getattr(ending, name):
                return f"{ending.code.name} has {name} {getattr(status, name)!r} instead of {getattr(ending, name)!r}"
    if native:
        causes = counters.busy + counters.wait_load + counters.wait_store + counters.fill_drain + counters.idle
        if causes != counters.cycles:
            return f"the causes sum to {causes} of {counters.cycles} cycles"
    counts = ending.counts
    if counts is None:
        return ""
    if result.commands_done != counts.commands:
        return f"{result.commands_done} commands done instead of {counts.commands}"
    for name in ("macs", "saturations", "bytes_read", "bytes_written", "read_bursts", "write_bursts", "busy"):
        wanted, found = getattr(counts, name), getattr(counters, name)
        if wanted is not None and found != wanted:
            return f"counter {name} is {found} instead of {wanted}"
    return ""
