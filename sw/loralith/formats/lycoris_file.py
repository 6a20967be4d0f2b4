"""LoKr's and LoHa's files: read from PEFT, diffusers, kohya, ComfyUI and LyCORIS, written for the first three.

| tool | names | scale of the weight |
|---|---|---|
| PEFT | base_model.model.NAME.lokr_w1, .hada_w1_a ... | the configuration's alpha / r |
| diffusers (LoKr alone) | unet.NAME.lokr_w1, transformer. | the header's alpha / r, or 1 |
| kohya, ComfyUI, LyCORIS | lora_unet_NAME, diffusion_model.NAME, lycoris_NAME, .lokr_w1 | NAME.alpha / rank; 1 of two whole matrices |
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from loralith.files import write_json
from loralith.formats.adapter_checks import AdapterError, number, readable, scalar
from loralith.formats.adapter_file import DIFFUSERS_HEADER
from loralith.formats.adapter_layers import (
    COMFY_PREFIX,
    DIFFUSERS_PREFIX,
    KOHYA_PREFIX,
    LYCORIS_PREFIX,
    PEFT_PREFIX,
    TRANSFORMER_PREFIX,
    once,
)
from loralith.formats.adapter_tensors import AdapterTensors, open_adapter
from loralith.formats.checkpoint import write_tensors
from loralith.formats.kohya_file import short_name, short_names
from loralith.formats.lycoris_config import peft_config
from loralith.formats.lycoris_layers import FACTORS, KINDS, FactorAdapter, FactorLayer, check_factor_shapes
from loralith.formats.run_folder import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE
from loralith.formats.stability_names import sgm_blocks, sgm_name
from loralith.formats.transformer_names import halves_exchanged, own_names

__all__ = ["read_lycoris", "write_lycoris_diffusers", "write_lycoris_kohya", "write_lycoris_peft"]

ALPHA = "alpha"


def read_lycoris(path: Path, modules: Mapping[str, tuple[int, ...]], *, unet_only: bool = False) -> FactorAdapter:
    """The LoKr or LoHa adapter in a folder of PEFT or diffusers, or in a file; parameters and warnings as of `read_adapter`.

    Raises AdapterError, which names the file and the layer: for tensors of other adapters beside them, DoRA's magnitudes, layers that the
    model does not have or whose weight the factors do not make, and a fused layer of FLUX or SD3, whose factors do not divide into its
    parts'.
    """
    opened = open_adapter(path)
    path, text = opened.path, opened.of_text_encoders()
    if text and not unet_only:
        raise AdapterError(f"{path} has layers of a text encoder ({next(iter(text))}); --unet-only takes the others alone")
    tensors = {name: tensor for name, tensor in opened.tensors.items() if name not in text}
    kind, groups = _groups(tensors, path)
    names = _names(opened, list(groups), modules)
    once(names, path)
    config = _config(opened, kind)
    layers = {}
    for key, own in groups.items():
        name, alpha = names[key], own.pop(ALPHA, None)
        check_factor_shapes(name, own, modules[name], path)
        layer = FactorLayer(own, 1.0)
        layers[name] = FactorLayer(own, _scale(name, layer.rank, alpha, config, path))
    if text:
        left = sorted({name.rpartition(".")[0] for name in text})
        warnings.warn(f"{path}: {len(left)} layers of a text encoder are left out: {', '.join(left)}", UserWarning, stacklevel=2)
    kept = {name: value for name, value in opened.header.items() if name not in ("format", DIFFUSERS_HEADER)}
    return FactorAdapter(kind, layers, str(path), tuple(sorted({name.rpartition(".")[0] for name in text})), kept)


def _groups(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The kind, and factors by name with the `.alpha` as a number, by what stands before them."""
    kinds = {kind for kind, names in FACTORS.items() if any(key.rpartition(".")[2] in names for key in tensors)}
    if len(kinds) != 1:
        raise AdapterError(f"{path} holds {' and '.join(KINDS[kind] for kind in sorted(kinds)) or 'no LoKr and no LoHa'}; one of them goes")
    (kind,) = kinds
    groups: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, last = key.rpartition(".")
        if last == "dora_scale":
            raise AdapterError(f"{path} has magnitudes of {name}; {KINDS[kind]} with DoRA is not supported, since PEFT has none")
        if last == ALPHA:
            groups.setdefault(name, {})[ALPHA] = scalar(tensor, key, path)
        elif last in FACTORS[kind]:
            groups.setdefault(name, {})[last] = readable(tensor, key, path)
        else:
            raise AdapterError(f"{path} has the tensor {key}, which is none of {KINDS[kind]}'s")
    return kind, groups


def _names(opened: AdapterTensors, keys: list[str], modules: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The module of each layer of the file."""
    known = set(modules)
    if opened.config is not None:
        found = {key: key.removeprefix(PEFT_PREFIX) for key in keys}
    elif any(key.startswith((KOHYA_PREFIX, COMFY_PREFIX, LYCORIS_PREFIX)) for key in keys):
        short, found = short_names(known), {}
        for key in keys:
            name, *others = short.get(short_name(key), (key,))
            if others or halves_exchanged(name, known):
                why = "its factors make no part's weight" if others else "its halves lie in the other order"
                raise AdapterError(f"{opened.path}: {key} is {', '.join((name, *others))} of this model, and {why}")
            found[key] = name
    else:
        found = {key: key.removeprefix(DIFFUSERS_PREFIX).removeprefix(TRANSFORMER_PREFIX) for key in keys}
    for key, name in found.items():
        if name not in known:
            raise AdapterError(f"{opened.path} has the layer {key}, which this model does not have")
    return found


def _config(opened: AdapterTensors, kind: str) -> Mapping[str, Any] | None:
    """PEFT's settings of a file that has them. Raises AdapterError for one of another type."""
    config = opened.config
    if config is None and DIFFUSERS_HEADER in opened.header:
        try:
            told = json.loads(opened.header[DIFFUSERS_HEADER])
            config = {re.sub(rf"^({DIFFUSERS_PREFIX}|{TRANSFORMER_PREFIX})", "", name): value for name, value in told.items()}
        except (ValueError, AttributeError) as error:
            raise AdapterError(f"{opened.path} has a header that is no JSON object: {error}") from error
    if config is not None and config.get("peft_type", kind.upper()) != kind.upper():
        raise AdapterError(f"{opened.path} holds {KINDS[kind]}, and its configuration says {config['peft_type']!r}")
    return config


def _scale(name: str, rank: int | None, alpha: float | None, config: Mapping[str, Any] | None, path: Path) -> float:
    if config is None:
        return 1.0 if rank is None or alpha is None else alpha / rank
    usual = LoKrConfig()
    ranks, alphas = (config.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
    r = ranks.get(get_pattern_key(list(ranks), name), config.get("r", usual.r))
    if rank is not None and r != rank:
        raise AdapterError(f"{path}: {name} has factors of rank {rank}, the configuration has {r!r}")
    told = alphas.get(get_pattern_key(list(alphas), name), config.get("alpha", usual.alpha))
    return number(told, f"alpha of {name}", path) / number(r, f"rank of {name}", path)


# Writing.


def write_lycoris_peft(adapter: FactorAdapter, folder: Path, modules: Mapping[str, tuple[int, ...]], base: type) -> None:
    """PEFT's two files, as `peft.PeftModel.from_pretrained` reads them. Raises AdapterError for factors that PEFT would not make."""
    values = _plain(peft_config(adapter, modules))
    values["auto_mapping"] = {"base_model_class": base.__name__, "parent_library": base.__module__}
    write_tensors(_tensors(adapter, PEFT_PREFIX), folder / PEFT_FILE, {**adapter.metadata, "format": "pt"})
    write_json(dict(sorted(values.items())), folder / PEFT_CONFIG)


def write_lycoris_diffusers(adapter: FactorAdapter, folder: Path, modules: Mapping[str, tuple[int, ...]], prefix: str) -> None:
    """diffusers' file of LoKr, as `load_lora_adapter` reads it; AdapterError for LoHa, which diffusers does not read."""
    if adapter.kind != "lokr":
        raise AdapterError(f"diffusers reads no {KINDS[adapter.kind]}; PEFT's and kohya's files hold it")
    values = _plain(peft_config(adapter, modules))
    header = json.dumps({f"{prefix}{name}": value for name, value in values.items()}, indent=2, sort_keys=True)
    write_tensors(_tensors(adapter, prefix), folder / DIFFUSERS_FILE, {**adapter.metadata, DIFFUSERS_HEADER: header})


def _tensors(adapter: FactorAdapter, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}.{key}": factor for name, layer in adapter.layers.items() for key, factor in layer.factors.items()}


def _plain(config: LoKrConfig | LoHaConfig) -> dict[str, Any]:
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return dict(sorted(values.items()))


def write_lycoris_kohya(adapter: FactorAdapter, known: set[str], path: Path, *, stability_names: bool) -> None:
    """kohya's file, which ComfyUI and LyCORIS read too, whole or not at all. LoKr of two whole matrices has no alpha there: a scale other
    than 1 is multiplied into w1, in its type. Raises AdapterError for parts of a fused layer of FLUX or SD3."""
    own = {parts: name for name, parts in own_names(known).items()}
    blocks = sgm_blocks(known) if stability_names else {}
    tensors: dict[str, Tensor] = {}
    for name, layer in adapter.layers.items():
        if own and ((name,) not in own or halves_exchanged(name, known)):
            raise AdapterError(f"kohya has no layer for {KINDS[adapter.kind]} of {name}; write PEFT's file")
        key = KOHYA_PREFIX + (own[name,] if own else sgm_name(name, blocks)).replace(".", "_")
        factors, rank = dict(layer.factors), layer.rank
        if rank is None and layer.scale != 1:
            factors["lokr_w1"] = (factors["lokr_w1"].float() * layer.scale).to(factors["lokr_w1"].dtype)
        tensors |= {f"{key}.{factor}": tensor for factor, tensor in factors.items()}
        tensors[f"{key}.{ALPHA}"] = torch.tensor(1.0 if rank is None else float(layer.scale * rank))
    write_tensors(tensors, path, {"ss_network_module": "lycoris.kohya", **adapter.metadata})
