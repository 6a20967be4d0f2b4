"""Options of the form NAME=VALUE,... ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loralith.errors import LoralithError

__all__ = ["pattern"]


def pattern(text: str, kind: Callable[[str], Any]) -> dict[str, Any]:
    """NAME=VALUE,... as a dictionary. Raises LoralithError that quotes the part that is not so."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            found[name] = kind(value)
        except ValueError:
            raise LoralithError(f"a pattern is NAME=VALUE with commas between, not {part!r}") from None
    return found
