"""Yosys, as pyosys: in a process of its own (`python -m loralith.synth.yosys_process SCRIPT`), because an assertion in Yosys ends it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from loralith.toolchain import python_module

from .process import Progress, run_tool
from .synth_error import SynthError

__all__ = ["key_of", "run_script", "version"]

ADVICE = "pyosys 0.60 and 0.70 are known to stop at an assertion: `pip install pyosys==0.64`"


def run_script(
    path: Path, text: str, log: Path, timeout: float, *, progress: Progress, phase: Callable[[str], str | None] = lambda line: None
) -> float:
    """Writes a script to `path` and runs it in that folder, from which relative names in it count; returns the seconds it took.

    Raises SynthError. For the others see `run_tool`.
    """
    path.write_text(text, encoding="utf-8")
    command = python_module("loralith.synth.yosys_process", path.name)
    return run_tool("yosys", command, log, timeout, advice=ADVICE, phase=phase, progress=progress, folder=path.parent)


def key_of(*texts: str) -> str:
    """Name of what this version of Yosys makes of `texts`."""
    return hashlib.sha256("\n".join([*texts, version()]).encode()).hexdigest()[:16]


def version() -> str:
    """pyosys's. Raises SynthError where it is not installed."""
    try:
        return metadata.version("pyosys")
    except metadata.PackageNotFoundError:
        raise SynthError("pyosys is not installed; `pip install 'loralith[fpga]'` installs it") from None


def main(script: str) -> int:
    from pyosys import libyosys  # type: ignore[import-not-found]

    libyosys.run_pass(f"script {script}", libyosys.Design())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
