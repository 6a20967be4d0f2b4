"""Build the Verilog for cocotb once per content and start simulations of it.

The caller's environment must hold what Verilator needs (PATH, and VERILATOR_ROOT and MAKEFLAGS where its installation wants them).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cocotb
from cocotb_tools.runner import get_runner

__all__ = ["JOB", "SimulationError", "build", "job", "simulate"]

TOP = "loralith"
JOB = "LORALITH_COCOTB_JOB"
BUILD_ARGS = (
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "-Wno-fatal", "-Wno-lint"),
    # cocotb's runner makes every signal visible to the bench, which needs the pins alone: hidden ones can be optimized away.
    *("--no-public-flat-rw", "--public-depth", "1"),
)


class SimulationError(Exception):
    """A test in the simulation failed, or none ran."""


def build(verilog: Path, cache: Path) -> Path:
    """The folder of a simulation of `verilog` under `cache`, built if it is not there.

    Raises SimulationError where there are spaces in a path that cocotb's makefiles name.
    """
    for path in (cache.resolve(), Path(cocotb.__file__).parent):
        if any(letter.isspace() for letter in str(path)):
            raise SimulationError(f"cocotb cannot build in a path with spaces, as {path} is; move the checkout to one without")
    digest = hashlib.sha256(verilog.read_bytes())
    digest.update("\0".join((cocotb.__version__, *BUILD_ARGS, os.environ.get("VERILATOR_ROOT", ""))).encode())
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache.resolve() / digest.hexdigest()[:20]
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            get_runner("verilator").build(
                sources=[verilog],
                hdl_toplevel=TOP,
                build_dir=folder,
                build_args=list(BUILD_ARGS),
                timescale=("1ns", "1ps"),
                log_file=folder / "build.log",
            )
            for file in folder.iterdir():  # objects and precompiled headers are 200 MB, and only the program runs
                if file.name not in (TOP, "build.log"):
                    file.unlink()
            (folder / "done").touch()
    return folder


def simulate(
    model: Path, module: str, folder: Path, *, cases: Sequence[str] = (), data: Mapping[str, Any] | None = None, seed: int = 1
) -> dict[str, float]:
    """Run the cocotb tests of `module` on the `model` that `build` gave.

    Parameters:
        module: importable from the current sys.path.
        folder: where results and log go.
        cases: names of the tests to run; all of the module's if empty.
        data: what `job()` returns inside the simulation; JSON values and paths.

    Returns: seconds by name of every test that ran. Raises SimulationError naming those that failed.
    """
    folder, model = folder.resolve(), model.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    job_file = folder / "job.json"
    job_file.write_text(json.dumps(dict(data or {}), default=str), encoding="utf-8")
    results = folder / "results.xml"
    results.unlink(missing_ok=True)
    log = folder / "simulation.log"
    with contextlib.suppress(SystemExit):  # the runner's word for a failed test; the results file says which
        get_runner("verilator").test(
            test_module=module,
            hdl_toplevel=TOP,
            hdl_toplevel_lang="verilog",
            testcase=list(cases) or None,
            seed=seed,
            build_dir=model,
            test_dir=folder,
            results_xml=str(results),
            extra_env={
                JOB: str(job_file),
                "COCOTB_LOG_LEVEL": "WARNING",
                "COCOTB_ANSI_OUTPUT": "0",
                "PYTHONWARNINGS": "ignore::DeprecationWarning",
            },
            log_file=log,
        )
    found = ElementTree.parse(results).findall(".//testcase") if results.is_file() else []
    failed = [case.get("name", "?") for case in found if case.find("failure") is not None or case.find("error") is not None]
    if failed or not found:
        raise SimulationError(f"{', '.join(failed) or 'no test ran'}; {log} ends with:\n{log.read_text(errors='replace')[-6000:]}")
    return {case.get("name", "?"): float(case.get("time", 0)) for case in found if case.find("skipped") is None}


def job() -> dict[str, Any]:
    """Inside a simulation: the data that `simulate` was given."""
    return json.loads(Path(os.environ[JOB]).read_text(encoding="utf-8"))
