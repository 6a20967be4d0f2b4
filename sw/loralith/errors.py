"""The base of the driver's errors."""

from typing import ClassVar

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class LoralithError(Exception):
    """An error with a message for the person at the command line: it says what is wrong, with which value, and what mends it.

    The command line prints it as `error: <message>` and exits with `status`. What is neither this nor an answer of the outside world
    (`cli.EXPECTED`) is a defect and keeps its traceback.
    """

    status: ClassVar[int] = 2
