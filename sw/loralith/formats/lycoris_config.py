"""PEFT's configuration of a LoKr or LoHa adapter, found from its factors: PEFT derives their shapes from it anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig
from peft.tuners import loha, lokr
from peft.tuners.lokr.layer import factorization
from torch import nn

from loralith.formats.adapter_checks import AdapterError
from loralith.formats.lycoris_layers import KINDS, FactorAdapter, FactorLayer

__all__ = ["peft_config"]


def peft_config(adapter: FactorAdapter, modules: Mapping[str, tuple[int, ...]]) -> LoKrConfig | LoHaConfig:
    """The configuration under which stock PEFT makes factors of these shapes and scales.

    ``modules``: shapes of the model's weights by name. Raises AdapterError where there is none, naming a layer.
    """
    lokr_adapter = adapter.kind == "lokr"
    ranks = {name: _rank(layer, modules[name]) for name, layer in adapter.layers.items()}
    alphas = {name: layer.scale * ranks[name] for name, layer in adapter.layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    middle = ("lokr_t2",) if lokr_adapter else ("hada_t1",)
    settings: dict[str, Any] = {
        "r": rank,
        "alpha": _whole(alpha),
        "rank_pattern": {f"^{name}": value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{name}": _whole(value) for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(adapter.layers),
        "use_effective_conv2d": any(name in layer.factors for layer in adapter.layers.values() for name in middle),
        "inference_mode": True,
    }
    if not lokr_adapter:
        return _checked(LoHaConfig(**settings), adapter, modules, ranks, alphas)
    settings["decompose_both"] = any("lokr_w1_a" in layer.factors for layer in adapter.layers.values())
    settings["decompose_factor"] = _factor(adapter, modules)
    return _checked(LoKrConfig(**settings), adapter, modules, ranks, alphas)


def _whole(value: float) -> Any:
    return int(value) if float(value).is_integer() else value


def _rank(layer: FactorLayer, weight: tuple[int, ...]) -> int:
    """The layer's, or of whole matrices one that PEFT leaves whole."""
    return layer.rank or max(weight[:2])


def _left(layer: FactorLayer) -> tuple[int, int]:
    """The shape of LoKr's w1."""
    factors = layer.factors
    if "lokr_w1" in factors:
        return int(factors["lokr_w1"].shape[0]), int(factors["lokr_w1"].shape[1])
    return int(factors["lokr_w1_a"].shape[0]), int(factors["lokr_w1_b"].shape[1])


def _factor(adapter: FactorAdapter, modules: Mapping[str, tuple[int, ...]]) -> int:
    """PEFT's `decompose_factor`, of which it derives the shape of each w1."""
    lefts = {name: _left(layer) for name, layer in adapter.layers.items()}
    for factor in (-1, *sorted({size for left in lefts.values() for size in left})):
        if all(tuple(factorization(size, factor)[0] for size in modules[name][:2]) == left for name, left in lefts.items()):
            return factor
    shapes = ", ".join(f"{name} {list(left)}" for name, left in list(lefts.items())[:3])
    raise AdapterError(
        f"PEFT makes no LoKr whose w1 have the shapes of {adapter.source or 'these layers'} ({shapes}); kohya's file holds them"
    )


def _checked(
    config: Any, adapter: FactorAdapter, modules: Mapping[str, tuple[int, ...]], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> Any:
    """``config``, under which each layer of stock PEFT, made on torch's meta device, has these factors."""
    layers = (lokr if adapter.kind == "lokr" else loha).layer
    for name, layer in adapter.layers.items():
        shape = modules[name]
        with torch.device("meta"):
            if len(shape) == 2:
                made: Any = layers.Linear(nn.Linear(shape[1], shape[0]), "one", config=config, r=ranks[name], alpha=alphas[name])
            else:
                base = nn.Conv2d(shape[1], shape[0], shape[2:])  # type: ignore[arg-type]
                made = layers.Conv2d(base, "one", config=config, r=ranks[name], alpha=alphas[name])
        wanted = {key: tuple(tensor.shape) for key, tensor in layer.factors.items()}
        peft = {key: tuple(getattr(made, key)["one"].shape) for key in made.adapter_layer_names if "one" in getattr(made, key)}
        if peft != wanted:
            raise AdapterError(f"PEFT's {KINDS[adapter.kind]} of {name} has {peft}, the file has {wanted}; kohya's file holds it as it is")
    return config
