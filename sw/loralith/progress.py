"""How far slow work is, as messages of Python's `logging`, which the command line prints and a program may turn on; and Ctrl-C that ends
it in good order."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["LOGGER", "Steps", "every", "stop_on_interrupt", "tell"]

LOGGER = logging.getLogger("loralith")
PAUSE = 5.0
"""Seconds between two messages; what is done before says nothing."""


def tell(message: str) -> None:
    """Say what begins now."""
    LOGGER.info(message)


class Steps:
    """Counts the steps of one piece of work and says, now and then, how many are done and about how long the others take.

    what: names the work. total: its steps.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.began = self.told = time.monotonic()

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.monotonic()
        if now - self.told >= PAUSE and self.done < self.total:
            self.told = now
            left = (now - self.began) / self.done * (self.total - self.done)
            LOGGER.info("%s: %d of %d, about %.0f s left", self.what, self.done, self.total, left)


@contextmanager
def every(seconds: float, message: Callable[[float], str]) -> Iterator[None]:
    """Inside, say ``message`` of the seconds since the start, each time that so many have passed: for work that counts no steps."""
    done, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not done.wait(seconds):
            LOGGER.info(message(time.monotonic() - began))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C or a termination signal has come; a second Ctrl-C stops at once with KeyboardInterrupt.

    For the main thread only, as Python's signal handlers are.
    """
    asked = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
