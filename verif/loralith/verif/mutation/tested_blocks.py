"""What of the RTL a test file imports, by itself or by way of the helpers that it shares with others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["rtl_imports"]


def rtl_imports(path: Path, helpers: Path | None = None) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that the file imports from `loralith.rtl`, and that its modules of the folder ``helpers`` import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.startswith("loralith.rtl."):
            yield from ((node.module, alias.name) for alias in node.names)
        elif helpers is not None and node.module.startswith("helpers."):
            yield from rtl_imports(helpers / f"{node.module.removeprefix('helpers.')}.py", helpers)
