"""Runs an external tool: streams its output to a log, and turns failures into SynthError."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .synth_error import SynthError

__all__ = ["Progress", "run_tool"]

Progress = Callable[[str], None]
"""Receives one line of progress for the user."""


def run_tool(
    name: str,
    command: Sequence[str],
    log: Path,
    timeout: float,
    *,
    advice: str,
    phase: Callable[[str], str | None] = lambda line: None,
    progress: Progress = lambda line: None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> float:
    """Run `command`, stdout and stderr to `log`; returns the seconds it took.

    Parameters:
        name, advice: the tool, and what to do when it fails; for messages.
        timeout: seconds after which it is killed.
        folder: working folder (default: the current one).
        phase: turns a line of its output into a line of progress, or None; `progress` gets it with the elapsed time.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            cwd=folder,
        )
    except OSError as error:
        raise SynthError(f"{name} does not start: {error}; {advice}") from None
    expired = threading.Event()

    def kill() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(timeout, kill)
    timer.start()
    last: list[str] = []
    try:
        assert process.stdout is not None
        with log.open("w", encoding="utf-8", buffering=1) as file:
            for line in process.stdout:
                file.write(line)
                last = [*last[-7:], line.rstrip()]
                if shown := phase(line):
                    progress(f"{name}: {time.monotonic() - started:.0f} s: {shown}")
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if expired.is_set():
        raise SynthError(f"{name} was stopped after {timeout:.0f} s without a result; log: {log}; a longer --timeout lets it go on")
    if status != 0:
        how = f"was ended by signal {-status}" if status < 0 else f"exited with {status}"
        raise SynthError(f"{name} {how}; log: {log}; its last lines:\n" + "\n".join(last) + f"\n{advice}")
    return time.monotonic() - started
