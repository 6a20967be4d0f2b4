"""Why a mutant survives: tests/mutants/survivors.toml, written by whoever has understood it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from loralith.files import FileError, read_text
from loralith.mutants.mutant_error import MutantError

__all__ = ["SURVIVORS", "read_survivors"]

SURVIVORS = Path(__file__).resolve().parents[3] / "tests" / "mutants" / "survivors.toml"


def read_survivors(path: Path = SURVIVORS) -> dict[str, str]:
    """The reason of each mutant, by its name: tables `[[survivor]]` of `mutants`, a list of names, and `reason`.

    Raises MutantError for any other file, and for a mutant that has two reasons.
    """
    try:
        entries = tomllib.loads(read_text(path)).get("survivor", [])
    except (FileError, tomllib.TOMLDecodeError) as error:
        raise MutantError(f"{path} is no list of survivors: {getattr(error, 'reason', error)}") from None
    reasons: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        names, reason = entry.get("mutants"), entry.get("reason")
        if set(entry) != {"mutants", "reason"} or not isinstance(names, list) or not names or not isinstance(reason, str) or not reason:
            raise MutantError(f"{path.name}, survivor {number}: it must have mutants, a list of names, and reason, a text")
        for name in names:
            if name in reasons:
                raise MutantError(f"{path.name}: mutant {name!r} stands there twice")
            reasons[name] = reason
    return reasons
