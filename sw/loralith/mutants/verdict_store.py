"""What stages have found out about mutants, kept by all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loralith.files import write_text

__all__ = ["VerdictStore", "key_of"]


def key_of(*parts: str, files: Iterable[Path] = ()) -> str:
    """A key of texts and of the contents of files."""
    digest = hashlib.sha256(json.dumps(parts).encode())
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class VerdictStore:
    """Verdicts in a file, by key: what was found, empty where all passed, and the CPU seconds that it took.

    Parameters: known, verdicts that were kept elsewhere. Attributes: used, those that were asked for or found.
    """

    def __init__(self, file: Path, known: Mapping[str, Any]) -> None:
        self._file, self._new = file, False
        self.used: dict[str, list[Any]] = {}
        self._kept: dict[str, list[Any]] = dict(known)
        if file.is_file():
            self._kept |= json.loads(file.read_text(encoding="utf-8"))

    def get(self, key: str) -> tuple[str, float] | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        self.used[key] = kept
        return kept[0], kept[1]

    def put(self, key: str, found: str, seconds: float) -> None:
        self.used[key] = self._kept[key] = [found, round(seconds, 2)]
        self._new = True

    def save(self) -> None:
        """Writes the file, where something new was found."""
        if not self._new:
            return
        self._new = False
        write_text(json.dumps(self._kept, indent=0), self._file)
