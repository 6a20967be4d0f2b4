"""A mutant's Verilog and native model: built in a quarter of the usual time, to run some hundred thousand cycles and be thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from loralith.device.native.build import LIBRARY, MODULE, SOURCES, VERILATOR_FLAGS
from loralith.device.native.compile import headers
from loralith.mutants.mutant_error import MutantError
from loralith.toolchain import find_verilator, python_module, without_spaces
from loralith.verif.mutation import MutationError
from loralith.verif.mutation.mutant_list import Mutant
from loralith.verif.mutation.sites import RTL

__all__ = ["build", "environment"]

# -O1 in one translation unit: most of a small model's usual build is headers, read again for each of its files, and Verilator's runtime.
COMPILE = ("-std=gnu++20", "-fPIC", "-O1", "-DVERILATOR=1")
SWITCHES = ("COVERAGE", "SC", "TIMING", "TRACE", "TRACE_FST", "TRACE_VCD", "TRACE_SAIF")
RUNTIME = ("verilated", "verilated_threads")


def environment(folder: Path) -> dict[str, str]:
    """Variables under which Python finds the mutated hardware of `folder` in place of the real one."""
    paths = [str(folder / "python"), os.environ.get("PYTHONPATH", "")]
    return {**find_verilator().environment(), "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1"}


def build(mutant: Mutant, folder: Path, runtime: Path, config: str = "tiny") -> None:
    """Fill `folder`: sources in python/, the Verilog and the native model. `runtime` keeps Verilator's own objects from mutant to mutant.

    Raises MutantError where the mutant does not apply or no model comes of it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    rtl = folder / "python" / "loralith" / "rtl"
    shutil.copytree(RTL, rtl, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant.change is not None:
        try:
            edit = mutant.change.edit
        except MutationError as error:
            raise MutantError(f"{mutant.name}: {error}") from None
        (rtl / edit.path.relative_to(RTL)).write_text(edit.source(), encoding="utf-8")
    verilog, objects = folder / f"{MODULE}.v", folder / "obj"
    _run(mutant, folder, *python_module("loralith.gen", "verilog", "--config", config, "--output", verilog))
    verilator = find_verilator()
    plain = without_spaces(folder)
    verilator.run("--cc", *VERILATOR_FLAGS, "--output-split", "0", "--top-module", MODULE, "-Mdir", plain / "obj", plain / verilog.name)
    files = [*sorted(objects.glob("*.cpp")), SOURCES / "model.cpp"]
    whole = objects / "whole.cc"
    whole.write_text("".join(f'#include "{file}"\n' for file in files), encoding="utf-8")
    include = headers(verilator)
    compiler = os.environ.get("CXX", "g++")
    switches = [f"-DVM_{name}=0" for name in SWITCHES]
    common = (compiler, *COMPILE, *switches, f"-I{objects}", f"-I{include}", f"-I{include / 'vltstd'}")
    runtime.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME:
        if not (runtime / f"{name}.o").is_file():
            _run(mutant, folder, *common, "-c", include / f"{name}.cpp", "-o", runtime / f"{name}.o")
    linked = [runtime / f"{name}.o" for name in RUNTIME]
    _run(mutant, folder, *common, "-shared", "-pthread", whole, *linked, "-o", folder / LIBRARY)
    shutil.rmtree(objects)


def _run(mutant: Mutant, folder: Path, *command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise MutantError(f"{mutant.name}: {command[0]} exited with {done.returncode}:\n{done.stdout[-2000:]}")
