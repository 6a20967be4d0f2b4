"""The list of mutants that `loralith mutate` runs, tests/mutants/mutants.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from loralith.files import FileError, read_text

from .change import Change, MutationError

__all__ = ["CATALOGUE", "CONTROL", "Mutant", "read_catalogue"]

CATALOGUE = Path(__file__).resolve().parents[4] / "tests" / "mutants" / "mutants.toml"


@dataclass(frozen=True)
class Mutant:
    """One thing wrong.

    Attributes:
        name: unique, what `--only` looks at. change: what is wrong; None: nothing.
        unit: files of tests/unit/rtl to ask where the native tests see nothing.
    """

    name: str
    change: Change | None
    unit: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Of loralith.rtl. Raises MutationError where the change does not apply."""
        return self.change.edit.module if self.change else "top"


CONTROL = Mutant("control: nothing wrong", None)
"""Not a mutant: the tests must pass on it, or no verdict says anything."""

CHANGE = {field.name for field in fields(Change)}


def read_catalogue(path: Path = CATALOGUE) -> list[Mutant]:
    """The mutants of a file, in its order. Raises MutationError for an unknown or missing key, and for a name that stands twice."""
    mutants = []
    try:
        entries = tomllib.loads(read_text(path))["mutant"]
    except (FileError, tomllib.TOMLDecodeError) as error:
        raise MutationError(f"{path} is no list of mutants: {getattr(error, 'reason', error)}") from None
    except KeyError:
        raise MutationError(f"{path} is no list of mutants: it has no [[mutant]]") from None
    for entry in entries:
        try:
            change = Change(**{key: value for key, value in entry.items() if key in CHANGE})
            rest = {key: value for key, value in entry.items() if key not in CHANGE}
            mutants.append(Mutant(change=change, **{**rest, "unit": tuple(entry.get("unit", ()))}))
        except TypeError as error:
            raise MutationError(f"{path.name}, mutant {entry.get('name', '?')!r}: {error}") from None
    names = [mutant.name for mutant in mutants]
    for name in names:
        if names.count(name) > 1:
            raise MutationError(f"{path.name}: mutant {name!r} stands there twice")
    return mutants
