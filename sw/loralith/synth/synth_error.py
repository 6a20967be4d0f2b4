"""The error of synthesis, placement and routing."""

from loralith.errors import LoralithError

__all__ = ["SynthError"]


class SynthError(LoralithError):
    """An unknown board, a missing tool, a design that does not fit, a tool that failed; the message says which and what to do next."""
