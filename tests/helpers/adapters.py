"""Adapters of a tiny U-Net, as PEFT, diffusers, kohya and loralith write them."""

import json
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from helpers.tiny_unet import CONFIG
from loralith.diffusion.peft_adapter import adapter_of, add_adapter, module_shapes, with_adapter
from loralith.formats.adapter_file import read_adapter, write_peft
from loralith.methods.training_method import Bench

BENCH = Bench(lambda model: nullcontext(), lambda note: None, lambda: False)


TARGETS = ("to_q", "to_v", "to_out.0")


KINDS = {
    "plain": {"rank": 3, "alpha": 6},
    "patterns": {"rank": 3, "alpha": 6, "rank_pattern": {"attn2.to_q": 2, "to_v": 5}, "alpha_pattern": {"attn1.to_v": 1.5}},
    "rslora": {"rank": 4, "alpha": 2, "rslora": True},
}


def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIG).requires_grad_(False).eval()


def filled(model):
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return model


def ours(kind):
    return filled(add_adapter(unet(), targets=TARGETS, seed=0, **KINDS[kind]))


@torch.no_grad()
def output(model):
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 1, 4, 4, generator=generator), torch.randn(2, 3, 6, generator=generator)
    return model(x, torch.tensor([3, 700]), text).sample


PLAIN = output(unet())


SHAPES = module_shapes(unet())


@cache
def made(kind="plain"):
    """The adapter of `ours`, which no test changes."""
    return adapter_of(ours(kind))


@cache
def wanted(kind="plain"):
    return output(ours(kind))


def read(path: Path):
    model = with_adapter(unet(), read_adapter(path, SHAPES))
    return output(model.eval())


def kohya(adapter, path, alpha=True):
    tensors = {}
    for name, layer in adapter.layers.items():
        short = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{short}.lora_down.weight": layer.a.clone(), f"{short}.lora_up.weight": layer.b.clone()}
        if alpha:
            tensors[f"{short}.alpha"] = torch.tensor(layer.alpha)
    save_file(tensors, path)
    return tensors


def altered(tmp_path, change, name="x.safetensors"):
    """A file of diffusers with its tensors changed."""
    tensors = {key: tensor.clone() for key, tensor in made().tensors("unet.").items()}
    change(tensors)
    save_file(tensors, tmp_path / name)
    return tmp_path / name


def written(folder):
    """What `save_adapter` writes of `ours`, without making the model again."""
    config = LoraConfig(r=3, lora_alpha=6, target_modules=list(TARGETS))
    write_peft(made(), folder, config)


def edit(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
