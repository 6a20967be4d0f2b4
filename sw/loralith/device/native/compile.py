"""Compile what Verilator writes: few translation units, and Verilator's runtime once for all models.

Verilator's own makefile compiles two precompiled headers, its runtime and a dozen small files for each model, which for a small model
takes as long again as its code.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from loralith.errors import LoralithError
from loralith.toolchain import Verilator

__all__ = ["JOBS", "BuildError", "Levels", "compile_design", "headers"]

UNIT_BYTES = 2_000_000
"""Of sources in one translation unit: with less, reading the headers again costs more than a second processor gains."""
JOBS = 2
"""Compilers at a time."""
STANDARD = ("-std=gnu++20", "-pthread", "-DVERILATOR=1", "-DVM_SC=0")


class BuildError(LoralithError):
    """The Verilog or the model could not be made; the message carries the end of the failing tool's output."""


@dataclass(frozen=True)
class Levels:
    """Optimization of code that runs every cycle, of code that runs once, and of Verilator's runtime."""

    fast: str = "-O3"
    slow: str = "-O1"
    runtime: str = "-O2"

    def __str__(self) -> str:
        return f"OPT_FAST={self.fast} OPT_SLOW={self.slow} OPT_GLOBAL={self.runtime}"


@dataclass(frozen=True)
class _Job:
    """A compiler's command without its output, which appears whole or not at all. ``shared``: other builds may make the same output now."""

    command: tuple[str, ...]
    output: Path
    shared: bool = False


def headers(verilator: Verilator) -> Path:
    """The folder of Verilator's headers and of the sources of its runtime."""
    root = verilator.environment().get("VERILATOR_ROOT") or verilator.run("--getenv", "VERILATOR_ROOT").strip()
    return Path(root) / "include"


def compile_design(
    verilator: Verilator,
    objects: Path,
    sources: Sequence[Path],
    output: Path,
    *,
    runtime: Path,
    flags: str,
    levels: Levels = Levels(),
    shared: bool = False,
) -> None:
    """Compile the C++ that Verilator has written to the folder ``objects``, and ``sources`` with it, into ``output``.

    Parameters:
        runtime: folder that keeps the objects of Verilator's runtime.
        flags: of the compiler, for all but the runtime; linked with them too. levels: optimization beside them.
        shared: a shared library in place of a program.

    Raises BuildError with what the compiler says.
    """
    lists = list(objects.glob("*_classes.mk"))
    if len(lists) != 1:
        raise BuildError(f"{objects} holds {len(lists)} designs of Verilator, not one")
    makefile = lists[0].read_text(encoding="utf-8")
    include, compiler, words = headers(verilator), shlex.split(os.environ.get("CXX") or "g++"), shlex.split(flags)
    switches = [f"-D{name}={value}" for name, value in re.findall(r"^(VM_(?:COVERAGE|TIMING|TRACE\w*)) = ([01])$", makefile, re.MULTILINE)]
    common = (*STANDARD, *switches, f"-I{include}", f"-I{include / 'vltstd'}")
    fast = [*(objects / f"{name}.cpp" for name in _listed(makefile, "CLASSES_FAST", "SUPPORT_FAST")), *sources]
    slow = [objects / f"{name}.cpp" for name in _listed(makefile, "CLASSES_SLOW", "SUPPORT_SLOW")]
    jobs = []
    for level, files in ((levels.fast, fast), (levels.slow, slow)):
        for unit in _units(objects, "fast" if files is fast else "slow", files):
            jobs.append(_Job((*compiler, level, *words, *common, f"-I{objects}", "-c", str(unit)), unit.with_suffix(".o")))
    own = (*compiler, levels.runtime, "-fPIC", *common)
    kept = [_kept(own, include / f"{name}.cpp", runtime) for name in _listed(makefile, "GLOBAL_FAST", "GLOBAL_SLOW")]
    _run([*jobs, *(job for job in kept if not job.output.is_file())])
    linked = [str(job.output) for job in (*jobs, *kept)]
    _run([_Job((*compiler, *(("-shared",) if shared else ()), *words, *linked, "-pthread"), output)])


def _listed(makefile: str, *names: str) -> list[str]:
    """The files of those lists of Verilator's makefile, without their suffix."""
    found = []
    for name in names:
        match = re.search(rf"^VM_{name} \+= \\\n((?:.+\\\n)*)", makefile, re.MULTILINE)
        found += match[1].replace("\\", " ").split() if match else []
    return found


def _units(objects: Path, kind: str, files: Sequence[Path]) -> Iterator[Path]:
    """Translation units that include the files, in their order, `UNIT_BYTES` or one file in each."""
    groups: list[list[Path]] = [[]]
    size = 0
    for file in files:
        bytes_of = file.stat().st_size
        if groups[-1] and size + bytes_of > UNIT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += bytes_of
    for number, group in enumerate(groups):
        if group:
            unit = objects / f"unit_{kind}_{number}.cc"
            unit.write_text("".join(f'#include "{file}"\n' for file in group), encoding="utf-8")
            yield unit


def _kept(command: tuple[str, ...], source: Path, folder: Path) -> _Job:
    """How a file of the runtime is compiled, to a name that says from what."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256("\0".join((version, *command)).encode() + source.read_bytes()).hexdigest()[:20]
    return _Job((*command, "-c", str(source)), folder / f"{source.stem}-{key}.o", shared=True)


def _run(jobs: Sequence[_Job]) -> None:
    """Run all, `JOBS` at a time. Raises BuildError for the first that fails."""

    def run(job: _Job) -> str:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        part = job.output.with_name(f"{job.output.stem}.part{job.output.suffix}")  # the same each time: it names the object's profile
        if job.shared:
            handle, name = tempfile.mkstemp(suffix=job.output.suffix, prefix=f"{job.output.stem}.", dir=job.output.parent)
            os.close(handle)
            part = Path(name)
        try:
            done = subprocess.run([*job.command, "-o", str(part)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                return f"{job.command[0]} ended with {done.returncode} for {job.output.name}:\n{done.stdout[-4000:]}"
            part.replace(job.output)
            return ""
        finally:
            part.unlink(missing_ok=True)

    with ThreadPoolExecutor(JOBS) as pool:
        failed = next(filter(None, pool.map(run, jobs)), "")
    if failed:
        raise BuildError(failed)
