"""The base of the driver's errors."""

from typing import ClassVar

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class LoralithError(Exception):
    """An error with a message for the person at the command line: it says what is wrong, with which value, and what mends it.

    The command line prints it as `error: <message>` and exits with `exit_status`. What is neither this nor an answer of the outside world
    (`cli.EXPECTED`) is a defect and keeps its traceback.
    """

    exit_status: ClassVar[int] = 2


class StopRequested(LoralithError):
    """Work that Ctrl-C or a termination signal ended at a point that it can go on from, or before it had any."""

    exit_status = INTERRUPTED
