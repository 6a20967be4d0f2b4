"""Adapter files of FLUX and SD3 under kohya's and ComfyUI's names, and LoCon's middle factor: read and written."""

from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers, swap_scale_shift
from safetensors.torch import load_file, save_file

from loralith.cli import main
from loralith.diffusion.peft_adapter import module_shapes
from loralith.formats.adapter_checks import AdapterError
from loralith.formats.adapter_file import read_adapter, write_diffusers, write_kohya
from loralith.formats.adapter_layers import Adapter, Layer
from loralith.formats.transformer_names import own_names

FLUX = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "in_channels": 4}
FLUX |= {"joint_attention_dim": 6, "pooled_projection_dim": 6, "guidance_embeds": True, "axes_dims_rope": (2, 2, 0)}
SD3 = {"sample_size": 8, "num_layers": 2, "attention_head_dim": 4, "num_attention_heads": 2, "joint_attention_dim": 6}
SD3 |= {"caption_projection_dim": 8, "pooled_projection_dim": 6, "pos_embed_max_size": 8, "in_channels": 4}


def shapes(kind, config):
    with torch.device("meta"):
        return module_shapes(kind(**config))


MODELS = {"flux": shapes(FluxTransformer2DModel, FLUX), "sd3": shapes(SD3Transformer2DModel, SD3)}


def factors(shape, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, *shape[1:], generator=generator), torch.randn(shape[0], rank, generator=generator)


def filled(model, ends, rank=2, alpha=4.0):
    names = [name for name, shape in MODELS[model].items() if name.endswith(ends) and len(shape) == 2]
    assert names
    return Adapter({name: Layer(*factors(MODELS[model][name], rank, n), alpha) for n, name in enumerate(names)})


def deltas(adapter):
    """What each layer adds to its W."""
    return {name: layer.alpha / layer.rank * layer.b.double() @ layer.a.double() for name, layer in adapter.layers.items()}


def same(one, two):
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], rtol=1e-6, atol=1e-6) for name in one)


ALL = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out", "net.2", "proj_mlp", "linear_1")


@pytest.mark.parametrize("model", MODELS)
def test_every_name_is_of_modules_that_the_model_has(model):
    names = own_names(set(MODELS[model]))
    parts = [part for own in names.values() for part in own]
    assert len(set(parts)) == len(parts)
    assert set(parts) <= set(MODELS[model])
    linear = {name for name, shape in MODELS[model].items() if len(shape) == 2}
    assert linear - set(parts) <= {"pos_embed"}


@pytest.mark.parametrize("model", MODELS)
def test_what_is_written_is_read(model, tmp_path):
    adapter = filled(model, ALL)
    write_kohya(adapter, set(MODELS[model]), tmp_path / "kohya.safetensors", stability_names=False)
    tensors = load_file(tmp_path / "kohya.safetensors")
    fused = "lora_unet_double_blocks_0_img_attn_qkv" if model == "flux" else "lora_unet_joint_blocks_0_x_block_attn_qkv"
    assert tensors[f"{fused}.lora_down.weight"].shape[0] == 6, "the ranks of queries, keys and values"
    assert tensors[f"{fused}.alpha"] == 12
    found = read_adapter(tmp_path / "kohya.safetensors", MODELS[model])
    same(deltas(adapter), deltas(found))
    write_kohya(found, set(MODELS[model]), tmp_path / "again.safetensors", stability_names=False)
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items()), "parts with one A share it"


@pytest.mark.parametrize("model", MODELS)
def test_comfyui_keeps_the_models_own_names(model, tmp_path):
    adapter = filled(model, ALL)
    write_kohya(adapter, set(MODELS[model]), tmp_path / "kohya.safetensors", stability_names=False)
    tensors = load_file(tmp_path / "kohya.safetensors")
    for own in own_names(set(MODELS[model])):
        short = "lora_unet_" + own.replace(".", "_")
        for old, new in ((".lora_down.weight", ".lora_A.weight"), (".lora_up.weight", ".lora_B.weight"), (".alpha", ".alpha")):
            if short + old in tensors:
                tensors[f"diffusion_model.{own}{new}"] = tensors.pop(short + old)
    assert all(name.startswith("diffusion_model.") for name in tensors)
    save_file(tensors, tmp_path / "comfy.safetensors")
    same(deltas(adapter), deltas(read_adapter(tmp_path / "comfy.safetensors", MODELS[model])))


def test_diffusers_reads_kohya_s_flux_to_the_same_weights(tmp_path):
    """Its double blocks; single blocks have fixed sizes there."""
    ends = tuple(end for end in ALL if end not in ("proj_mlp", "linear_1"))
    layers = {name: layer for name, layer in filled("flux", ends).layers.items() if name.startswith("transformer_blocks")}
    adapter = Adapter(layers)
    write_kohya(adapter, set(MODELS["flux"]), tmp_path / "kohya.safetensors", stability_names=False)
    stock = _convert_kohya_flux_lora_to_diffusers(load_file(tmp_path / "kohya.safetensors"))
    found = {
        name: stock[f"transformer.{name}.lora_B.weight"].double() @ stock[f"transformer.{name}.lora_A.weight"].double() for name in layers
    }
    same(found, deltas(adapter))
    assert len(stock) == 2 * len(layers)


MODULATIONS = {
    "flux": {"norm_out.linear": "final_layer.adaLN_modulation.1"},
    "sd3": {
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "transformer_blocks.1.norm1_context.linear": "joint_blocks.1.context_block.adaLN_modulation.1",
    },
}
"""Layers whose halves diffusers has in the other order, and their names in the models' own code."""


@pytest.mark.parametrize("model", MODULATIONS)
@pytest.mark.parametrize("dora", [False, True])
def test_modulations_with_exchanged_halves(model, dora, tmp_path):
    adapter = filled(model, ("norm_out.linear", "norm1_context.linear", "norm1.linear"))
    if dora:
        count = torch.arange(1.0, 1 + 96)
        adapter = Adapter({name: replace(layer, magnitude=count[: len(layer.b)].clone()) for name, layer in adapter.layers.items()})
    write_kohya(adapter, set(MODELS[model]), tmp_path / "kohya.safetensors", stability_names=False)
    tensors = load_file(tmp_path / "kohya.safetensors")
    for name, layer in adapter.layers.items():
        own = MODULATIONS[model].get(name)
        if own is None:
            continue
        key, half = "lora_unet_" + own.replace(".", "_"), len(layer.b) // 2
        assert torch.equal(tensors[f"{key}.lora_down.weight"], layer.a)
        assert torch.equal(tensors[f"{key}.lora_up.weight"], swap_scale_shift(layer.b)), "as stock diffusers exchanges rows of W"
        assert not dora or tensors[f"{key}.dora_scale"].flatten().tolist() == [*range(half + 1, 2 * half + 1), *range(1, half + 1)]
    found = read_adapter(tmp_path / "kohya.safetensors", MODELS[model])
    assert found.layers.keys() == adapter.layers.keys()
    for name, layer in adapter.layers.items():
        assert torch.equal(found.layers[name].b, layer.b), name
        assert not dora or torch.equal(found.layers[name].magnitude, layer.magnitude), name


def test_diffusers_reads_kohya_s_last_modulation_to_the_same_weights(tmp_path):
    adapter = filled("flux", ("norm_out.linear", "transformer_blocks.0.attn.to_out.0"), alpha=2.0)
    adapter = Adapter({name: layer for name, layer in adapter.layers.items() if not name.startswith("single")})
    write_kohya(adapter, set(MODELS["flux"]), tmp_path / "kohya.safetensors", stability_names=False)
    stock = _convert_kohya_flux_lora_to_diffusers(load_file(tmp_path / "kohya.safetensors"))
    stock |= {f"transformer.{key}": stock[key] for key in stock if key.startswith("norm_out")}  # diffusers 0.42 leaves the prefix out there
    for name, layer in adapter.layers.items():
        assert torch.equal(stock[f"transformer.{name}.lora_A.weight"], layer.a)
        assert torch.equal(stock[f"transformer.{name}.lora_B.weight"], layer.b)


def test_the_command_takes_transformers(tmp_path, capsys):
    key = "lora_unet_double_blocks_0_img_attn_proj"
    save_file({f"{key}.lora_down.weight": torch.ones(1, 3072), f"{key}.lora_up.weight": torch.ones(3072, 1)}, tmp_path / "x.safetensors")
    assert main(["adapter", str(tmp_path / "x.safetensors"), "--model", "flux"]) == 0
    assert "transformer_blocks.0.attn.to_out.0" in capsys.readouterr().out


def test_diffusers_names_of_a_transformer(tmp_path):
    adapter = filled("sd3", ALL)
    write_diffusers(adapter, tmp_path, prefix="transformer.")
    found = read_adapter(tmp_path, MODELS["sd3"])
    assert {name: layer.alpha for name, layer in found.layers.items()} == dict.fromkeys(adapter.layers, 4.0)
    same(deltas(adapter), deltas(found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers.pop("transformer_blocks.0.attn.to_k"), "is all of .*, and not all have an adapter"),
        (lambda layers: layers.update({Q: Layer(layers[Q].a, layers[Q].b, 1.0)}), "have other scales or types"),
        (
            lambda layers: layers.update({"norm_out.lines": layers.pop("transformer_blocks.0.attn.to_out.0")}),
            "no name for norm_out.lines",
        ),
    ],
)
def test_what_a_fused_layer_cannot_hold_is_refused(change, message, tmp_path):
    adapter = filled("flux", ALL)
    layers = {**adapter.layers, **filled("flux", ("x_embedder",)).layers}
    change(layers)
    with pytest.raises(AdapterError, match=message):
        write_kohya(Adapter(layers), set(MODELS["flux"]), tmp_path / "x.safetensors", stability_names=False)
    assert not (tmp_path / "x.safetensors").exists()


Q = "transformer_blocks.0.attn.to_q"


def test_a_fused_layer_of_another_size_is_refused(tmp_path):
    a, b = factors((24, 8), 2, 0)
    save_file({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": a}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="lacks the tensor lora_unet_double_blocks_0_img_attn_qkv"):
        read_adapter(tmp_path / "x.safetensors", MODELS["flux"])
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b[:23].contiguous()}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=r"has B of shape \[23, 2\]; its parts have \[8, 8, 8\] rows"):
        read_adapter(tmp_path / "x.safetensors", MODELS["flux"])


def test_the_middle_factor_of_locon_is_taken_into_a(tmp_path):
    path, shapes = tmp_path / "x.safetensors", {"c": (7, 5, 3, 3)}
    down, mid, up = torch.randn(3, 5, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(7, 3, 1, 1)
    tensors = {"lora_unet_c.lora_down.weight": down, "lora_unet_c.lora_mid.weight": mid, "lora_unet_c.lora_up.weight": up}
    save_file(tensors, path)
    ((_, layer),) = read_adapter(path, shapes).layers.items()
    x = torch.randn(1, 5, 6, 6)
    conv = torch.nn.functional.conv2d
    want = conv(conv(conv(x, down), mid, padding=1), up)
    assert torch.allclose(conv(conv(x, layer.a, padding=1), layer.b), want, atol=1e-4)
    save_file({**tensors, "lora_unet_c.lora_mid.weight": mid[:2].contiguous()}, path)
    with pytest.raises(AdapterError, match=r"c has a middle factor of shape \[2, 3, 3, 3\]"):
        read_adapter(path, shapes)
