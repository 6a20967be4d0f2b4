"""Which RTL a result was measured on: a hash of the hardware's code, whatever its comments say."""

import ast
import hashlib
from collections.abc import Mapping
from importlib import util
from pathlib import Path

__all__ = ["hash_of", "rtl_hash"]


def rtl_hash() -> str:
    """Of the RTL that is installed; empty where there is none."""
    spec = util.find_spec("loralith.rtl")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    sources = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py")}
    return hash_of(sources) if sources else ""


def hash_of(sources: Mapping[str, str]) -> str:
    """8 hexadecimal digits of the SHA-256 of Python sources by name, without comments, docstrings and layout; the same for every
    version of Python that reads them."""
    total = hashlib.sha256()
    for name in sorted(sources):
        total.update(f"{name}\n{_code(ast.parse(sources[name]))}\n".encode())
    return total.hexdigest()[:8]


def _code(node: object) -> str:
    """`ast.dump` without fields that are empty, which some versions of Python have and others have not, and without lone strings."""
    if isinstance(node, ast.AST):
        inner = {name: value for name, value in ast.iter_fields(node) if value is not None and value != [] and name != "kind"}
        return f"{type(node).__name__}({', '.join(f'{name}={_code(value)}' for name, value in inner.items())})"
    if isinstance(node, list):
        return f"[{', '.join(_code(item) for item in node if not _is_text(item))}]"
    return repr(node)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
