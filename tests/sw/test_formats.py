"""Adapter files: what we write is loaded by stock PEFT and diffusers, what they and kohya write is loaded by us, with the same outputs."""

import json
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from loralith.cli import main
from loralith.diffusion.adapter import AdapterError, adapter_of, add_adapter, load_adapter, module_shapes, save_adapter, with_adapter
from loralith.diffusion.formats import read_adapter, sgm_blocks, sgm_name, write_peft
from loralith.mapping.configs import find_model

CONFIG = {
    "sample_size": 4,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
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


@pytest.mark.parametrize("kind", KINDS)
def test_stock_peft_and_diffusers_load_what_we_write(kind, tmp_path):
    model = ours(kind)
    want = output(model)
    assert not torch.allclose(want, PLAIN, atol=1e-3)
    save_adapter(model, tmp_path)
    assert torch.equal(output(PeftModel.from_pretrained(unet(), str(tmp_path))), want)
    stock = unet()
    stock.load_lora_adapter(str(tmp_path), prefix="unet", weight_name="pytorch_lora_weights.safetensors")
    assert torch.equal(output(stock), want)
    state, alphas, header = StableDiffusionPipeline.lora_state_dict(str(tmp_path), return_lora_metadata=True)  # pyright: ignore[reportAssignmentType]
    stock = unet()
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, stock, metadata=header)
    assert torch.equal(output(stock), want)


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_is_read_back_the_same(kind, tmp_path):
    model = ours(kind)
    save_adapter(model, tmp_path)
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_adapter(model, tmp_path)
    assert content == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for file in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        found = read_adapter(tmp_path / file, SHAPES)
        mine = adapter_of(model)
        assert found.rslora == mine.rslora
        assert {name: (layer.rank, layer.alpha) for name, layer in found.layers.items()} == {
            name: (layer.rank, layer.alpha) for name, layer in mine.layers.items()
        }
        assert all(torch.equal(found.layers[name].a, layer.a) for name, layer in mine.layers.items())
        assert torch.equal(read(tmp_path / file), output(model))
    other = add_adapter(unet(), targets=TARGETS, seed=5, **KINDS[kind])
    load_adapter(other, tmp_path)
    assert torch.equal(output(other), output(model))


def stock_config(kind):
    told = KINDS[kind]
    return LoraConfig(
        r=told["rank"],
        lora_alpha=told["alpha"],
        target_modules=list(TARGETS),
        rank_pattern=told.get("rank_pattern", {}),
        alpha_pattern=told.get("alpha_pattern", {}),
        use_rslora=told.get("rslora", False),
        init_lora_weights=False,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_we_load_what_stock_peft_and_diffusers_write(kind, tmp_path):
    torch.manual_seed(2)
    peft = get_peft_model(unet(), stock_config(kind))
    want = output(peft)
    peft.save_pretrained(tmp_path / "peft")
    assert torch.equal(read(tmp_path / "peft"), want)
    torch.manual_seed(2)
    stock = unet()
    stock.add_adapter(stock_config(kind), "default")
    assert torch.equal(output(stock), want)
    stock.save_lora_adapter(tmp_path / "unet", "default")
    assert torch.equal(read(tmp_path / "unet"), want)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "pipeline",
        unet_lora_layers=get_peft_model_state_dict(stock),
        unet_lora_adapter_metadata=stock.peft_config["default"].to_dict(),
    )
    assert torch.equal(read(tmp_path / "pipeline"), want)


def kohya(adapter, path, alpha=True):
    tensors = {}
    for name, layer in adapter.layers.items():
        short = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{short}.lora_down.weight": layer.a.clone(), f"{short}.lora_up.weight": layer.b.clone()}
        if alpha:
            tensors[f"{short}.alpha"] = torch.tensor(layer.alpha)
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("kind", ["plain", "patterns"])
def test_a_kohya_file_is_read_as_stock_diffusers_reads_it(kind, tmp_path):
    model = ours(kind)
    kohya(adapter_of(model), tmp_path / "kohya.safetensors")
    got = read(tmp_path / "kohya.safetensors")
    assert torch.equal(got, output(model))
    if kind == "patterns":
        return  # diffusers 0.42 asks PEFT for names with ".processor." then, which fit nothing
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path), weight_name="kohya.safetensors")  # pyright: ignore[reportAssignmentType]
    stock = unet()
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, stock)
    assert torch.equal(output(stock), got)


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
    assert torch.equal(output(stock), read(tmp_path / "kohya.safetensors"))


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
    assert torch.equal(read(tmp_path / "bare.safetensors"), output(stock))


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
    assert all(torch.equal(found.layers[name].b, layer.b) for name, layer in adapter.layers.items())


def altered(tmp_path, change, name="x.safetensors"):
    """A file of diffusers with its tensors changed."""
    tensors = {key: tensor.clone() for key, tensor in made().tensors("unet.").items()}
    change(tensors)
    save_file(tensors, tmp_path / name)
    return tmp_path / name


FIRST = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"unet.{FIRST}.lora_B.weight"), rf"lacks the tensor {FIRST}.lora_B.weight"),
        (lambda t: t.update({f"unet.{FIRST}.lora_magnitude_vector": torch.ones(8)}), r"holds DoRA \(unet.*\), which is not supported"),
        (lambda t: t.update({"unet.x.hada_w1_a": torch.ones(8)}), "holds LoHa"),
        (lambda t: t.update({f"unet.{FIRST}.lora_B.bias": torch.ones(8)}), "has a LoRA bias"),
        (lambda t: t.update({"text_encoder.q.lora_A.weight": torch.ones(8, 8)}), "has layers of a text encoder"),
        (lambda t: t[f"unet.{FIRST}.lora_A.weight"].fill_(float("nan")), f"values in A of {FIRST} that are not finite"),
        (lambda t: t.update({f"unet.{FIRST}.lora_B.weight": torch.ones(8, 2)}), f"{FIRST} has A of rank 3 and B of rank 2"),
        (
            lambda t: t.update({"unet.else.lora_A.weight": torch.ones(3, 8), "unet.else.lora_B.weight": torch.ones(8, 3)}),
            "has the layer else, which this model does not have",
        ),
        (lambda t: t.clear(), "holds no LoRA tensors"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, change, message):
    path = altered(tmp_path, change)
    with pytest.raises(AdapterError, match=message):
        read_adapter(path, SHAPES)


@pytest.mark.parametrize("tool", ["kohya", "diffusers"])
def test_the_unet_alone_is_taken_on_request(tool, tmp_path, capsys):
    adapter, path = adapter_of(ours("plain")), tmp_path / "x.safetensors"
    tensors = kohya(adapter, path) if tool == "kohya" else adapter.tensors("unet.")
    if tool == "kohya":
        left = ["lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_projection"]
        more = {f"{name}.{end}": torch.ones(3, 3) for name in left for end in ("lora_down.weight", "lora_up.weight")}
        more[f"{left[0]}.alpha"] = torch.tensor(3.0)
    else:
        left = ["text_encoder.layers.0.q_proj", "text_encoder_2.layers.0.q_proj"]
        more = {f"{name}.lora_{letter}.weight": torch.ones(3, 3) for name in left for letter in "AB"}
    save_file({name: tensor.contiguous() for name, tensor in {**tensors, **more}.items()}, path)
    with pytest.raises(AdapterError, match=r"has layers of a text encoder .*; --unet-only takes those alone"):
        read_adapter(path, SHAPES)
    with pytest.warns(UserWarning, match=f"2 layers of a text encoder are left out: {', '.join(left)}"):
        found = read_adapter(path, SHAPES, unet_only=True)
    assert found.left_out == tuple(left)
    model = add_adapter(unet(), targets=TARGETS, seed=0, rank=3, alpha=6 if tool == "kohya" else 3)  # without a header alpha is r
    with pytest.warns(UserWarning, match="are left out"):
        load_adapter(model, path, unet_only=True)
    assert all(torch.equal(layer.b, adapter.layers[name].b) for name, layer in adapter_of(model).layers.items())
    assert {name: layer.rank for name, layer in found.layers.items()} == {name: layer.rank for name, layer in adapter.layers.items()}
    assert all(torch.equal(found.layers[name].b, layer.b) for name, layer in adapter.layers.items())
    folder = tmp_path / "unet"
    unet().save_config(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["adapter", str(path), "--model", str(folder), "--unet-only", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["left_out"] == left
    assert f"left out: {', '.join(left)}" in told.err
    save_file(more, path)
    with pytest.raises(AdapterError, match="holds no LoRA tensors of a U-Net"):
        read_adapter(path, SHAPES, unet_only=True)


def test_settings_that_differ_or_are_not_supported(tmp_path):
    save_adapter(ours("rslora"), tmp_path)
    model = add_adapter(unet(), targets=TARGETS, seed=0, rank=4, alpha=2)
    before = output(filled(model))
    with pytest.raises(AdapterError, match="has use_rslora True, this run has False"):
        load_adapter(model, tmp_path)
    save_adapter(ours("patterns"), tmp_path)
    model = filled(add_adapter(unet(), targets=TARGETS, seed=0, rank=3, alpha=6))
    with pytest.raises(AdapterError, match=r"has lora_alpha 1.5, this run has 6 \(down_blocks.*attn1.to_v\)|has r 5, this run has 3"):
        load_adapter(model, tmp_path)
    assert not torch.equal(before, PLAIN)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for setting, value in (("use_dora", True), ("bias", "all"), ("fan_in_fan_out", True)):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, setting: value}))
        with pytest.raises(AdapterError, match=f"has {setting} {value!r}, which is not supported"):
            read_adapter(tmp_path, SHAPES)
    with pytest.raises(AdapterError, match="the pattern 'to_nothing' fits no layer with an adapter"):
        add_adapter(unet(), targets=TARGETS, seed=0, rank=3, alpha=6, rank_pattern={"to_nothing": 4})
    with pytest.raises(AdapterError, match="does not hold a PEFT adapter or one of diffusers"):
        read_adapter(tmp_path.parent, SHAPES)
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(AdapterError, match=r"broken\.safetensors does not hold an adapter"):
        read_adapter(tmp_path / "broken.safetensors", SHAPES)


def test_command_shows_and_converts(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = kohya(adapter_of(ours("patterns")), tmp_path / "kohya.safetensors")
    words = ["adapter", str(tmp_path / "kohya.safetensors"), "--model", str(folder), "--output", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["layers"]) == len(tensors) // 3
    assert {layer["alpha"] for layer in shown["layers"]} == {6.0, 1.5}
    assert torch.equal(output(PeftModel.from_pretrained(unet(), str(tmp_path / "out"))), output(ours("patterns")))
    assert set(load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")) == set(adapter_of(ours("plain")).tensors("unet."))
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err


# Every field and tensor is used or refused.


@pytest.mark.parametrize("first", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "mica"])
def test_first_values_that_change_the_base_model_are_refused(first, tmp_path):
    written(tmp_path)
    edit(tmp_path, init_lora_weights=first)
    with pytest.raises(AdapterError, match=rf"has init_lora_weights '{first}', which changes the base model's weights"):
        read_adapter(tmp_path, SHAPES)


def test_a_pissa_adapter_as_peft_writes_it_is_refused_and_its_conversion_read(tmp_path):
    """Its A and B belong to W less their product: read as plain LoRA, the principal part of W would count twice."""
    peft = get_peft_model(unet(), LoraConfig(r=3, lora_alpha=3, target_modules=list(TARGETS), init_lora_weights="pissa"))
    peft.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    want = output(peft)
    peft.save_pretrained(tmp_path / "trained")
    with pytest.raises(AdapterError, match="has init_lora_weights 'pissa'"):
        read(tmp_path / "trained")
    peft.peft_config["default"].init_lora_weights = True
    peft.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    assert torch.allclose(read(tmp_path / "plain"), want, atol=1e-5)


def written(folder):
    """What `save_adapter` writes of `ours`, without making the model again."""
    config = LoraConfig(r=3, lora_alpha=6, target_modules=list(TARGETS))
    write_peft(made(), folder, config)


def edit(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("peft_type", "LOHA", "is an adapter of the type LOHA"),
        ("lora_bias", True, "has lora_bias True, which is not supported"),
        ("use_qalora", True, "has use_qalora True"),
        ("modules_to_save", ["conv_out"], r"has modules_to_save \['conv_out'\]"),
        ("layer_replication", [[0, 1]], r"has layer_replication \[\[0, 1\]\]"),
        ("trainable_token_indices", [1], r"has trainable_token_indices \[1\]"),
        ("bias", "lora_only", "has bias 'lora_only'"),
        ("r", 4, "has A of rank 3, the configuration has 4"),
        ("rank_pattern", {"to_q": 2}, "to_q has A of rank 3, the configuration has 2"),
        ("rank_pattern", 2, "has rank_pattern 2, which is no JSON object"),
        ("lora_alpha", 0, "has the alpha of .* 0; it must be a number other than 0"),
        ("lora_alpha", "8", "has the alpha of .* '8'"),
        ("target_modules", ["to_q"], r"has the layer .*, which its configuration's target_modules do not name"),
        ("exclude_modules", ["to_v"], r"has the layer .*to_v, which its configuration's target_modules do not name"),
    ],
)
def test_settings_are_used_or_refused(setting, value, message, tmp_path):
    written(tmp_path)
    edit(tmp_path, **{setting: value})
    with pytest.raises(AdapterError, match=message):
        read_adapter(tmp_path, SHAPES)


def test_a_setting_that_peft_does_not_know_is_ignored_with_a_warning(tmp_path):
    written(tmp_path)
    edit(tmp_path, of_a_later_version={"scale": 2}, another=None, lora_dropout=0.5)
    with pytest.warns(UserWarning, match="has of_a_later_version {'scale': 2}, which PEFT does not know; ignored"):
        got = read(tmp_path)
    assert torch.equal(got, wanted())


def test_a_configuration_with_a_byte_order_mark_is_read_and_utf_16_is_named(tmp_path):
    written(tmp_path)
    path = tmp_path / "adapter_config.json"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert torch.equal(read(tmp_path), wanted())
    path.write_text(text, encoding="utf-16")
    with pytest.raises(AdapterError, match=r"does not hold a PEFT adapter: it is UTF-16 text; save it as UTF-8"):
        read(tmp_path)


def test_alphas_beside_names_of_peft_are_used_as_stock_diffusers_uses_them(tmp_path):
    adapter = made("patterns")
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors("unet.").items()}
    tensors |= {f"unet.{name}.alpha": torch.tensor(layer.alpha) for name, layer in adapter.layers.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_adapter(tmp_path / "x.safetensors", SHAPES)
    assert {name: layer.alpha for name, layer in found.layers.items()} == {name: layer.alpha for name, layer in adapter.layers.items()}
    assert torch.equal(read(tmp_path / "x.safetensors"), wanted("patterns"))


def test_alphas_that_differ_from_the_configuration_are_refused(tmp_path):
    written(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, f"base_model.model.{FIRST}.alpha": torch.tensor(6.0)}, path)
    assert torch.equal(read(tmp_path), wanted())
    save_file({**tensors, f"base_model.model.{FIRST}.alpha": torch.tensor(3.0)}, path)
    with pytest.raises(AdapterError, match=rf"has the alpha 3 of {FIRST} as a tensor, and 6 in its configuration"):
        read(tmp_path)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_other_floats_are_read(kind, tmp_path):
    adapter = made()
    tensors = {name: tensor.to(kind) for name, tensor in adapter.tensors("unet.").items()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_adapter(tmp_path / "x.safetensors", SHAPES)
    assert all(torch.equal(layer.a.float(), tensors[f"unet.{name}.lora_A.weight"].float()) for name, layer in found.layers.items())
    read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, a, b: t.update({a: torch.ones(3, 9)}), r"has A of shape \[3, 9\] and B of shape \[8, 3\]: A must be \[r, 8\]"),
        (lambda t, a, b: t.update({b: torch.ones(7, 3)}), r"and B of shape \[7, 3\]: A must be \[r, 8\] and B \[8, r\]"),
        (lambda t, a, b: t.update({a: t[b], b: t[a]}), "A and B are exchanged"),
        (lambda t, a, b: t.update({a: torch.ones(0, 8), b: torch.ones(8, 0)}), "has an adapter of rank 0"),
        (lambda t, a, b: t.update({a: torch.ones(3, 8, 1, 1), b: torch.ones(8, 3, 1, 1)}), r"A must be \[r, 8\]"),
        (lambda t, a, b: t.update({a: torch.ones(3), b: torch.ones(8)}), r"A of shape \[3\] and B of shape \[8\]"),
        (lambda t, a, b: t.update({a: t[a].to(torch.int8)}), "A of .* of type int8, which is not supported"),
        (lambda t, a, b: t.update({"unet.nothing.alpha": torch.tensor(3.0)}), r"has the tensor nothing\.alpha, which is none of a LoRA"),
        (lambda t, a, b: t.update({a.replace("lora_A.weight", "alpha"): torch.ones(2)}), r"alpha of shape \(2,\); an alpha is one number"),
        (lambda t, a, b: t.update({a.replace("lora_A.weight", "alpha"): torch.tensor(0.0)}), "it must be a number other than 0"),
        (lambda t, a, b: t.update({a.removeprefix("unet."): t[a].clone()}), "lora_A.weight twice, as"),
        (lambda t, a, b: t.update({"unet.conv_out.weight": torch.ones(1, 8, 3, 3)}), r"has the tensor conv_out\.weight, which is none"),
        (
            lambda t, a, b: t.update(
                {"unet.conv_norm_out.lora_A.weight": torch.ones(3, 8), "unet.conv_norm_out.lora_B.weight": torch.ones(8, 3)}
            ),
            "has the layer conv_norm_out, which is no Linear and no convolution",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message, tmp_path, capsys):
    path = altered(tmp_path, lambda t: change(t, f"unet.{FIRST}.lora_A.weight", f"unet.{FIRST}.lora_B.weight"))
    with pytest.raises(AdapterError, match=message):
        read_adapter(path, SHAPES)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert main(["adapter", str(path), "--model", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert str(path) in capsys.readouterr().err


def test_a_kohya_file_with_one_layer_under_two_names_is_refused(tmp_path):
    adapter = made()
    tensors = kohya(adapter, tmp_path / "k.safetensors")
    name = "down_blocks_1_attentions_0"
    twice = {key.replace(name, "input_blocks_3_1"): tensor.clone() for key, tensor in tensors.items() if name in key}
    save_file({**tensors, **twice}, tmp_path / "k.safetensors")
    with pytest.raises(AdapterError, match=r"has down_blocks\.1.* twice, as lora_unet_"):
        read_adapter(tmp_path / "k.safetensors", SHAPES)
