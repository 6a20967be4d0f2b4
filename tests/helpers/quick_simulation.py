"""A quicker simulator for the tests of blocks: the Python that Amaranth makes of a block, with two changes that give the same values.

Amaranth writes a function for each process of a design. At its end every signal that the process drives is updated by a call, though few
change in a cycle; here a comparison goes before the call. And a mask that stands twice is applied once. What has been compiled is kept,
since tests elaborate the same blocks again and again. Where another Amaranth writes other lines, they stay as they are.
"""

import builtins
import functools
import re
from types import CodeType

from amaranth.sim import _pyrtl

__all__ = ["install", "quicker"]

UPDATE = re.compile(r"^( *)slots\[(\d+)\]\.update\(next_\2, (-?\d+)\)$", re.MULTILINE)
TWICE = re.compile(r"^( *\w+ = )(0x[0-9a-f]+) & \(\2 & (.*)\)$", re.MULTILINE)


def quicker(source: str) -> str:
    """The function with the changes. An update that changes nothing has no effect, partial masks included."""
    source = UPDATE.sub(r"\1if slots[\2].next != next_\2: slots[\2].update(next_\2, \3)", source)
    return TWICE.sub(r"\1\2 & (\3)", source)


@functools.lru_cache(maxsize=4096)
def _compiled(source: str, filename: str, mode: str) -> CodeType:
    return builtins.compile(quicker(source), filename, mode)


def install() -> None:
    """From now on in this process; the module's own name hides the built-in `compile` from it."""
    _pyrtl.compile = _compiled  # type: ignore[attr-defined]
