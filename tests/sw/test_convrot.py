"""INT8 ConvRot base files: their integers and scales reach the device as they are."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

import loralith
from loralith.formats.convrot_file import ConvrotError, read_convrot
from loralith.mapping.base_files import use_convrot
from loralith.mapping.select import AttachError
from loralith.spec.scheme import FQT
from loralith.training.verification import ReferenceObserver

H4 = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])


def layer(weight, block, **settings):
    """A layer as the format has it, made from dense matrices in float64."""
    r = np.eye(1)
    while len(r) < block:
        r = np.kron(H4, r)
    rotated = weight @ np.kron(np.eye(weight.shape[1] // block), r / np.sqrt(block))
    scale = np.abs(rotated).max(axis=1, keepdims=True) / 127
    config = {"format": "int8_tensorwise", "convrot": block > 1, "convrot_groupsize": block, **settings}
    return {
        "weight": torch.from_numpy(np.rint(rotated / scale)).to(torch.int8),
        "weight_scale": torch.from_numpy(scale).float(),
        "comfy_quant": torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8),
    }


def made(path, block=64, prefix="model.diffusion_model.", **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 24), nn.Linear(24, 8)).requires_grad_(False)
    tensors = layer(model[0].weight.double().numpy(), block, **settings)
    save_file({f"{prefix}0.{name}": tensor for name, tensor in tensors.items()} | {f"{prefix}0.bias": torch.zeros(24)}, path)
    return model, tensors


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("adapted", [True, False])
def test_the_file_s_bits_are_multiplied(tmp_path, adapted, prefix):
    model, tensors = made(tmp_path / "x.safetensors", prefix=prefix)
    x = torch.randn(9, 128)
    wanted = model(x)
    if adapted:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["0"]))
    assert use_convrot(model, tmp_path / "x.safetensors") == ["0"]
    with loralith.open_device("direct", "tiny") as device:
        observer = ReferenceObserver()
        attachment = loralith.attach(model, device, FQT(rotation=64), modules="all", observer=observer)
        own = attachment.layers[0]
        q, scale = (own.device_layer.numerics.weight.q, own.device_layer.numerics.weight.scale) if adapted else (None, own.product.scale)
        assert q is None or np.array_equal(q, tensors["weight"].numpy())
        assert np.array_equal(scale, tensors["weight_scale"].flatten().numpy())
        y = model(x)
        assert observer.compared
        assert (y - wanted).norm() < 0.03 * wanted.norm()
        attachment.detach()
    assert (model(x) - wanted).norm() < 0.02 * wanted.norm(), "torch has the file's values too"


def test_another_rotation_is_refused_and_a_changed_weight_is_quantized_anew(tmp_path):
    model, tensors = made(tmp_path / "x.safetensors")
    use_convrot(model, tmp_path / "x.safetensors")
    with loralith.open_device("direct", "tiny") as device:
        with pytest.raises(AttachError, match=r"^0: its file has blocks of 64 channels, and rotation 16 makes 16; give rotation 64"):
            loralith.attach(model, device, FQT(rotation=16), modules="all")
        with pytest.raises(AttachError, match="weight_bits must be 8, not 4"):
            loralith.attach(model, device, FQT(rotation=64, weight_bits=4), modules="all")
        model[0].weight.mul_(2)
        attachment = loralith.attach(model, device, FQT(rotation=16), modules="all")
        assert not np.array_equal(attachment.layers[0].product.scale, tensors["weight_scale"].flatten().numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("0.weight_scale"), r"lacks the tensor 0\.weight_scale"),
        (lambda t: t.update({"0.weight": t["0.weight"].float()}), r"0\.weight must be int8 \[O, I\], not float32"),
        (lambda t: t.update({"0.weight_scale": torch.zeros(24)}), r"0\.weight_scale must be positive and finite"),
        (lambda t: t.update({"0.weight_scale": torch.ones(23)}), "one number or one for each of 24 rows"),
        (lambda t: t.update({"0.weight": t["0.weight"][:, :64].contiguous()}), r"0 is \[24, 64\], and the model has \[24, 128\]"),
        (
            lambda t: t.update({name.replace("0.", "9."): t.pop(name) for name in list(t)}),
            "has the layer 9, which this model does not have",
        ),
        (lambda t: t.pop("0.comfy_quant"), r"has no layer with \.comfy_quant"),
    ],
)
def test_what_a_file_may_not_hold_is_named(tmp_path, change, message):
    _, tensors = made(tmp_path / "x.safetensors")
    named = {f"0.{name}": tensor for name, tensor in tensors.items()}
    change(named)
    save_file(named, tmp_path / "x.safetensors")
    with pytest.raises(ConvrotError, match=message):
        read_convrot(tmp_path / "x.safetensors", {"0": (24, 128)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "nvfp4"}, "0 has the format nvfp4; int8_tensorwise is read"),
        ({"convrot_groupsize": 32}, "0 has blocks of 32; 4, 16, 64 or 256 that divide its 128 channels"),
        ({"convrot_groupsize": 256}, "0 has blocks of 256"),
    ],
)
def test_other_settings_are_refused(tmp_path, settings, message):
    made(tmp_path / "x.safetensors", prefix="", **settings)
    with pytest.raises(ConvrotError, match=message):
        read_convrot(tmp_path / "x.safetensors", {"0": (24, 128)})


def test_a_fused_layer_s_rows_are_its_parts(tmp_path):
    names = ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.to_v"]
    modules = dict.fromkeys(names, (8, 16)) | {"pos_embed.proj": (), "transformer_blocks.0.attn.add_q_proj": (8, 16)}
    tensors = layer(np.random.default_rng(0).standard_normal((24, 16)), 16)
    save_file({f"joint_blocks.0.x_block.attn.qkv.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    found = read_convrot(tmp_path / "x.safetensors", modules)
    assert list(found) == names
    assert torch.equal(torch.cat([found[name].q for name in names]), tensors["weight"])
    assert torch.equal(torch.cat([found[name].scale for name in names]), tensors["weight_scale"].flatten())
