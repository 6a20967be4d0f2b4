"""An adapter's layers and tensors, whatever file they are from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from loralith.formats.adapter_checks import AdapterError, readable, scalar

__all__ = ["Adapter", "Layer", "found_layers", "once"]

PEFT_PREFIX, DIFFUSERS_PREFIX, KOHYA_PREFIX, COMFY_PREFIX = "base_model.model.", "unet.", "lora_unet_", "diffusion_model."
LYCORIS_PREFIX = "lycoris_"
TRANSFORMER_PREFIX = "transformer."
"""Of diffusers' names in files of pipelines without a U-Net."""
MIDDLE = ".lora_mid.weight"
MAGNITUDE, DORA_SCALE = ".lora_magnitude_vector", ".dora_scale"

PEFT_ENDS, KOHYA_ENDS = (".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")


@dataclass(frozen=True)
class Layer:
    """A of [r, I], B of [O, r] (further dimensions for a convolution's), and alpha; of DoRA ``magnitude``, [O], a convolution's
    [1, O, 1, 1]."""

    a: Tensor
    b: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """A U-Net's or a transformer's adapter: layers by the module's name, and whether its scale is alpha / sqrt(r) (rsLoRA) instead of
    alpha / r.

    ``left_out``: layers of text encoders that the file has too. ``metadata``: what else its header says, which written files keep.
    """

    layers: Mapping[str, Layer]
    rslora: bool = False
    source: str = ""
    left_out: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def dora(self) -> bool:
        """Whether it is DoRA, which all of its layers then are."""
        return any(layer.magnitude is not None for layer in self.layers.values())

    def config(self) -> LoraConfig:
        """PEFT's configuration: the most common rank and alpha, and patterns for the others."""
        ranks, alphas = ({name: getattr(layer, key) for name, layer in self.layers.items()} for key in ("rank", "alpha"))
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        return LoraConfig(
            r=rank,
            lora_alpha=_whole(alpha),
            rank_pattern={f"^{name}": r for name, r in ranks.items() if r != rank},
            alpha_pattern={f"^{name}": _whole(a) for name, a in alphas.items() if a != alpha},
            use_rslora=self.rslora,
            use_dora=self.dora,
            lora_dropout=0.0,
            bias="none",
            target_modules=sorted(self.layers),
            inference_mode=True,
        )

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """A and B, and DoRA's magnitudes, under PEFT's names after ``prefix``."""
        named = {}
        for name, layer in self.layers.items():
            named |= {f"{prefix}{name}.lora_A.weight": layer.a, f"{prefix}{name}.lora_B.weight": layer.b}
            named |= {} if layer.magnitude is None else {f"{prefix}{name}{MAGNITUDE}": layer.magnitude}
        return named


def _whole(value: float) -> Any:
    """PEFT declares alpha an integer but scales by any number."""
    return int(value) if float(value).is_integer() else value


Found = tuple[Tensor, Tensor, float | None, Tensor | None]


def found_layers(tensors: Mapping[str, Tensor], ends: Sequence[tuple[str, str]], path: Path) -> dict[str, Found]:
    """(A, B, alpha or None, DoRA's magnitudes or None) by what stands before their endings, one of ``ends`` and `.alpha`; every tensor is
    in one of them."""
    found: dict[str, Found] = {}
    known: set[str] = set()
    for a, b in ends:
        for name in [name.removesuffix(a) for name in tensors if name.endswith(a)]:
            if name + b not in tensors:
                raise AdapterError(f"{path} lacks the tensor {name}{b}")
            alpha = tensors.get(f"{name}.alpha")
            factors = readable(tensors[name + a], f"A of {name}", path), readable(tensors[name + b], f"B of {name}", path)
            if name + MIDDLE in tensors:
                factors = _folded(factors[0], readable(tensors[name + MIDDLE], f"the middle of {name}", path), name, path), factors[1]
                known.add(name + MIDDLE)
            magnitude = next((tensors[name + end] for end in (MAGNITUDE, DORA_SCALE) if name + end in tensors), None)
            found[name] = (
                *factors,
                None if alpha is None else scalar(alpha, f"{name}.alpha", path),
                None if magnitude is None else readable(magnitude, f"magnitudes of {name}", path),
            )
            known |= {name + ending for ending in (a, b, ".alpha", MAGNITUDE, DORA_SCALE)}
    for name in tensors:
        if name not in known:
            raise AdapterError(f"{path} has the tensor {name}, which is none of a LoRA layer's")
    return found


def _folded(down: Tensor, mid: Tensor, name: str, path: Path) -> Tensor:
    """LoCon's A [r, I, ...] of `lora_down` [r, I, 1, ...] and `lora_mid` [r, r, ...], in FP32 and back."""
    rank = down.shape[0] if down.ndim else 0
    if mid.ndim < 3 or tuple(mid.shape[:2]) != (rank, rank) or down.ndim != mid.ndim or any(size != 1 for size in down.shape[2:]):
        raise AdapterError(
            f"{path}: {name} has a middle factor of shape {list(mid.shape)} and A of {list(down.shape)}; [r, r, kernel] goes"
        )
    return torch.einsum("rs...,si->ri...", mid.float(), down.float().flatten(1)).to(down.dtype)


def once(names: Mapping[str, str], path: Path) -> None:
    """Raises AdapterError where two of the file's names (the keys) are the same layer's or tensor's."""
    seen: dict[str, str] = {}
    for own, name in names.items():
        if name in seen:
            raise AdapterError(f"{path} has {name} twice, as {seen[name]} and as {own}")
        seen[name] = own
