"""Files of tensors, and the checkpoints that a run resumes from.

Every file is written as `loralith.files` does it, whole or not at all. A checkpoint is one safetensors file: the tensors, and in its
header the settings, their hash, the step, any further JSON state and a SHA-256 of all tensors.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loralith.errors import LoralithError
from loralith.files import write_bytes

FORMAT = "loralith-checkpoint-1"


class CheckpointError(LoralithError):
    """A checkpoint that cannot be resumed from: missing, damaged, or of another run."""


@dataclass
class Checkpoint:
    """State after `step` completed steps; `extra` is any JSON value. settings: those that it was saved with, where it was loaded."""

    step: int
    tensors: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """The tensors by group and name: those that are stored as "group/name"."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            group, _, own = name.partition("/")
            found.setdefault(group, {})[own] = tensor
        return found


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Replaces `path` by a safetensors file; the same tensors give the same bytes."""
    write_bytes(tensor_bytes(tensors, metadata), path)


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """safetensors bytes with tensors and metadata by name."""
    plain = {name: tensors[name].detach().contiguous() for name in sorted(tensors)}
    found = save(plain, metadata=dict(metadata) if metadata else None)
    if metadata is None or len(metadata) < 2:
        return found
    length = int.from_bytes(found[:8], "little")  # safetensors itself does not order several entries
    header = json.loads(found[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + found[8 + length :]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the settings as canonical JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in order of name."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).numpy().tobytes())
    return total.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, settings: Mapping[str, Any], path: Path) -> None:
    """Replaces the checkpoint at `path`. `settings` is what must be the same for a later run to go on from it."""
    header = {
        "format": FORMAT,
        "settings": dict(settings),
        "settings_hash": settings_hash(settings),
        "step": checkpoint.step,
        "extra": checkpoint.extra,
        "digest": digest(checkpoint.tensors),
    }
    write_tensors(checkpoint.tensors, path, {"loralith": json.dumps(header, sort_keys=True, allow_nan=False)})


def load_checkpoint(path: Path, settings: Mapping[str, Any], *, may_differ: Collection[str] = ()) -> Checkpoint:
    """Reads a checkpoint of a run with the same settings, but for those named in `may_differ`.

    Raises CheckpointError for a file that is missing, truncated, altered or not a checkpoint, and for one of other settings, with both
    hashes and the fields that differ.
    """
    header, tensors = _read(path)
    if digest(tensors) != header["digest"]:
        raise CheckpointError(f"{path} is damaged: its tensors do not match the hash in it; remove it and start again")
    there, here = ({name: value for name, value in each.items() if name not in may_differ} for each in (header["settings"], settings))
    if settings_hash(there) != settings_hash(here):
        raise CheckpointError(
            f"{path} belongs to a run with settings {header['settings_hash']}, this run has {settings_hash(settings)}: "
            f"{describe_difference(there, here)}; give the same settings or another output folder"
        )
    return Checkpoint(header["step"], tensors, header["extra"], header["settings"])


def read_header(path: Path) -> dict[str, Any]:
    """A checkpoint's header: `settings`, `settings_hash`, `step`, `extra`. Raises CheckpointError as `load_checkpoint` does."""
    return _read(path, tensors=False)[0]


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}; start the run without --resume") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({error}); remove it and start again") from error
    try:
        header = json.loads(metadata["loralith"])
        form = header["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is a safetensors file but not a checkpoint of loralith; resume from a run's checkpoint") from error
    if form != FORMAT:
        raise CheckpointError(f"{path} has the format {form!r}, this version reads {FORMAT!r}")
    return header, found


def describe_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`rank is 8 there and 4 here, ...` for the fields that differ."""
    plain = json.loads(json.dumps(dict(here)))
    names = [name for name in sorted({*there, *plain}) if there.get(name) != plain.get(name)]
    return ", ".join(f"{name} is {there.get(name)!r} there and {plain.get(name)!r} here" for name in names)
