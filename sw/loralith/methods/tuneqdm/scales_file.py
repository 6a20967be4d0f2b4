"""The file of trained scales: safetensors with `<layer>.s_out` [experts, O] and `<layer>.s_in` [experts, I]; its header says what they fit.

Codes are not in it: they follow from the model's weights and the bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralith.errors import LoralithError
from loralith.formats.checkpoint import write_tensors
from loralith.methods.tuneqdm.code_layers import Tuned

__all__ = ["FORMAT", "ScalesError", "load_scales", "read_header", "save_scales"]

FORMAT = "loralith-scales-1"


class ScalesError(LoralithError):
    """A file of scales that is missing, damaged, or of another model, number of experts or of bits."""


def _header(layers: Mapping[str, Tuned], model: str) -> dict[str, object]:
    first = next(iter(layers.values()))
    return {"format": FORMAT, "experts": first.router.experts, "bits": first.bits, "model": model}


def _tensors(layers: Mapping[str, Tuned]) -> dict[str, Tensor]:
    named = {}
    for name, tuned in layers.items():
        named |= {f"{name}.s_out": torch.stack(list(tuned.s_out)), f"{name}.s_in": torch.stack(list(tuned.s_in))}
    return named


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["loralith"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise ScalesError(f"{path} has format {header['format']!r}, this version reads {FORMAT!r}")
    except FileNotFoundError:
        raise ScalesError(f"there are no scales at {path}") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ScalesError(f"{path} is damaged or not a file of scales ({error})") from error
    return header, tensors


def read_header(path: Path) -> dict[str, Any]:
    """What a file says it fits: `experts`, `bits`, and `model`, a digest. Raises ScalesError."""
    return _read(path)[0]


def save_scales(layers: Mapping[str, Tuned], model: str, path: Path) -> None:
    """Writes the scales of all experts, for the model of digest ``model``, whole or not at all."""
    write_tensors(_tensors(layers), path, {"loralith": json.dumps(_header(layers, model), sort_keys=True)})


@torch.no_grad()
def load_scales(layers: Mapping[str, Tuned], model: str, path: Path) -> None:
    """Copies the scales of a file into ``layers``. Raises ScalesError, before anything is changed, for what does not fit."""
    header, tensors = _read(path)
    for name, own in _header(layers, model).items():
        if header.get(name) != own:
            raise ScalesError(f"{path} has {name} {header.get(name)!r}, this run has {own!r}")
    wanted = _tensors(layers)
    for name in sorted({*tensors, *wanted}):
        there, here = tensors.get(name), wanted.get(name)
        if there is None or here is None or there.shape != here.shape or not there.isfinite().all():
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (there, here)]
            raise ScalesError(f"{path} has {name} of shape {shapes[0]}, this model {shapes[1]}; values must be finite")
    for layer, tuned in layers.items():
        for kind, parameters in (("s_out", tuned.s_out), ("s_in", tuned.s_in)):
            for parameter, value in zip(parameters, tensors[f"{layer}.{kind}"], strict=True):
                parameter.copy_(value)
