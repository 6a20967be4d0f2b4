"""State files of long work: what an earlier call measured, and the settings that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import check_output

__all__ = ["read_state"]

Kinds = type | tuple[type, ...]


def read_state(
    path: Path | None,
    what: str,
    settings: Mapping[str, Any],
    needs: Mapping[str, Kinds],
    error: type[LoralithError] = LoralithError,
) -> dict[str, Any] | None:
    """The JSON object in ``path``, or None without a path or a file there.

    ``what`` it is the state of, for messages. ``settings``: members that must have these values; None stands for any. ``needs``: types of
    further members. Raises ``error`` for a file of anything else and for one of other settings, each with both values; and FileError where
    there is no file and none could be written.
    """
    if path is None or not path.is_file():
        if path is not None:
            check_output(path)
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        there = {name: found[name] for name in settings}
        fits = all(isinstance(found[name], kind) for name, kind in needs.items())
    except (OSError, ValueError, KeyError, TypeError):
        fits, found, there = False, {}, {}
    if not fits:
        raise error(f"{path} is not the state of {what}; another file starts a new one")
    differ = [f"{name} {there[name]!r} (now {value!r})" for name, value in settings.items() if value is not None and there[name] != value]
    if differ:
        raise error(f"{path} is the state of {what} with other settings: {', '.join(differ)}; another file starts a new one")
    return found
