"""LoRA adapters through stock PEFT, and their files in PEFT's own format.

A folder with adapter_model.safetensors and adapter_config.json, as `peft.PeftModel.from_pretrained(unet, folder)` reads it.
"""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from loralith.diffusion.checkpoint import write_json, write_tensors
from loralith.diffusion.determinism import seed_global
from loralith.errors import LoralithError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


class AdapterError(LoralithError):
    """An adapter that is missing, damaged, or of another model, rank or choice of layers."""


def add_adapter(unet: UNet2DConditionModel, *, rank: int, alpha: float, targets: tuple[str, ...], seed: int) -> PeftModel:
    """The U-Net with a fresh LoRA adapter on its attention projections; only the adapter's parameters are trainable.

    PEFT's own first values: A from Kaiming's uniform distribution, seeded by `seed`, and B zero. Call it inside `repeatable`.
    """
    whole = int(alpha) if float(alpha).is_integer() else alpha  # PEFT declares an integer but scales by any number
    config = LoraConfig(r=rank, lora_alpha=whole, lora_dropout=0.0, bias="none", target_modules=sorted(targets))  # type: ignore[arg-type]
    seed_global("adapter", seed)
    return get_peft_model(unet, config)  # type: ignore[arg-type]


def adapter_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters by name, in order of name."""
    return dict(sorted((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad))


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes the adapter's two files; the same adapter gives the same bytes. The weights come first, the configuration last."""
    config = model.peft_config["default"].to_dict()
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    config["inference_mode"] = True
    # What save_pretrained writes for a base that is no transformers model: where the class of the base is to be imported from.
    config["auto_mapping"] = {"base_model_class": "UNet2DConditionModel", "parent_library": UNet2DConditionModel.__module__}
    write_tensors(get_peft_model_state_dict(model), folder / WEIGHTS_FILE, {"format": "pt"})
    write_json(dict(sorted(config.items())), folder / CONFIG_FILE)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Copies the adapter in `folder` into a model that has one of the same rank, alpha and layers.

    Raises AdapterError, before anything is changed, for a missing or damaged file, another rank or alpha, or tensors of other names or
    shapes.
    """
    own = model.peft_config["default"]
    assert isinstance(own, LoraConfig)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"{folder} does not hold a PEFT adapter: {error}") from error
    for name, mine in (("r", own.r), ("lora_alpha", own.lora_alpha)):
        if config.get(name) != mine:
            raise AdapterError(f"the adapter in {folder} has {name} {config.get(name)!r}, this run has {mine!r}; give the same")
    check_tensors(tensors, get_peft_model_state_dict(model), folder)
    set_peft_model_state_dict(model, tensors)


def check_tensors(tensors: dict[str, Tensor], wanted: dict[str, Tensor], source: Path) -> None:
    """Raises AdapterError for the first name that is missing, unknown, of another shape or not finite."""
    for name in sorted({*tensors, *wanted}):
        if name not in tensors:
            raise AdapterError(f"{source} lacks the tensor {name}, which this model's adapter has")
        if name not in wanted:
            raise AdapterError(f"{source} has the tensor {name}, which this model's adapter does not have")
        if tensors[name].shape != wanted[name].shape:
            there, here = tuple(tensors[name].shape), tuple(wanted[name].shape)
            raise AdapterError(f"{source} has {name} of shape {there}, this model's adapter has {here}")
        if not tensors[name].isfinite().all():
            raise AdapterError(f"{source} has values in {name} that are not finite")
