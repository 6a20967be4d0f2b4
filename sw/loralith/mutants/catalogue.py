"""The list of mutants, tests/mutants/mutants.toml: one text of the hardware's source each, and what stands there instead."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from loralith.errors import LoralithError
from loralith.files import FileError, read_text

__all__ = ["CONTROL", "RTL", "Mutant", "MutantError", "read_catalogue"]

REPO = Path(__file__).resolve().parents[3]
RTL = REPO / "hw" / "loralith" / "rtl"


class MutantError(LoralithError):
    """A mutant that cannot be made: its text does not stand in its module exactly once, or what comes of it is no hardware."""


@dataclass(frozen=True)
class Mutant:
    """`old` in `loralith.rtl.<module>` becomes `new`. `unit`: files of tests/unit/rtl to ask where the native tests see nothing."""

    name: str
    module: str
    old: str
    new: str
    unit: tuple[str, ...] = ()

    def source(self) -> str:
        """The module's mutated text. Raises MutantError."""
        path = RTL / f"{self.module}.py"
        if not path.is_file():
            raise MutantError(f"{self.name}: there is no loralith.rtl.{self.module}")
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise MutantError(f"{self.name}: {self.old!r} stands {text.count(self.old)} times in loralith.rtl.{self.module}, not once")
        return text.replace(self.old, self.new)


CONTROL = Mutant("control: nothing wrong", "top", "", "")
"""Not a mutant: the tests must pass on it, or no verdict says anything."""


def read_catalogue(path: Path) -> list[Mutant]:
    """The mutants of a file, in its order. Raises MutantError for an unknown or missing key, and for a name that stands twice."""
    mutants = []
    try:
        entries = tomllib.loads(read_text(path))["mutant"]
    except (FileError, tomllib.TOMLDecodeError) as error:
        raise MutantError(f"{path} is no list of mutants: {getattr(error, 'reason', error)}") from None
    except KeyError:
        raise MutantError(f"{path} is no list of mutants: it has no [[mutant]]") from None
    for entry in entries:
        try:
            mutants.append(Mutant(**{**entry, "unit": tuple(entry.get("unit", ()))}))
        except TypeError as error:
            raise MutantError(f"{path.name}, mutant {entry.get('name', '?')!r}: {error}") from None
    names = [mutant.name for mutant in mutants]
    for name in names:
        if names.count(name) > 1:
            raise MutantError(f"{path.name}: mutant {name!r} stands there twice")
    return mutants
