"""Docstrings give shapes as `[M, K] [K, N]`, which Markdown takes for a link: the API reference of the docs site shows them as they are."""

from __future__ import annotations

import re
from typing import Any

import griffe


class DocstringShapes(griffe.Extension):
    """Escapes a bracket that closes one shape or index where another opens behind it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"\](\s*)\[", r"\\]\1\\[", obj.docstring.value)
