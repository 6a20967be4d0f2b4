"""The first stage of a campaign: random command lists and products on the native model that holds the mutants."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from loralith.device.device_errors import DeviceError
from loralith.mutants.mutant_error import MutantError
from loralith.mutants.schema_model import MutantDevice
from loralith.soak.list_runner import Machines
from loralith.soak.lists import cases
from loralith.soak.products import stall_bus
from loralith.soak.random_products import Soak
from loralith.spec.config import Config
from loralith.verif.lists.case import BASE, Layout
from loralith.verif.lists.expect import expect
from loralith.verif.mutation.forked import Died, forked

__all__ = ["CASES", "PRODUCTS", "SEED", "NativeStage"]

SEED = 1
CASES = 12
"""Cases of lists; every fourth one is illegal."""
PRODUCTS = 20
STALL = 0.2
SECONDS = 120
"""Of a mutant: one that does not settle, or hangs where no limit of cycles sees it."""
MOST_CYCLES = 1_000_000
"""Of the list of products."""
SLACK = 4
"""Another list may take so many times the cycles of the longest one of the original."""


class NativeStage:
    """Runs mutants of a model. Raises MutantError where the model does not do what the oracle says with no mutant in force.

    What a case must do is computed once, for all mutants. The cases that have killed most mutants run first.
    """

    def __init__(self, config: Config, library: Path, count: int = CASES, products: int = PRODUCTS) -> None:
        self.products, self._library = products, library
        self._machines = Machines(config, native=False, checker=False)
        self._device = self._machines.native = MutantDevice(config, memory_base=BASE, memory_bytes=Layout.size, library=library)
        self._cases = []
        for (_, case), number in zip(cases(SEED, 0, [config]), range(count), strict=False):
            self._cases.append((number, case, expect(case)))
        self._kills: Counter[int] = Counter()
        longest = 0
        for number, case, expected in self._cases:
            before = self._machines.cycles
            what = self._machines.native_differs(case, expected)
            if what:
                raise MutantError(f"with no mutant in force, case {number} of seed {SEED} differs: {what}")
            longest = max(longest, self._machines.cycles - before)
        if what := self._products(0):
            raise MutantError(f"with no mutant in force, {what}")
        self._longest = SLACK * longest
        self._device.model.close()  # a model has a thread, which a copy of this process would not have

    def close(self) -> None:
        self._machines.close()

    def killed_by(self, number: int) -> str:
        """The first check that sees the mutant, and how; empty where all pass."""
        try:
            found = forked(lambda: self._run(number), SECONDS)
        except Died as error:
            return f"lists: the model's process {error}"
        case, _, what = found.partition(" ")
        if case.isdecimal():
            self._kills[int(case)] += 1
            return f"lists: case {case} of seed {SEED}: {what}"
        return found

    def _run(self, mutant: int) -> str:
        """In a process of its own: the number of the case that differs and how, or what is wrong with the products."""
        self._device.mutant, self._device.max_cycles = mutant, self._longest
        for number, case, expected in sorted(self._cases, key=lambda entry: (-self._kills[entry[0]], entry[0])):
            try:
                what = self._machines.native_differs(case, expected)
            except DeviceError as error:
                what = str(error)
            if what:
                return f"{number} {what.splitlines()[0]}"
        return self._products(mutant)

    def _products(self, mutant: int) -> str:
        try:
            with MutantDevice(self._machines.config, max_cycles=MOST_CYCLES, library=self._library) as device:
                device.mutant = mutant
                device.power_cycle()
                soak = Soak(device, SEED)
                stall_bus(device, soak.rng, STALL)
                mismatch = soak.batch(self.products)
        except DeviceError as error:
            return f"products: {str(error).splitlines()[0]}"
        return f"products of seed {SEED}: {mismatch}".splitlines()[0] if mismatch else ""
