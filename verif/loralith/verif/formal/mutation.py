"""Mutants: a block with one thing wrong, made from its source text."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = ["Mutant", "MutantError", "in_force"]


class MutantError(Exception):
    """The text that a mutant changes does not stand in its module exactly once; the message names both."""


@dataclass(frozen=True)
class Mutant:
    """``old`` in the source of ``loralith.rtl.<module>``, where it must stand once, becomes ``new``. ``kills``: the claim that fails."""

    kills: str
    module: str
    old: str
    new: str

    @property
    def label(self) -> str:
        return f"{self.module}: {self.old} -> {self.new}"


@contextmanager
def in_force(mutant: Mutant | None) -> Iterator[None]:
    """Every module of loralith that knows a class of the mutated module knows the mutated class instead, until the end of the block."""
    if mutant is None:
        yield
        return
    module = importlib.import_module(f"loralith.rtl.{mutant.module}")
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise MutantError(f"{mutant.old!r} stands {source.count(mutant.old)} times in loralith.rtl.{mutant.module}, not once")
    changed = ModuleType(module.__name__)
    changed.__file__, changed.__package__ = module.__file__, module.__package__
    with _registered(changed):  # classes look their annotations up in their module
        code = compile(source.replace(mutant.old, mutant.new), str(module.__file__), "exec", dont_inherit=True)
        exec(code, vars(changed))
    replaced = {id(vars(module)[name]): vars(changed)[name] for name in vars(module)["__all__"]}
    undo = []
    for other in [m for name, m in sys.modules.items() if name.startswith("loralith.")]:
        for name, value in list(vars(other).items()):
            if id(value) in replaced:
                undo.append((other, name, value))
                setattr(other, name, replaced[id(value)])
    try:
        yield
    finally:
        for other, name, value in undo:
            setattr(other, name, value)


@contextmanager
def _registered(module: ModuleType) -> Iterator[None]:
    original = sys.modules[module.__name__]
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        sys.modules[module.__name__] = original
