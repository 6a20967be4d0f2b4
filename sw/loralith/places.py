"""Where boards, recorded results and the C header lie, in a checkout and in an installed package, and where builds go."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["builds", "checkout", "data"]

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = _PACKAGE / "_checkout"
"""The folder of a wheel that holds such files, at their paths in the checkout."""


def checkout() -> Path | None:
    """The root of the checkout that this is, None for an installed package."""
    root = _PACKAGE.parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "gen" / "loralith").is_dir() else None


def data(path: str) -> Path:
    """What lies at ``path`` below the checkout's root; in an installed package the copy that came with it."""
    return (checkout() or INSTALLED) / path


def builds() -> Path:
    """Where builds are kept: `build` of a checkout, else `loralith` in the user's cache folder."""
    root = checkout()
    if root is not None:
        return root / "build"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loralith"
