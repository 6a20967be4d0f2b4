"""Adapter files: what we write is loaded by stock PEFT and diffusers, what they and kohya write is loaded by us, with the same outputs."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from helpers.adapters import (
    BENCH,
    KINDS,
    PLAIN,
    SHAPES,
    TARGETS,
    filled,
    kohya,
    ours,
    output,
    read,
    unet,
)
from helpers.same_values import assert_same_values
from helpers.tiny_unet import CONFIG
from loralith.cli import main
from loralith.diffusion.peft_adapter import AdapterError, adapter_of, add_adapter, load_adapter, save_adapter
from loralith.formats.adapter_file import read_adapter
from loralith.methods import make_method
from loralith.methods.settings import FinetuneSettings


@pytest.mark.parametrize("kind", KINDS)
def test_stock_peft_and_diffusers_load_what_we_write(kind, tmp_path):
    model = ours(kind)
    want = output(model)
    assert not torch.allclose(want, PLAIN, atol=1e-3)
    save_adapter(model, tmp_path)
    assert_same_values(output(PeftModel.from_pretrained(unet(), str(tmp_path))), want)
    stock = unet()
    stock.load_lora_adapter(str(tmp_path), prefix="unet", weight_name="pytorch_lora_weights.safetensors")
    assert_same_values(output(stock), want)
    state, alphas, header = StableDiffusionPipeline.lora_state_dict(str(tmp_path), return_lora_metadata=True)  # pyright: ignore[reportAssignmentType]
    stock = unet()
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, stock, metadata=header)
    assert_same_values(output(stock), want)


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
        assert_same_values(read(tmp_path / file), output(model))
    other = add_adapter(unet(), targets=TARGETS, seed=5, **KINDS[kind])
    load_adapter(other, tmp_path)
    assert_same_values(output(other), output(model))


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
    assert_same_values(read(tmp_path / "peft"), want)
    torch.manual_seed(2)
    stock = unet()
    stock.add_adapter(stock_config(kind), "default")
    assert_same_values(output(stock), want)
    stock.save_lora_adapter(tmp_path / "unet", "default")
    assert_same_values(read(tmp_path / "unet"), want)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "pipeline",
        unet_lora_layers=get_peft_model_state_dict(stock),
        unet_lora_adapter_metadata=stock.peft_config["default"].to_dict(),
    )
    assert_same_values(read(tmp_path / "pipeline"), want)


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


def test_a_run_starts_from_the_unet_alone_on_request(small_model, tmp_path):
    path = tmp_path / "start.safetensors"
    settings = FinetuneSettings(tmp_path / "out", rank=2, model=small_model, start_from=path, unet_only=True)
    run = make_method(settings, settings.subject())
    tensors = adapter_of(filled(run.model)).tensors("unet.")
    text = {f"text_encoder.layers.0.q_proj.lora_{letter}.weight": torch.ones(3, 3) for letter in "AB"}
    save_file({name: tensor.contiguous() for name, tensor in {**tensors, **text}.items()}, path)
    settings = replace(settings, alpha=2.0)  # without a header alpha is r
    run = make_method(settings, settings.subject())
    with pytest.warns(UserWarning, match="1 layers of a text encoder are left out"):
        run.begin(BENCH)
    assert all(torch.equal(tensor, adapter_of(run.model).tensors("unet.")[name]) for name, tensor in tensors.items())
    run = make_method(replace(settings, unet_only=False), settings.subject())
    with pytest.raises(AdapterError, match="--unet-only takes those alone"):
        run.begin(BENCH)


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
    assert_same_values(output(PeftModel.from_pretrained(unet(), str(tmp_path / "out"))), output(ours("patterns")))
    assert set(load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")) == set(adapter_of(ours("plain")).tensors("unet."))
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err
