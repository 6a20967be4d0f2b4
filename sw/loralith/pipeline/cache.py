"""Tensors that are computed once: a file for each, named by a hash of all that they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralith.formats.checkpoint import digest, write_tensors

__all__ = ["Cache"]

HEADER = "loralith"


class Cache:
    """``folder`` may be shared by runs: a file's name is the hash of its sources, which its header repeats with the tensors' own.

    Attributes: ``computed``, ``found``: how many tensors' sets were made and read so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.computed = self.found = 0

    def get(self, what: str, sources: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """``compute``'s tensors, or those that a file has of the same sources (JSON values). A damaged file is written anew."""
        text = json.dumps({"what": what, **sources}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        path = self.folder / f"{what}-{name[:32]}.safetensors"
        tensors = _read(path, text)
        if tensors is None:
            tensors = {name: tensor.detach().contiguous() for name, tensor in compute().items()}
            write_tensors(tensors, path, {HEADER: json.dumps({"sources": text, "digest": digest(tensors)})})
            self.computed += 1
        else:
            self.found += 1
        return tensors


def _read(path: Path, sources: str) -> dict[str, Tensor] | None:
    """None where the file is not there, is damaged, or is of other sources."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return tensors if header.get("sources") == sources and header.get("digest") == digest(tensors) else None
