"""The error of the placement passes."""

from loralith.errors import LoralithError

__all__ = ["PlacementError"]


class PlacementError(LoralithError):
    """A netlist or a delay file that a pass cannot work with, or a missing package; the message says which and what to do next."""
