"""The RTL's blocks: how long each one's `elaborate` is, and which unit tests and formal harnesses import it."""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from loralith.verif.mutation.tested_blocks import rtl_imports

__all__ = ["LIMIT", "Block", "inventory"]

LIMIT = 90
"""Lines of an `elaborate` at most: what is longer becomes several blocks."""

_ROOT = Path(__file__).resolve().parents[3]
RTL, TESTS, PROOFS = _ROOT / "hw/loralith/rtl", _ROOT / "tests/unit", Path(__file__).with_name("formal") / "blocks"


@dataclass(frozen=True)
class Block:
    """A class with an `elaborate`.

    Attributes:
        name, file: of the class, and of its file below the RTL's folder.
        lines: of its `elaborate`, the signature included.
        tests, proofs: files of unit tests, and of formal harnesses, that import it by its name.
    """

    name: str
    file: str
    lines: int
    tests: tuple[str, ...]
    proofs: tuple[str, ...]

    @property
    def checked(self) -> bool:
        """It has a test or a proof of its own."""
        return bool(self.tests or self.proofs)


def inventory(rtl: Path = RTL, tests: Path = TESTS, proofs: Path = PROOFS) -> list[Block]:
    """All blocks, the one with the longest `elaborate` first.

    Raises:
        FileNotFoundError: there is no such folder, as in an installed package.
    """
    for folder in (rtl, tests, proofs):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there; a checkout has it")
    importers = [_importers(tests, tests.parent / "helpers"), _importers(proofs)]
    found = [
        Block(
            node.name,
            path.relative_to(rtl).as_posix(),
            part.end_lineno - part.lineno + 1,
            *(tuple(names[node.name]) for names in importers),
        )
        for path in sorted(rtl.rglob("*.py"))
        for node in _tree(path).body
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name == "elaborate" and part.end_lineno is not None
    ]
    return sorted(found, key=lambda block: (-block.lines, block.name))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _importers(folder: Path, helpers: Path | None = None) -> defaultdict[str, list[str]]:
    """The files below `folder` that import a name from `loralith.rtl`, by the name; what `helpers` import for them counts as well."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        for name in sorted({name for _, name in rtl_imports(path, helpers)}):
            found[name].append(path.relative_to(folder).as_posix())
    return found
