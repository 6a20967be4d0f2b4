"""Adapter files by kohya's names: read as stock diffusers reads them."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from helpers.adapters import (
    SHAPES,
    kohya,
    made,
    ours,
    output,
    read,
    unet,
    wanted,
)
from helpers.same_values import assert_same_values
from loralith.diffusion.peft_adapter import AdapterError, adapter_of, module_shapes
from loralith.diffusion.published import find_model
from loralith.formats.adapter_file import read_adapter
from loralith.formats.stability_names import sgm_blocks, sgm_name


@pytest.mark.parametrize("kind", ["plain", "patterns"])
def test_a_kohya_file_is_read_as_stock_diffusers_reads_it(kind, tmp_path):
    model = ours(kind)
    kohya(adapter_of(model), tmp_path / "kohya.safetensors")
    got = read(tmp_path / "kohya.safetensors")
    assert_same_values(got, output(model))
    if kind == "patterns":
        return  # diffusers 0.42 asks PEFT for names with ".processor." then, which fit nothing
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path), weight_name="kohya.safetensors")  # pyright: ignore[reportAssignmentType]
    stock = unet()
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, stock)
    assert_same_values(output(stock), got)


SGM = {
    "down_blocks.1.attentions.0": "input_blocks_3_1",
    "mid_block.attentions.0": "middle_block_1",
    "up_blocks.0.attentions.0": "output_blocks_0_1",
    "up_blocks.0.attentions.1": "output_blocks_1_1",
}
"""Blocks of CONFIG by Stability's names."""


def test_kohyas_names_for_sdxl_are_read_as_stock_diffusers_reads_them(tmp_path):
    adapter = adapter_of(ours("plain"))
    tensors = kohya(adapter, tmp_path / "plain.safetensors")
    for name, other in SGM.items():
        tensors = {key.replace(name.replace(".", "_"), other): tensor for key, tensor in tensors.items()}
    assert sum("_blocks_" in key or "middle" in key for key in tensors) == len(tensors)
    assert not any("attentions" in key for key in tensors)
    save_file(tensors, tmp_path / "kohya.safetensors")
    found = read_adapter(tmp_path / "kohya.safetensors", SHAPES)
    assert sorted(found.layers) == sorted(adapter.layers)
    loader = StableDiffusionXLPipeline
    state, alphas = loader.lora_state_dict(str(tmp_path), weight_name="kohya.safetensors", unet_config=unet().config)  # pyright: ignore[reportAssignmentType]
    stock = unet()
    loader.load_lora_into_unet(state, alphas, stock)
    assert_same_values(output(stock), read(tmp_path / "kohya.safetensors"))


def test_every_module_of_sdxl_has_one_name_of_stabilitys():
    with torch.device("meta"):
        names = module_shapes(UNet2DConditionModel(**find_model("sdxl").config))
    blocks = sgm_blocks(names)
    leaves = [name for name in names if name.endswith(("conv1", "to_q", "proj_in", "conv", "time_emb_proj", "conv_shortcut", "linear_1"))]
    sgm = {sgm_name(name, blocks) for name in leaves}
    assert len(sgm) == len(leaves)
    assert not any(name.startswith(("down_blocks", "up_blocks", "mid_block")) for name in sgm)
    assert {"input_blocks.4.1.transformer_blocks.0.attn1.to_q", "input_blocks.3.0.op", "output_blocks.2.2.conv"} <= sgm
    assert {"input_blocks.8.1.transformer_blocks.9.attn2.to_q", "output_blocks.8.0.skip_connection", "middle_block.1.proj_in"} <= sgm


def test_without_alpha_it_is_the_rank(tmp_path):
    adapter = adapter_of(ours("patterns"))
    kohya(adapter, tmp_path / "kohya.safetensors", alpha=False)
    found = read_adapter(tmp_path / "kohya.safetensors", SHAPES)
    assert all(layer.alpha == layer.rank for layer in found.layers.values())
    save_file({name: tensor.clone() for name, tensor in adapter.tensors("unet.").items()}, tmp_path / "bare.safetensors")
    stock = unet()
    stock.load_lora_adapter(str(tmp_path), prefix="unet", weight_name="bare.safetensors")
    assert_same_values(read(tmp_path / "bare.safetensors"), output(stock))


def test_a_header_of_a_text_encoder_alone_says_nothing_of_the_unet(tmp_path):
    adapter, path = adapter_of(ours("plain")), tmp_path / "x.safetensors"
    header = json.dumps({"text_encoder.r": 17, "text_encoder.lora_alpha": 34, "text_encoder.target_modules": ["q_proj"]})
    save_file({name: tensor.clone() for name, tensor in adapter.tensors("unet.").items()}, path, {"lora_adapter_metadata": header})
    found = read_adapter(path, SHAPES)
    assert all(layer.alpha == layer.rank for layer in found.layers.values())
    assert found.layers.keys() == adapter.layers.keys()


def test_names_from_before_peft_are_read(tmp_path):
    adapter = adapter_of(ours("plain"))
    old = {}
    for name, layer in adapter.layers.items():
        stem, _, last = name.replace("to_out.0", "to_out").rpartition(".")
        old |= {f"unet.{stem}.processor.{last}_lora.down.weight": layer.a.clone()}
        old |= {f"unet.{stem}.processor.{last}_lora.up.weight": layer.b.clone()}
    save_file(old, tmp_path / "old.safetensors")
    found = read_adapter(tmp_path / "old.safetensors", SHAPES)
    assert sorted(found.layers) == sorted(adapter.layers)
    for name, layer in adapter.layers.items():
        assert_same_values(found.layers[name].b, layer.b, name)


def test_alphas_beside_names_of_peft_are_used_as_stock_diffusers_uses_them(tmp_path):
    adapter = made("patterns")
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors("unet.").items()}
    tensors |= {f"unet.{name}.alpha": torch.tensor(layer.alpha) for name, layer in adapter.layers.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_adapter(tmp_path / "x.safetensors", SHAPES)
    assert {name: layer.alpha for name, layer in found.layers.items()} == {name: layer.alpha for name, layer in adapter.layers.items()}
    assert_same_values(read(tmp_path / "x.safetensors"), wanted("patterns"))


def test_a_kohya_file_with_one_layer_under_two_names_is_refused(tmp_path):
    adapter = made()
    tensors = kohya(adapter, tmp_path / "k.safetensors")
    name = "down_blocks_1_attentions_0"
    twice = {key.replace(name, "input_blocks_3_1"): tensor.clone() for key, tensor in tensors.items() if name in key}
    save_file({**tensors, **twice}, tmp_path / "k.safetensors")
    with pytest.raises(AdapterError, match=r"has down_blocks\.1.* twice, as lora_unet_"):
        read_adapter(tmp_path / "k.safetensors", SHAPES)
