"""What an adapter file holds, before anybody knows what it is of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralith.files import FileError, read_json
from loralith.formats.adapter_checks import AdapterError
from loralith.formats.run_folder import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE

__all__ = ["TEXT_ENCODER", "AdapterTensors", "adapter_path", "is_lycoris", "open_adapter"]

TEXT_ENCODER = ("text_encoder", "lora_te")
"""How names of tensors begin that are of a text encoder's layers, those of ComfyUI (`text_encoders.`) too."""
LYCORIS = ("lokr_", "hada_")
"""What LoKr's and LoHa's tensors are named after the layer."""


@dataclass(frozen=True)
class AdapterTensors:
    """A file's tensors by name and its header; ``config``: what lies beside it where the file is PEFT's."""

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, str]
    config: dict[str, Any] | None

    def of_text_encoders(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith(TEXT_ENCODER)}


def adapter_path(path: Path) -> Path:
    """The weights in a folder of PEFT or diffusers, else ``path``. Raises AdapterError for a folder with neither."""
    if not path.is_dir():
        return path
    found = next((path / name for name in (PEFT_FILE, DIFFUSERS_FILE) if (path / name).is_file()), None)
    if found is None:
        raise AdapterError(f"{path} does not hold a PEFT adapter or one of diffusers: there is no {PEFT_FILE} and no {DIFFUSERS_FILE}")
    return found


def open_adapter(path: Path) -> AdapterTensors:
    """Raises AdapterError for a missing or damaged file."""
    path = adapter_path(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} does not hold an adapter: {error}") from error
    return AdapterTensors(path, tensors, header, _json(path.with_name(PEFT_CONFIG)) if path.name == PEFT_FILE else None)


def is_lycoris(path: Path) -> bool:
    """Whether an adapter is LoKr or LoHa. Raises AdapterError for a missing or damaged file."""
    path = adapter_path(path)
    try:
        with safe_open(path, framework="pt") as file:
            return any(re.search(rf"\.({'|'.join(LYCORIS)})\w+$", name) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} does not hold an adapter: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path)
    except FileError as error:
        raise AdapterError(f"{path} does not hold a PEFT adapter: {error.reason}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path} does not hold a PEFT adapter: it is no JSON object")
    return config
