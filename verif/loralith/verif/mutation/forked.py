"""A function in a process of its own that begins as a copy of this one: what a mutant does to it, no other mutant sees."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

__all__ = ["Died", "forked"]


class Died(Exception):
    """The process gave no answer; the message says how it ended."""


def forked(function: Callable[[], str], seconds: int) -> str:
    """What ``function`` returns. Raises Died where its process ends without, or after so many seconds; and RuntimeError with the
    traceback where ``function`` raises."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        try:
            text = "=" + function()
        except BaseException:
            text = "!" + traceback.format_exc()
        try:
            data = text.encode()
            while data:
                data = data[os.write(into, data) :]
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if text.startswith("="):
        return text[1:]
    if text.startswith("!"):
        raise RuntimeError(text[1:])
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        raise Died(f"no end within {seconds} s")
    raise Died(f"ended by signal {-code}" if code < 0 else f"ended with {code}")
