"""Random raw command lists, legal and illegal, on the RTL and the reference device, compared with an oracle."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loralith.progress import tell
from loralith.soak import SoakError
from loralith.soak.list_runner import Difference, Machines
from loralith.spec.commands import Opcode
from loralith.spec.config import Config
from loralith.verif.lists.bins import all_bins, bins_of
from loralith.verif.lists.case import Case
from loralith.verif.lists.generate import generate
from loralith.verif.lists.illegal import illegal
from loralith.verif.lists.shrink import shrink

__all__ = ["ILLEGAL", "ListSoak", "cases", "replay"]


ILLEGAL = 4
"""Every so many cases one is illegal."""


SHRINK = 600
"""Most runs that make a failing case smaller."""


PROGRESS_SECONDS = 20.0
"""Seconds between two lines of progress."""


def cases(seed: int, first: int, configs: list[Config]) -> Iterator[tuple[int, Case]]:
    """Which configuration and case comes from the ``first`` on; the same for the same seed, always."""
    number = first
    while True:
        at = number % len(configs)
        draw = illegal if number // len(configs) % ILLEGAL == ILLEGAL - 1 else generate
        yield at, draw(configs[at], (seed << 24) + number)
        number += 1


class ListSoak:
    """Random lists on ``configs``, in turn, until a device differs from the oracle.

    Attributes: ``tally``, the figures so far as JSON values. ``state``: where they are kept, and gone on from. ``failure``: where the first
    case that differs is written, made small.
    """

    def __init__(
        self, names: list[str], configs: list[Config], device: str, seed: int | None, state: Path | None, failure: Path | None
    ) -> None:
        self.configs, self.device, self.state, self.failure = configs, device, state, failure
        self.tally = self._begin(names, seed)

    def _begin(self, names: list[str], seed: int | None) -> dict[str, Any]:
        """The figures so far: those of the state file, or zeros."""
        settings = {"configs": names, "device": self.device}
        if self.state and self.state.is_file():
            try:
                tally = json.loads(self.state.read_text(encoding="utf-8"))
                same = all(tally[key] == value for key, value in settings.items()) and seed in (None, tally["seed"])
            except (ValueError, KeyError, TypeError):
                raise SoakError(f"{self.state} is not the state of a soak of lists") from None
            if not same:
                raise SoakError(f"{self.state} is the state of a soak of {tally['configs']} on {tally['device']} with seed {tally['seed']}")
            return tally
        figures = dict.fromkeys(("cases", "lists", "illegal", "commands", "vectors", "cycles"), 0)
        seed = secrets.randbits(32) if seed is None else seed
        bins = dict.fromkeys(sorted(set().union(*map(all_bins, self.configs))), 0)
        return {"seed": seed, **settings, **figures, "seconds": 0.0, "cpu_seconds": 0.0, "difference": None, "bins": bins}

    def run(self, commands: int, seconds: float | None) -> Difference | None:
        """Until so many commands ran, in all, or so many seconds have passed, in this call; the first difference."""
        machines: list[Machines] = []
        try:
            for config in self.configs:
                tell(f"configuration {config.name}: {config.rows} x {config.cols}, {config.bus_bytes} bytes of bus")
                machines.append(Machines(config, native=self.device == "verilator"))
            return self._run(commands, seconds, machines)
        finally:
            for each in machines:
                each.close()

    def _run(self, commands: int, seconds: float | None, machines: list[Machines]) -> Difference | None:
        started, cpu, before = time.monotonic(), time.process_time(), dict(self.tally)
        tally, shown, difference = self.tally, started, None
        for at, case in cases(tally["seed"], tally["cases"], self.configs):
            now = time.monotonic()
            if tally["commands"] >= commands or (seconds is not None and now - started >= seconds):
                break
            cycles = machines[at].cycles
            difference = machines[at].compare(case)
            tally["cases"] += 1
            legal = machines[at].legal
            tally["lists"] += len(case.lists) if legal else 0
            tally["illegal"] += not legal
            tally["commands"] += case.commands
            tally["vectors"] += sum(c["opcode"] == Opcode.VECTOR for commands in case.lists for c in commands)
            tally["cycles"] += machines[at].cycles - cycles
            tally["seconds"] = round(before["seconds"] + time.monotonic() - started, 1)
            tally["cpu_seconds"] = round(before["cpu_seconds"] + time.process_time() - cpu, 1)
            expected = machines[at].expected
            if difference is None and expected is not None:
                for name in bins_of(case, expected):
                    tally["bins"][name] += 1
            if difference is not None:
                tally["difference"] = str(difference)
                self._keep(case, difference, machines[at])
                break
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                tell(f"{tally['commands']} of {commands} commands, {tally['seconds']:.0f} s")
                self._save()
        if difference is None:
            self._save()
        return difference

    def _save(self) -> None:
        if self.state:
            self.state.write_text(json.dumps(self.tally, indent=2) + "\n", encoding="utf-8")

    def _keep(self, case: Case, difference: Difference, machines: Machines) -> None:
        """Make the case small, and write it where it was asked for."""
        if not self.failure:
            tell(f"{difference}; --failure FILE would make it small and keep it")
            return
        tell(f"{difference}; making it small")

        def fails(smaller: Case) -> bool:
            found = machines.compare(smaller)
            return found is not None and found.where == difference.where

        small = shrink(case, fails, SHRINK)
        found = machines.compare(small)
        self.failure.write_text(
            json.dumps({"difference": str(found), "case": json.loads(small.as_json())}, indent=1) + "\n", encoding="utf-8"
        )
        tell(f"{small.commands} commands are left: {found}; wrote {self.failure}")


def replay(file: Path, device: str) -> tuple[Case, Difference | None]:
    """The case that a soak wrote to ``file``, and what differs when it runs again. Raises SoakError for another file."""
    try:
        case = Case.from_json(json.dumps(json.loads(file.read_text(encoding="utf-8"))["case"]))
    except OSError as error:
        raise SoakError(f"{file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise SoakError(f"{file} is not a case that soak --lists wrote") from None
    machines = Machines(case.config, native=device == "verilator")
    try:
        difference = machines.compare(case)
    finally:
        machines.close()
    return case, difference
