"""One fine-tune in a process of its own, which gets SIGKILL somewhere, and what its folder holds then.

The process is forked from one that has torch and diffusers loaded, so that a kill costs a part of the run and no imports. Nothing but the
folder goes from a killed process to the one that resumes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import loralith.files as files
from loralith.errors import LoralithError
from loralith.formats.run_folder import CHECKPOINT, DIFFUSERS_FILE, PEFT_FILE, PICTURE, REPORT
from loralith.methods.settings import FinetuneSettings

__all__ = ["MOMENTS", "PLACES", "AtTime", "InWrite", "KilledRunError", "Usage", "folder_place", "run", "train"]

MOMENTS = ("empty", "half", "whole", "renamed")
"""Of a write: the new file is there and empty; it has half of its bytes; all of them, under a temporary name; its name is the right one."""

PLACES = ("start", "checkpoint write", "step or look", "evaluation at the end", "result write", "between results")
"""Where a kill falls, as the folder shows it: before the first checkpoint begins; while one is written; after one, with steps left to
do, looks at the adapter included; after the last one; while another file is written; when some of the results are there."""

TIMEOUT = 600.0
"""Seconds after which a run that nobody kills counts as hung."""


class KilledRunError(LoralithError):
    """A run that fails by itself, or hangs."""


@dataclass(frozen=True)
class AtTime:
    """A kill from outside, once the process has used so many CPU seconds."""

    seconds: float


@dataclass(frozen=True)
class InWrite:
    """A kill in the ``number``-th file that the process writes (from 0), at one of `MOMENTS`."""

    number: int
    moment: str


@dataclass(frozen=True)
class Usage:
    """What a process used. ``killed``: whether the kill ended it; ``writes``: files that it wrote, None if killed."""

    cpu_seconds: float
    killed: bool
    writes: int | None


def train(settings: FinetuneSettings) -> None:
    """The fine-tune of the command: a new run, or `--resume` with the settings of the checkpoint, where the folder has one."""
    from loralith.device import open_device
    from loralith.training.attaching import attacher
    from loralith.training.loop import finetune
    from loralith.training.resume import stored_settings

    found = stored_settings(settings.output)
    if found is not None:
        settings = replace(found[0], verify=settings.verify)
    assert settings.config is not None
    with open_device(settings.device, settings.config) as device:
        finetune(settings, attacher(device, settings.verify), resume=found is not None)


def run(settings: FinetuneSettings, kill: AtTime | InWrite | None) -> Usage:
    """`train` in a forked process. Raises KilledRunError where it fails by itself, with its last lines."""
    log = settings.output.with_suffix(".log")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(settings, kill, log, writer)
    os.close(writer)
    try:
        if isinstance(kill, AtTime):
            _kill_at(child, kill.seconds)
        status, cpu = _ended(child)
        writes = os.read(reader, 16)
    finally:
        os.close(reader)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if status != 0 and not (killed and kill is not None):
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        raise KilledRunError(f"the run in {settings.output} ended with status {status} by itself: {text.strip()[-2000:]}")
    return Usage(cpu, killed, int(writes) if writes else None)


def _in_child(settings: FinetuneSettings, kill: AtTime | InWrite | None, log: Path, writer: int) -> None:
    """Does not return."""
    try:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        written = _count_writes(kill if isinstance(kill, InWrite) else None)
        train(settings)
        os.write(writer, str(written()).encode())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _count_writes(kill: InWrite | None) -> Callable[[], int]:
    """Counts this process's files from here on, and kills it in one of them; returns what gives their number."""
    create, rename, done = files._create, os.replace, 0

    def created(part: Path, content: bytes) -> None:
        nonlocal done
        now = kill is not None and kill.number == done
        done += 1
        if now and kill is not None and kill.moment in ("empty", "half"):
            content = content[: len(content) // 2] if kill.moment == "half" else b""
        create(part, content)
        if now and kill is not None and kill.moment != "renamed":
            os.kill(os.getpid(), signal.SIGKILL)

    def renamed(source: Path, target: Path) -> None:
        rename(source, target)
        if kill is not None and kill.number == done - 1 and kill.moment == "renamed":
            os.kill(os.getpid(), signal.SIGKILL)

    files._create = created
    os.replace = renamed
    return lambda: done


def _kill_at(child: int, seconds: float) -> None:
    """SIGKILL once the child has used so many CPU seconds, if it has not ended before."""
    schedule = Path(f"/proc/{child}/schedstat")
    while True:
        try:
            used = int(schedule.read_bytes().split()[0]) / 1e9
        except (OSError, IndexError):
            used = seconds  # no such figures on this system: at once
        if used >= seconds:
            break
        found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            return
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)


def _ended(child: int) -> tuple[int, float]:
    """Wait for the child: its status and CPU seconds. Raises KilledRunError, and kills it, where it hangs."""
    started = time.monotonic()
    while True:
        process, status, usage = os.wait4(child, os.WNOHANG)
        if process:
            return status, usage.ru_utime + usage.ru_stime
        if time.monotonic() - started > TIMEOUT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise KilledRunError(f"a run did not end within {TIMEOUT:.0f} s")
        time.sleep(0.002)


def folder_place(folder: Path, steps: int) -> str:
    """Which of `PLACES` the files of a killed run show; ``steps`` is the step at which the run would be trained."""
    from loralith.formats.checkpoint import read_header

    parts = [path.name for path in folder.glob(".*.part")] if folder.is_dir() else []
    if any(name.startswith(f".{CHECKPOINT}.") for name in parts):
        return "checkpoint write"
    if any(not name.startswith(".probe.") for name in parts):
        return "result write"
    if not (folder / CHECKPOINT).exists():
        return "start"
    if any((folder / name).exists() for name in (PEFT_FILE, DIFFUSERS_FILE, PICTURE, REPORT)):
        return "between results"
    return "evaluation at the end" if read_header(folder / CHECKPOINT)["step"] >= steps else "step or look"
