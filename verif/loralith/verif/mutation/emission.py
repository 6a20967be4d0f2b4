"""Whether a mutant changes what is emitted: the block that it is in is elaborated again, as the accelerator has it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

from amaranth.back import rtlil
from amaranth.hdl import Fragment
from amaranth.lib import wiring

from loralith.rtl.top import Loralith
from loralith.spec.config import PRESETS, Config

from .change import Edit
from .force import in_force

__all__ = ["Emission"]

SOURCES = re.compile(r"^\s*attribute \\src .*\n", re.MULTILINE)

Arguments = tuple[tuple, dict]


class Emission:
    """Netlists of the blocks of one accelerator, kept from mutant to mutant."""

    def __init__(self, config: Config = PRESETS["tiny"]) -> None:
        self._config = config
        self._netlists: dict[tuple[type, str], str] = {}

    @cached_property
    def made(self) -> dict[type, dict[str, Arguments]]:
        """Every class of block in the accelerator, with the different arguments that it is made with, by their text."""
        found: dict[type, dict[str, Arguments]] = {}

        def seen(block: type, arguments: tuple, keywords: dict) -> None:
            found.setdefault(block, {}).setdefault(repr((arguments, keywords)), (arguments, keywords))

        with _watched(seen):
            Fragment.get(Loralith(self._config), None)
        return found

    def changes(self, edit: Edit) -> bool:
        """Whether the netlist of the mutated block differs, or of any block that uses what was mutated.

        Raises whatever the mutated block raises where it is no hardware any more.
        """
        module = sys.modules[f"loralith.rtl.{edit.module}"]
        public = {id(vars(module)[name]) for name in vars(module)["__all__"]}
        own = [block for block in self.made if block.__module__ == module.__name__]
        own.sort(key=lambda block: block.__name__ != edit.block)
        users = [
            block
            for block in reversed(self.made)  # small ones first
            if block not in own and any(id(value) in public for value in vars(sys.modules[block.__module__]).values())
        ]
        if any(block.__name__ == edit.block for block in own):
            own, users = own[:1], []
        return any(self._differs(edit, block, text) for block in (*own, *users) for text in self.made[block])

    def _differs(self, edit: Edit, block: type, text: str) -> bool:
        key = (block, text)
        arguments = self.made[block][text]
        if key not in self._netlists:
            self._netlists[key] = _netlist(block, arguments)
        with in_force(edit) as changed:
            mutant = getattr(changed, block.__name__) if block.__module__ == f"loralith.rtl.{edit.module}" else block
            netlist = _netlist(mutant, arguments)
        return netlist != self._netlists[key]


def _netlist(block: type, arguments: Arguments) -> str:
    """RTLIL, the places in the sources left out."""
    return SOURCES.sub("", rtlil.convert(block(*arguments[0], **arguments[1]), emit_src=False))


@contextmanager
def _watched(seen: Callable[[type, tuple, dict], None]) -> Iterator[None]:
    """`seen(class, arguments, keywords)` for every block of the accelerator that is made."""
    undo = []
    for module in [m for name, m in sys.modules.items() if name.startswith("loralith.rtl.")]:
        for block in list(vars(module).values()):
            if isinstance(block, type) and issubclass(block, wiring.Component) and block.__module__ == module.__name__:
                undo.append((block, vars(block).get("__init__")))
                type.__setattr__(block, "__init__", _recording(block, block.__init__, seen))
    try:
        yield
    finally:
        for block, original in undo:
            if original is None:
                type.__delattr__(block, "__init__")
            else:
                type.__setattr__(block, "__init__", original)


def _recording(block: type, original: Callable, seen: Callable[[type, tuple, dict], None]) -> Callable:
    def __init__(self: object, *arguments: object, **keywords: object) -> None:
        if type(self) is block:
            seen(block, arguments, keywords)
        original(self, *arguments, **keywords)

    return __init__
