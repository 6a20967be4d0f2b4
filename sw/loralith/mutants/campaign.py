"""The tests on each mutant, cheapest first, until one fails; verdicts are kept, so that a broken-off campaign goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loralith.mutants.mutant_error import MutantError
from loralith.mutants.mutant_model import build, environment
from loralith.toolchain import python_module
from loralith.verif.mutation.mutant_list import CONTROL, Mutant
from loralith.verif.mutation.sites import RTL

__all__ = ["STAGES", "Campaign", "Verdict"]

REPO = Path(__file__).resolve().parents[3]
TESTS = REPO / "tests"
STAGES = ("native", "golden", "faults", "unit", "cocotb")
FILES = {
    "native": ("sw/test_verilator.py", "sw/test_device_shift.py", "sw/test_raw_lists.py", "sw/test_registers.py"),
    "golden": ("sw/test_golden_layers.py",),
    "faults": ("sw/test_verilator_faults.py",),
    "cocotb": ("cocotb/test_command_kinds.py", "cocotb/test_golden.py", "cocotb/test_cocotb.py"),
}
# Tests of the device's code and of its speed, and what has nothing to do with the RTL of `tiny`.
UNASKED = ("base", "built_once", "waveform", "other_configuration", "ctrl_c", "timeout_in_seconds", "wider")
ALSO_UNASKED = {"golden": ("reference", "a_wrong_bit")}


@dataclass(frozen=True)
class Verdict:
    """`outcome`: killed, survived or invalid; `by`: the test that failed, or why there is no verdict; CPU seconds of build and tests."""

    name: str
    block: str
    outcome: str
    by: str
    stage: str
    cpu_seconds: float


class Campaign:
    """Runs mutants. Parameters: `folder` for builds and verdicts; `stages`, a subset of STAGES; `timeout` of a stage in seconds."""

    def __init__(self, folder: Path, stages: Sequence[str] = STAGES, timeout: float = 1800, log: Callable[[str], None] = print) -> None:
        self.folder, self.stages, self.timeout, self.log = folder, tuple(stages), timeout, log
        self._file = folder / "verdicts.json"
        self._kept: dict[str, dict] = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}

    def run(self, mutants: Sequence[Mutant]) -> Iterator[Verdict]:
        """Verdicts in order. Raises MutantError where the tests fail on the design as it is, before any mutant, and where another
        campaign is at work in the folder."""
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MutantError(f"another campaign is at work in {self.folder}") from None
            control = self._verdict(CONTROL)
            if control.outcome != "survived":
                raise MutantError(f"the tests fail on the design as it is, so that no mutant says anything: {control.by}")
            for mutant in mutants:
                yield self._verdict(mutant)

    def _verdict(self, mutant: Mutant) -> Verdict:
        key = self._key(mutant)
        if key in self._kept:
            return Verdict(**self._kept[key])
        before = os.times()
        work = self.folder / "work"
        outcome, by, last = "survived", "", ""
        try:
            build(mutant, work, self.folder / "runtime")
            for stage in self.stages:
                files = [f"unit/rtl/{name}" for name in mutant.unit] if stage == "unit" else FILES[stage]
                failed = self._failed(stage, files, work) if files else None
                if failed:
                    outcome, by, last = "killed", failed, stage
                    break
        except MutantError as error:
            outcome, by = "invalid", str(error)
        now = os.times()
        cpu = now.children_user + now.children_system - before.children_user - before.children_system
        verdict = Verdict(mutant.name, mutant.change.block if mutant.change else "", outcome, by, last, round(cpu, 1))
        shutil.rmtree(work, ignore_errors=True)
        self._kept[key] = asdict(verdict)
        partial = self._file.with_suffix(".new")
        partial.write_text(json.dumps(self._kept, indent=1), encoding="utf-8")
        partial.replace(self._file)
        return verdict

    def _failed(self, stage: str, files: Sequence[str], work: Path) -> str | None:
        """The first test that fails on the mutant, None where all pass. Raises MutantError where pytest itself comes to grief."""
        command = python_module("pytest")
        command += ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "600", "-m", "not slow"]
        command += ["--basetemp", str(work / "tmp"), *(str(TESTS / file) for file in files)]
        variables = environment(work)
        if stage != "unit":
            command += ["-p", "mutated_model", "-k", " and ".join(f"not {word}" for word in (*UNASKED, *ALSO_UNASKED.get(stage, ())))]
            variables["PYTHONPATH"] += os.pathsep + str(TESTS / "mutants")
        variables["LORALITH_MUTANT"] = str(work)
        process = subprocess.Popen(
            command, cwd=REPO, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        started = time.monotonic()
        try:
            text, _ = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"{stage}: no end within {time.monotonic() - started:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode == 0:
            return None
        failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", text, re.MULTILINE)
        if process.returncode == 1 and failed:
            return failed[1]
        if process.returncode < 0:
            return f"{stage}: the model died of signal {-process.returncode}"
        raise MutantError(f"pytest exited with {process.returncode}:\n{text[-2000:]}")

    def _key(self, mutant: Mutant) -> str:
        """What a verdict depends on: the mutant, the hardware, the tests and the plugin that gives them the mutant."""
        digest = hashlib.sha256(json.dumps([asdict(mutant), self.stages, UNASKED]).encode())
        files = [*RTL.rglob("*.py"), TESTS / "mutants" / "mutated_model.py", *(TESTS / file for stage in FILES.values() for file in stage)]
        for path in sorted([*files, *(TESTS / "unit" / "rtl" / name for name in mutant.unit)]):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:20]
