"""Adapter files of other tools, read and written: PEFT's, diffusers' and kohya's.

| tool | files | names in them | alpha |
|---|---|---|---|
| PEFT | adapter_model.safetensors, adapter_config.json | base_model.model.NAME.lora_A.weight | the configuration's, with patterns |
| diffusers | pytorch_lora_weights.safetensors | unet.NAME.lora_A.weight, or without unet. | the header's, or NAME.alpha, or r |
| kohya | any .safetensors | lora_unet_NAME.lora_down.weight, underscores for dots; SDXL's blocks by Stability's names | NAME.alpha, or r |
| ComfyUI | any .safetensors | diffusion_model.NAME.lora_A.weight or .lora_down.weight, NAME Stability's | NAME.alpha, or r |

Of transformers diffusers' names begin with `transformer.`. In files of kohya and ComfyUI FLUX and SD3 have the names and the fused layers
of their own code (`transformer_names`). LoCon's middle factor [r, r, ...] goes into A: mid (x) down, in FP32.
DoRA's magnitudes are NAME.lora_magnitude_vector in files of PEFT and diffusers, NAME.dora_scale in the others.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from loralith.files import write_json
from loralith.formats.adapter_checks import AdapterError, alpha_of, check_config, check_factors, fitting_magnitude
from loralith.formats.adapter_layers import (
    COMFY_PREFIX,
    DIFFUSERS_PREFIX,
    KOHYA_PREFIX,
    PEFT_ENDS,
    PEFT_PREFIX,
    TRANSFORMER_PREFIX,
    Adapter,
    Layer,
    found_layers,
    once,
)
from loralith.formats.adapter_tensors import TEXT_ENCODER, AdapterTensors, open_adapter
from loralith.formats.checkpoint import write_tensors
from loralith.formats.kohya_file import kohya_adapter, kohya_tensors, write_kohya
from loralith.formats.run_folder import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE

__all__ = [
    "Adapter",
    "AdapterError",
    "Layer",
    "fitting",
    "kept_header",
    "kohya_tensors",
    "modern_name",
    "named_adapter",
    "plain_config",
    "read_adapter",
    "scheme_header",
    "write_diffusers",
    "write_kohya",
    "write_peft",
]

DIFFUSERS_HEADER = "lora_adapter_metadata"
ROTATION_HEADER = "loralith_rotation"
UNSUPPORTED = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_embedding": "LoRA of an embedding",
}
MORE = {
    "LoHa": "; `loralith adapter` shows and converts it",
    "LoKr": "; `loralith adapter` shows and converts it",
    "LoRA of an embedding": "",
}


def scheme_header(rotation: int) -> dict[str, str]:
    """What a written file's header says of the numbers that trained the adapter, where they are not the usual ones."""
    return {ROTATION_HEADER: str(rotation)} if rotation else {}


def plain_config(config: LoraConfig) -> dict[str, Any]:
    """A configuration as JSON values, the same for the same configuration."""
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return dict(sorted(values.items()))


# Writing.


def write_peft(adapter: Adapter, folder: Path, config: LoraConfig | None = None, base: type | None = None) -> None:
    """PEFT's two files, as `peft.PeftModel.from_pretrained` reads them; the weights come first, the configuration last.

    ``config``: the one to write where the adapter's model has one, by default `Adapter.config`. ``base``: the model's class, by default
    diffusers' U-Net.
    """
    from diffusers import UNet2DConditionModel

    base = base or UNet2DConditionModel
    values = plain_config(config or adapter.config())
    values["inference_mode"] = True
    # What save_pretrained writes for a base that is no transformers model: where the class of the base is to be imported from.
    values["auto_mapping"] = {"base_model_class": base.__name__, "parent_library": base.__module__}
    write_tensors(adapter.tensors(PEFT_PREFIX), folder / PEFT_FILE, {**adapter.metadata, "format": "pt"})
    write_json(dict(sorted(values.items())), folder / PEFT_CONFIG)


Beside = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors of other parts of a pipeline, and settings for the header."""


def write_diffusers(
    adapter: Adapter | None,
    folder: Path,
    config: LoraConfig | None = None,
    prefix: str = DIFFUSERS_PREFIX,
    beside: Beside = ({}, {}),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """diffusers' file, as `load_lora_weights` of a pipeline and `load_lora_adapter` of a U-Net read it; alpha is in its header.

    ``adapter``: the denoiser's, None where it has none. ``prefix``: the pipeline's part and a dot. ``beside``: of the text encoders.
    ``metadata``: what else its header says, by default the adapter's.
    """
    tensors, settings = dict(beside[0]), dict(beside[1])
    if adapter is not None:
        tensors |= adapter.tensors(prefix)
        settings |= {f"{prefix}{name}": value for name, value in plain_config(config or adapter.config()).items()}
    kept = metadata if metadata is not None else adapter.metadata if adapter else {}
    header = json.dumps(settings, indent=2, sort_keys=True)
    write_tensors(tensors, folder / DIFFUSERS_FILE, {**kept, DIFFUSERS_HEADER: header})


# Reading.


def read_adapter(path: Path, modules: Mapping[str, tuple[int, ...]], *, unet_only: bool = False, text_apart: bool = False) -> Adapter:
    """The adapter in a folder of PEFT or diffusers, or in a .safetensors file of diffusers, kohya or ComfyUI. FP8 becomes FP16.

    ``modules``: shapes of the weights of the model's modules by name, of which kohya's names are a shorter form; () where there is none.
    ``unet_only``: layers of text encoders are left out, with a warning that names them; ``text_apart``: the caller reads them, and they are
    left out without a word; else they are refused.

    Every tensor and setting is used, or without effect on what the adapter computes, or refused. Raises AdapterError that names the file
    and the tensor or setting: for a missing or damaged file, for layers that the model does not have or in which A and B do not fit, and
    for what is not supported (LoHa, LoKr, LoCon, bias, text encoders, first values that change the base model).
    """
    opened = open_adapter(path)
    path, header = opened.path, opened.header
    tensors, left = _checked(opened, unet_only or text_apart)
    if path.name == PEFT_FILE:
        adapter = named_adapter(tensors, opened.config, path, PEFT_PREFIX)
    elif any(name.startswith((KOHYA_PREFIX, COMFY_PREFIX, "lora_te")) for name in tensors):
        adapter = kohya_adapter(tensors, modules, path)
    else:
        adapter = _diffusers(tensors, header, path)
    adapter = fitting(adapter, modules, path)
    if not adapter.layers:
        raise AdapterError(f"{path} holds no LoRA tensors{' of a U-Net' if left else ''}")
    if text_apart:
        left = ()
    if left:
        warnings.warn(f"{path}: {len(left)} layers of a text encoder are left out: {', '.join(left)}", UserWarning, stacklevel=2)
    return replace(adapter, left_out=left, metadata=kept_header(header))


def kept_header(header: Mapping[str, str]) -> dict[str, str]:
    """What a file's header says beside the adapter."""
    return {name: value for name, value in header.items() if name not in ("format", DIFFUSERS_HEADER)}


def fitting(adapter: Adapter, modules: Mapping[str, tuple[int, ...]], path: Path) -> Adapter:
    """``adapter`` with magnitudes of the shapes that PEFT has. Raises AdapterError for layers that the model does not have or that do not
    fit, and for DoRA of some layers alone."""
    layers = {}
    for name, layer in adapter.layers.items():
        if name not in modules:
            raise AdapterError(f"{path} has the layer {name}, which this model does not have")
        check_factors(name, layer.a, layer.b, modules[name], path)
        layers[name] = replace(layer, magnitude=fitting_magnitude(name, layer.magnitude, modules[name], path))
        if adapter.dora and layer.magnitude is None:
            raise AdapterError(f"{path} is DoRA, and {name} has no magnitudes; all layers have them, or none")
    return replace(adapter, layers=layers)


def _checked(opened: AdapterTensors, without_text: bool) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors, and names of the text encoders' layers that are left out."""
    path, text = opened.path, opened.of_text_encoders() if without_text else {}
    tensors = {name: tensor for name, tensor in opened.tensors.items() if name not in text}
    for name in tensors:
        for part, what in UNSUPPORTED.items():
            if part in name:
                raise AdapterError(f"{path} holds {what} ({name}), which is not supported; plain LoRA is{MORE[what]}")
        if name.startswith(TEXT_ENCODER):
            raise AdapterError(f"{path} has layers of a text encoder ({name}); only a U-Net's are supported; --unet-only takes those alone")
        if name.endswith(".bias"):
            raise AdapterError(f"{path} has a LoRA bias ({name}), which is not supported")
    return tensors, tuple(sorted({re.sub(r"\.(lora[_.].*|alpha)$", "", name) for name in text}))


def named_adapter(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, path: Path, prefix: str = "") -> Adapter:
    """Tensors under PEFT's names after ``prefix``; alpha is the configuration's, else the file's own, else r."""
    if config is not None:
        check_config(config, path)
    found = found_layers(tensors, [PEFT_ENDS], path)
    once({name: name.removeprefix(prefix) for name in found}, path)
    layers = {}
    for name, (a, b, own, magnitude) in found.items():
        name, rank = name.removeprefix(prefix), a.shape[0] if a.ndim else 0
        told = None if config is None else alpha_of(name, rank, config, path)
        if own is not None and told is not None and own != told:
            raise AdapterError(f"{path} has the alpha {own:g} of {name} as a tensor, and {told:g} in its configuration")
        layers[name] = Layer(a, b, next((alpha for alpha in (told, own) if alpha is not None), float(rank)), magnitude)
        dora = None if config is None else bool(config.get("use_dora"))
        if dora is not None and dora != (magnitude is not None):
            raise AdapterError(f"{path} has use_dora {dora}, and {name} has {'no' if magnitude is None else 'its'} magnitudes")
    return Adapter(layers, bool(config and config.get("use_rslora")), str(path))


OLD_NAMES = (
    (r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$", r".to_\1.lora_\2"),
    (r"\.to_(q|k|v|out\.0)\.lora\.(down|up)\.weight$", r".to_\1.lora_\2"),
    (r"\.lora_linear_layer\.(down|up)\.weight$", r".lora_\1"),
    (r"\.lora\.(down|up)\.weight$", r".lora_\1"),
)
"""How diffusers wrote layers before it took PEFT's names."""


def modern_name(name: str) -> str:
    """A tensor's name as diffusers writes it since it took PEFT's names."""
    for pattern, replacement in OLD_NAMES:
        changed = re.sub(pattern, replacement, name)
        if changed != name:
            changed = changed.replace(".to_out.lora", ".to_out.0.lora")
            return (
                changed.removesuffix("lora_down").removesuffix("lora_up") + ("lora_A" if changed.endswith("down") else "lora_B") + ".weight"
            )
    return name


def _diffusers(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: Path) -> Adapter:
    config: dict[str, Any] | None = None
    if DIFFUSERS_HEADER in header:
        try:
            config = json.loads(header[DIFFUSERS_HEADER])
        except ValueError as error:
            raise AdapterError(f"{path} has a header that is not JSON: {error}") from error
        if not isinstance(config, dict):
            raise AdapterError(f"{path} has a header {DIFFUSERS_HEADER} that is no JSON object")
        prefix = next((own for own in (DIFFUSERS_PREFIX, TRANSFORMER_PREFIX) if any(name.startswith(own) for name in config)), None)
        if prefix is not None:
            config = {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}
        else:  # of a text encoder alone: the U-Net has none, as diffusers reads it
            config = {name: value for name, value in config.items() if not name.startswith(TEXT_ENCODER)} or None
    names = {name: modern_name(name.removeprefix(DIFFUSERS_PREFIX).removeprefix(TRANSFORMER_PREFIX)) for name in tensors}
    once(names, path)
    return named_adapter({names[name]: tensor for name, tensor in tensors.items()}, config, path)
