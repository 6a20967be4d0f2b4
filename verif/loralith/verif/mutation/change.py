"""What a mutant is: the one place of a block that its pattern fits, and what stands there instead."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .pattern import find, parse, substitute
from .sites import RTL, SOC, locate, sites

__all__ = ["Change", "Edit", "MutationError"]


class MutationError(Exception):
    """A change that does not apply; the message says which place of which block was looked for, and how often it is there."""


@dataclass(frozen=True)
class Edit:
    """A piece of a file and the text for it.

    Attributes:
        block: the class or function in which it lies. path: the file. start, end: the piece, in bytes from the file's beginning.
        text: what replaces it.
    """

    block: str
    path: Path
    start: int
    end: int
    text: str

    @property
    def module(self) -> str:
        """Dotted name below `loralith.rtl`."""
        return ".".join(self.path.relative_to(RTL).with_suffix("").parts)

    @property
    def dotted(self) -> str:
        """The module's name."""
        if self.path.is_relative_to(SOC):
            return ".".join(("loralith.soc", *self.path.relative_to(SOC).with_suffix("").parts))
        return f"loralith.rtl.{self.module}"

    @property
    def old(self) -> str:
        """What stands there now."""
        return self.path.read_bytes()[self.start : self.end].decode()

    def source(self) -> str:
        """The file's mutated text."""
        content = self.path.read_bytes()
        return (content[: self.start] + f"({self.text})".encode() + content[self.end :]).decode()


@dataclass(frozen=True)
class Change:
    """In `block`, the expression `find` at the site `at` becomes `put`.

    Attributes:
        block: name of a class or function of `loralith.rtl`, else of `loralith.soc`, wherever it lies.
        at: where: what is assigned there (`count`, or more of its dotted name: `o.valid`) or the function that returns it; `if count` for
            the innermost `m.If`, `m.Elif` or `m.Else` around such an assignment and `outer if count` for the next one; `for name` for what
            a loop iterates over; `port name` for a member of a signature.
        find: a pattern (`pattern.find`), `_a` for the whole value. It must fit once, or `nth` (from 1) says where.
        put: the expression that takes its place, with the placeholders of `find`.
        says: a sentence: what is wrong with the mutant.
    """

    block: str
    at: str
    find: str
    put: str
    says: str
    nth: int = 0

    @property
    def label(self) -> str:
        return f"{self.block}, {self.at}: {self.find} -> {self.put}" + (f" ({self.nth})" if self.nth else "")

    @cached_property
    def edit(self) -> Edit:
        """Raises MutationError where the change does not apply."""
        defined = locate(self.block)
        if len(defined) != 1:
            raise MutationError(f"{self.label}: {len(defined)} classes or functions of loralith.rtl are named {self.block}, not one")
        path, root = defined[0]
        pattern = parse(self.find)
        places = [site for site in sites(root) if site.fits(self.at) and not (site.declares and isinstance(pattern, ast.Name))]
        if not places:
            raise MutationError(f"{self.label}: nothing in {self.block} is {self.at!r}")
        found = {}
        for site in places:
            for node, bindings in find(pattern, site.node):
                try:
                    text = ast.unparse(ast.fix_missing_locations(substitute(parse(self.put), bindings)))
                except KeyError as error:
                    raise MutationError(f"{self.label}: {error.args[0]} is not in the pattern") from None
                found[(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, text)] = (node, text)
        if not found or (self.nth == 0 and len(found) > 1) or self.nth > len(found):
            texts = "; ".join(sorted({ast.unparse(site.node) for site in places}))
            wanted = f"not {self.nth}" if self.nth > 1 else "not once"
            raise MutationError(f"{self.label}: the pattern fits {len(found)} times at {self.at!r} of {self.block}, {wanted}: {texts}")
        node, text = found[sorted(found)[max(self.nth, 1) - 1]]
        return edit_of(self.block, path, node, text)


def edit_of(block: str, path: Path, node: ast.expr, text: str) -> Edit:
    """`text` in place of `node`."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    lines = path.read_bytes().splitlines(keepends=True)
    start, end = (
        sum(map(len, lines[: row - 1])) + column for row, column in ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
    )
    return Edit(block, path, start, end, text)
