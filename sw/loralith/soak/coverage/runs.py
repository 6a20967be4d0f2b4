"""Random work on the model that counts. How far it came, and the counts, are kept in a file, from which a later call goes on."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from loralith.device.native.build import verilog
from loralith.files import write_text
from loralith.soak import SoakError
from loralith.soak.coverage.covered_device import CoveredDevice
from loralith.soak.coverage.points import Point, merge
from loralith.soak.list_runner import MAX_CYCLES, Machines
from loralith.soak.lists import cases
from loralith.soak.products import stall_bus
from loralith.soak.random_products import Soak
from loralith.spec.config import Config
from loralith.state_file import read_state
from loralith.verif.lists.case import BASE, Layout

__all__ = ["SUITES", "CoverageRun"]

SUITES = ("lists", "products", "registers")
"""Raw command lists against the oracle, products against numpy, and every register with every bit."""
PROGRESS_SECONDS = 60.0
"""Seconds between two lines of progress."""
KEPT_SECONDS = 300.0
"""Seconds between two times that the counts are kept: that takes several seconds itself."""
STALL = 0.2


class CoverageRun:
    """Runs `SUITES` on ``config`` from ``seed``.

    Attributes: ``counts`` of all points so far; ``done``, the lists' cases, products and registers that ran. ``state``: the file that
    keeps both. Raises SoakError for a file of another design or seed.
    """

    def __init__(self, config: Config, seed: int, state: Path | None) -> None:
        self.config, self.seed, self.state = config, seed, state
        self.counts: Counter[Point] = Counter()
        self.done: dict[str, int] = dict.fromkeys(SUITES, 0)
        self.key = {"design": verilog(config).parent.name, "seed": seed}
        kept = read_state(state, "`report coverage`", self.key, {"done": dict, "counts": list}, SoakError)
        if kept is not None:
            self.done |= kept["done"]
            self.counts.update({Point(kind, block, name): int(count) for kind, block, name, count in kept["counts"]})

    def run(self, lists: int, products: int, say: Callable[[str], None]) -> None:
        """Until so many cases of lists and so many products ran in all. Raises SoakError where one differs."""
        if self.done["registers"] == 0:
            self._registers()
        self._lists(lists, say)
        self._products(products, say)

    def _registers(self) -> None:
        """Every word of the register file, and some past its end, written and read."""
        with CoveredDevice(self.config) as device:
            for value in (0xFFFF_FFFE, 0x5555_5554, 0xAAAA_AAAA, 0):
                for offset in range(0, 0x140, 4):
                    device.model.write(offset, value)
                    device.model.read(offset)
            device.reset()
            device.collect()
            self._add("registers", 0x140 // 4, device.points)

    def _lists(self, wanted: int, say: Callable[[str], None]) -> None:
        if self.done["lists"] >= wanted:
            return
        machines = Machines(self.config, native=False)
        device = CoveredDevice(self.config, memory_base=BASE, memory_bytes=Layout.size, max_cycles=MAX_CYCLES)
        machines.native = device
        try:
            shown = kept = time.monotonic()
            first = self.done["lists"]
            for number, (_, case) in enumerate(cases(self.seed, first, [self.config]), first):
                if number >= wanted:
                    break
                difference = machines.compare(case)
                if difference is not None:
                    raise SoakError(f"case {number} of seed {self.seed} differs: {difference}")
                if time.monotonic() - shown >= PROGRESS_SECONDS:
                    shown = time.monotonic()
                    say(f"{number + 1} of {wanted} cases of lists")
                if time.monotonic() - kept >= KEPT_SECONDS:
                    kept = time.monotonic()
                    device.collect()
                    self._add("lists", number + 1 - self.done["lists"], device.points)
            device.collect()
            self._add("lists", wanted - self.done["lists"], device.points)
        finally:
            machines.close()

    def _products(self, wanted: int, say: Callable[[str], None]) -> None:
        while self.done["products"] < wanted:
            count = min(200, wanted - self.done["products"])
            with CoveredDevice(self.config) as device:
                soak = Soak(device, self.seed + self.done["products"])
                stall_bus(device, soak.rng, STALL)
                mismatch = soak.batch(count)
                if mismatch is not None:
                    raise SoakError(f"a product of seed {self.seed} differs: {mismatch}")
                device.collect()
                self._add("products", count, device.points)
            say(f"{self.done['products']} of {wanted} products")

    def _add(self, suite: str, count: int, points: Counter[Point]) -> None:
        """Takes over what a device has counted, and keeps it."""
        merge(self.counts, points)
        points.clear()
        self.done[suite] += count
        if self.state is not None:
            rows = [[point.kind, point.block, point.name, count] for point, count in sorted(self.counts.items())]
            write_text(json.dumps({**self.key, "done": self.done, "counts": rows}), self.state)
