"""The project's own small diffusion model: a stock diffusers UNet2DConditionModel with cross attention, and its token table.

1.3 million parameters, 16 x 16 pixels, 56 attention projections (to_q, to_k, to_v, to_out.0 of seven transformer blocks). Widths are 48 and
64, so that tiles of 16 fit and tiles of 32 do not always. `loralith pretrain` reproduces the weights in assets/.
"""

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from loralith.diffusion.data import IMAGE_SIZE
from loralith.diffusion.prompt import TOKEN_DIM, TOKENS, PromptEncoder
from loralith.errors import LoralithError
from loralith.files import write_json
from loralith.formats.checkpoint import write_tensors
from loralith.formats.unet_config import build_unet, read_unet_config

# The names that stock diffusers gives the two files of a saved model, so UNet2DConditionModel.from_pretrained(folder) reads them as well.
MODEL_FOLDER = "unet"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
TOKENS_FILE = "tokens.safetensors"

UNET_CONFIG: dict[str, Any] = {
    "sample_size": IMAGE_SIZE,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (32, 48, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": TOKEN_DIM,
    "attention_head_dim": 4,  # diffusers: the number of heads
    "norm_num_groups": 16,
    "use_linear_projection": True,
}


def assets() -> Path:
    """Folder of the weights that come with the package."""
    return Path(str(resources.files("loralith.diffusion").joinpath("assets")))


def new_unet(config: Mapping[str, Any] = UNET_CONFIG, source: object = "the configuration") -> UNet2DConditionModel:
    """The U-Net with torch's default initialization, from torch's global generator. Raises LoralithError that names ``source``."""
    unet = build_unet(config, source)
    unet.set_attn_processor(AttnProcessor())  # torch's fused attention is several times slower on a CPU for heads this small
    return unet


def save_model(unet: UNet2DConditionModel, encoder: PromptEncoder, folder: Path) -> None:
    """Writes config.json, the U-Net's weights and the token table; the weights as FP16, which halves what a clone downloads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "UNet2DConditionModel", **UNET_CONFIG}
    write_tensors({name: tensor.to(torch.float16) for name, tensor in unet.state_dict().items()}, folder / WEIGHTS_FILE)
    table = {"table.weight": encoder.table.weight.detach().to(torch.float16)}
    write_tensors(table, folder / TOKENS_FILE, {"tokens": " ".join(TOKENS)})
    write_json(config, folder / CONFIG_FILE)


def _config(path: Path) -> dict[str, Any]:
    """A U-Net's configuration. Raises LoralithError for one that does not fit the images and prompts of this workload."""
    config = read_unet_config(path)
    for name in ("sample_size", "in_channels", "out_channels", "cross_attention_dim"):
        if config.get(name) != UNET_CONFIG[name]:
            raise LoralithError(f"{path} has {name} {config.get(name)!r}; the images and prompts here need {UNET_CONFIG[name]}")
    return config


def assets_digest() -> str:
    """`model_digest` of the package's own model."""
    return model_digest(assets() / MODEL_FOLDER)


def model_digest(folder: Path) -> str:
    """SHA-256 of a model's files. Raises LoralithError where one is missing."""
    total = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENS_FILE):
        try:
            total.update((folder / name).read_bytes())
        except OSError as error:
            raise LoralithError(f"model {folder} lacks {name}: {error}") from error
    return total.hexdigest()


def load_model(folder: Path | None = None) -> tuple[UNet2DConditionModel, PromptEncoder]:
    """The U-Net and its token table, FP32, in evaluation mode and frozen; from the package's assets unless a folder is given.

    A folder is a diffusers U-Net's (config.json, diffusion_pytorch_model.safetensors) of any depth and widths, with tokens.safetensors
    beside it, as `loralith pretrain` writes it. Raises LoralithError that names the file where one is missing, damaged or of another shape.
    """
    folder = folder or assets() / MODEL_FOLDER
    unet, encoder = new_unet(_config(folder / CONFIG_FILE), folder / CONFIG_FILE), PromptEncoder()
    try:
        with safe_open(folder / TOKENS_FILE, framework="pt") as file:
            tokens = (file.metadata() or {}).get("tokens", "")
    except (OSError, SafetensorError) as error:
        raise LoralithError(f"{folder / TOKENS_FILE} does not hold a token table: {error}") from error
    if tokens != " ".join(TOKENS):
        wanted = " ".join(TOKENS)
        raise LoralithError(f"{folder / TOKENS_FILE} has the vocabulary {tokens!r}, this version has {wanted!r}: run loralith pretrain")
    for module, file in ((unet, folder / WEIGHTS_FILE), (encoder, folder / TOKENS_FILE)):
        try:
            module.load_state_dict({name: tensor.to(torch.float32) for name, tensor in load_file(file).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise LoralithError(f"{file} does not hold this model's weights: {error}") from error
        module.requires_grad_(False)
        module.eval()
    return unet, encoder
