"""What goes wrong in a campaign."""

from loralith.errors import LoralithError

__all__ = ["MutantError"]


class MutantError(LoralithError):
    """A mutant of which no model can be made, or tests that give no verdict."""
