"""A pipeline's folder as `save_pretrained` writes it: what it is of, and that every part is there. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import FileError, read_json
from loralith.pipeline.families import FAMILIES, FamilyEntry

__all__ = ["INDEX", "ModelFolder", "PipelineError", "is_pipeline"]

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that training and sampling do without."""
WEIGHTS = ("diffusion_pytorch_model", "model")
HEADER_LIMIT = 100_000_000
"""Bytes that a safetensors header may have, as its own reader has it."""


class PipelineError(LoralithError):
    """A pipeline that cannot be trained; the message names the part and what would be right."""


def is_pipeline(folder: Path | None) -> bool:
    return folder is not None and (folder / INDEX).is_file()


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileError as error:
        raise PipelineError(f"{path} is not {what}: {error.reason}") from None
    if not isinstance(value, dict):
        raise PipelineError(f"{path} is not {what}: it is no JSON object")
    return value


@dataclass(frozen=True)
class ModelFolder:
    """``kind``: the pipeline's class by name. ``parts``: each part's (library, class) by name, without those that are not used."""

    path: Path
    kind: str
    parts: Mapping[str, tuple[str, str]]

    @property
    def entry(self) -> FamilyEntry:
        return FAMILIES[self.kind]

    @property
    def encoders(self) -> list[tuple[str, str]]:
        """(tokenizer, text encoder) of each text that the pipeline has."""
        return [pair for pair in self.entry.encoders if all(part in self.parts for part in pair)]

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """Raises PipelineError for what is no pipeline, for one of a family that is not supported, and for a part that is missing, cut
        short or made of custom code."""
        if not path.is_dir():
            raise PipelineError(f"model {path} is not a folder; give one that diffusers' save_pretrained wrote")
        if not is_pipeline(path):
            raise PipelineError(f"model {path} holds no pipeline: there is no {INDEX}; give a folder that save_pretrained wrote")
        index = _json(path / INDEX, "a pipeline's index")
        kind = str(index.get("_class_name"))
        if kind not in FAMILIES:
            raise PipelineError(f"{path / INDEX} is of a {kind}, which cannot be trained; {', '.join(FAMILIES)} can")
        parts: dict[str, tuple[str, str]] = {}
        for name, value in index.items():
            if name.startswith("_") or name in UNUSED or not isinstance(value, list) or value[:1] == [None]:
                continue
            library, own = value
            if library not in LIBRARIES:
                raise PipelineError(
                    f"{path / INDEX} has {name} from {library!r}, code of its own; parts of {' and '.join(LIBRARIES)} are read"
                )
            parts[name] = (library, own)
        for name in FAMILIES[kind].parts:
            if name not in parts:
                raise PipelineError(f"{path / INDEX} has no {name}, which a {kind} needs; save the whole pipeline")
        folder = cls(path, kind, parts)
        for name, (_, own) in parts.items():
            folder._check_part(name, own)
        return folder

    def check_method(self, method: str) -> None:
        """Raises PipelineError for a method that the family does not support."""
        if method == "hollowed-net" and self.entry.denoiser != "unet":
            known = ", ".join(kind for kind, entry in FAMILIES.items() if entry.denoiser == "unet")
            raise PipelineError(
                f"method hollowed-net leaves out a U-Net's inner blocks, and a {self.kind} has a transformer; {known} have one"
            )
        if method == "zoodip" and not self.entry.textual_inversion:
            known = ", ".join(kind for kind, entry in FAMILIES.items() if entry.textual_inversion)
            raise PipelineError(f"method zoodip trains an embedding of one text encoder, which a {self.kind} is not drawn by; {known} is")

    def _check_part(self, name: str, own: str) -> None:
        folder = self.path / name
        if not folder.is_dir():
            raise PipelineError(f"{self.path} lacks the folder {name}, a {own} of its {INDEX}; save the whole pipeline")
        if name == "scheduler":
            _json(folder / "scheduler_config.json", "a scheduler's configuration")
        elif name.startswith("tokenizer"):
            names = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
            if not any((folder / file).is_file() for file in names):
                raise PipelineError(f"{folder} holds no vocabulary: none of {', '.join(names)} is there; save the whole pipeline")
        else:
            _json(folder / "config.json", f"the configuration of a {own}")
            for path in self.weights(name):
                _check_weights(path)

    def elements(self) -> int:
        """Values of all weights."""
        models = [name for name in self.parts if name != "scheduler" and not name.startswith("tokenizer")]
        return sum(_check_weights(path) for name in models for path in self.weights(name))

    def weights(self, name: str) -> list[Path]:
        """A part's safetensors files. Raises PipelineError where one is missing."""
        folder = self.path / name
        for stem in WEIGHTS:
            whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
            if whole.is_file():
                return [whole]
            if index.is_file():
                files = sorted({str(file) for file in _json(index, "an index of weights").get("weight_map", {}).values()})
                lost = [file for file in files if not (folder / file).is_file()]
                if lost or not files:
                    raise PipelineError(f"{folder} lacks {lost[0] if lost else 'weights'}, which {index.name} names; copy it there")
                return [folder / file for file in files]
        other = sorted([*folder.glob("*.bin"), *folder.glob("*.fp16.safetensors")])
        advice = (
            f"{other[0].name} is not read; save the pipeline without a variant and with safe_serialization" if other else "copy it there"
        )
        raise PipelineError(f"{folder} holds no weights: there is no {WEIGHTS[0]}.safetensors or {WEIGHTS[1]}.safetensors; {advice}")

    def config(self, part: str) -> dict[str, Any]:
        """A model's configuration."""
        return _json(self.path / part / "config.json", "a configuration")

    def digest(self, *parts: str) -> str:
        """SHA-256 over the configurations, vocabularies and weights of some parts, or of all and the pipeline's class."""
        total = hashlib.sha256(b"" if parts else self.kind.encode())
        for part in sorted(parts or self.parts):
            for path in sorted((self.path / part).iterdir()):
                if path.suffix not in (".json", ".txt", ".safetensors", ".model") or not path.is_file():
                    continue
                total.update(f"{part}/{path.name} {path.stat().st_size};".encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 22):
                        total.update(block)
        return total.hexdigest()


def _check_weights(path: Path) -> int:
    """The values in a safetensors file. Raises PipelineError for one that is cut short or none."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(HEADER_LIMIT, size):
                raise ValueError("its header has no length that fits")
            header = json.loads(file.read(length))
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        ends, counts = [entry["data_offsets"][1] for entry in entries], [math.prod(entry["shape"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise PipelineError(f"{path} is not a safetensors file, or is cut short ({error}); copy it again") from None
    if 8 + length + max(ends, default=0) != size:
        raise PipelineError(f"{path} has {size:,} bytes and its header speaks of {8 + length + max(ends, default=0):,}; copy it again")
    return sum(counts)
