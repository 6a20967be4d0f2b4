"""What an adapter file may hold and what is refused by name: settings, tensors, first values."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from helpers.adapters import (
    PLAIN,
    SHAPES,
    TARGETS,
    altered,
    edit,
    filled,
    made,
    ours,
    output,
    read,
    unet,
    wanted,
    written,
)
from helpers.same_values import assert_same_values
from helpers.tiny_unet import CONFIG
from loralith.cli import main
from loralith.diffusion.peft_adapter import AdapterError, add_adapter, load_adapter, save_adapter
from loralith.formats.adapter_file import read_adapter

FIRST = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"unet.{FIRST}.lora_B.weight"), rf"lacks the tensor {FIRST}.lora_B.weight"),
        (lambda t: t.update({f"unet.{FIRST}.lora_magnitude_vector": torch.ones(8)}), "is DoRA, and .* has no magnitudes"),
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
    for setting, value in (("lora_bias", True), ("bias", "all"), ("fan_in_fan_out", True)):
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
    assert_same_values(got, wanted())


def test_a_configuration_with_a_byte_order_mark_is_read_and_utf_16_is_named(tmp_path):
    written(tmp_path)
    path = tmp_path / "adapter_config.json"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert_same_values(read(tmp_path), wanted())
    path.write_text(text, encoding="utf-16")
    with pytest.raises(AdapterError, match=r"does not hold a PEFT adapter: it is UTF-16 text; save it as UTF-8"):
        read(tmp_path)


def test_alphas_that_differ_from_the_configuration_are_refused(tmp_path):
    written(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, f"base_model.model.{FIRST}.alpha": torch.tensor(6.0)}, path)
    assert_same_values(read(tmp_path), wanted())
    save_file({**tensors, f"base_model.model.{FIRST}.alpha": torch.tensor(3.0)}, path)
    with pytest.raises(AdapterError, match=rf"has the alpha 3 of {FIRST} as a tensor, and 6 in its configuration"):
        read(tmp_path)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_other_floats_are_read(kind, tmp_path):
    adapter = made()
    tensors = {name: tensor.to(kind) for name, tensor in adapter.tensors("unet.").items()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_adapter(tmp_path / "x.safetensors", SHAPES)
    for name, layer in found.layers.items():
        assert_same_values(layer.a.float(), tensors[f"unet.{name}.lora_A.weight"].float(), name)
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
