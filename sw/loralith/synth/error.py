"""The error of synthesis, placement and routing."""

from loralith.errors import LoralithError

__all__ = ["SynthError"]


class SynthError(LoralithError):
    """A board or tool that is not there, a design that does not fit, a tool that failed; the message says which and what to do next."""
