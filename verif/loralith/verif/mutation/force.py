"""A mutant in force in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from .change import Edit

__all__ = ["in_force", "mutated"]


def mutated(edit: Edit) -> ModuleType:
    """The mutated module, which no other module knows."""
    module = importlib.import_module(edit.dotted)
    changed = ModuleType(module.__name__)
    changed.__file__, changed.__package__ = module.__file__, module.__package__
    sys.modules[module.__name__] = changed  # classes look their annotations up in their module
    try:
        exec(compile(edit.source(), str(edit.path), "exec", dont_inherit=True), vars(changed))
    finally:
        sys.modules[module.__name__] = module
    return changed


@contextmanager
def in_force(edit: Edit | None) -> Iterator[ModuleType | None]:
    """Every module of loralith that knows a public name of the mutated module knows the mutated one instead, until the block's end."""
    if edit is None:
        yield None
        return
    changed = mutated(edit)
    module = sys.modules[changed.__name__]
    replaced = {id(vars(module)[name]): vars(changed)[name] for name in vars(module)["__all__"]}
    undo = []
    for other in [m for name, m in sys.modules.items() if name.startswith("loralith.")]:
        for name, value in list(vars(other).items()):
            if id(value) in replaced:
                undo.append((other, name, value))
                setattr(other, name, replaced[id(value)])
    try:
        yield changed
    finally:
        for other, name, value in undo:
            setattr(other, name, value)
