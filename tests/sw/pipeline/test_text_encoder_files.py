"""Adapters of text encoders in files of diffusers, kohya and ComfyUI, held against what stock diffusers and PEFT read."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.same_values import assert_same_values
from loralith.cli import main
from loralith.diffusion.text_encoders import find_text_encoders
from loralith.formats.adapter_checks import AdapterError
from loralith.formats.adapter_tensors import open_adapter
from loralith.formats.run_folder import DIFFUSERS_FILE, KOHYA_FILE
from loralith.formats.text_encoder_file import read_text_encoders

# of transformers 5, where PEFT 0.21 asks a text encoder for it
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

PARTS = {"sd": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2"), "sd3": ("text_encoder", "text_encoder_2")}
TEXT = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "fc1"], rank_pattern={"layers.1.mlp.fc1": 3}, alpha_pattern={"fc1": 5})
DENOISER = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"])
T5 = LoraConfig(r=2, lora_alpha=3, target_modules=["q", "wo"])


def trained(folder: Path, parts: tuple[str, ...]) -> tuple[Any, dict[str, PeftModel]]:
    """A pipeline whose denoiser and text encoders have filled adapters by stock PEFT, which are returned."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    denoiser = "unet" if hasattr(pipe, "unet") else "transformer"
    torch.manual_seed(3)
    models = {}
    for part in (denoiser, *parts):
        config = DENOISER if part == denoiser else T5 if "T5" in type(getattr(pipe, part)).__name__ else TEXT
        models[part] = get_peft_model(getattr(pipe, part), copy.deepcopy(config))
        for name, parameter in models[part].named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.4)
    return pipe, models


@torch.no_grad()
def states(pipe: Any, parts: tuple[str, ...]) -> list[torch.Tensor]:
    ids = torch.arange(1, 9)[None]
    return [getattr(pipe, part)(ids).last_hidden_state for part in parts]


def diffusers_file(folder: Path, pipe: Any, models: dict[str, PeftModel]) -> None:
    """As stock diffusers' `save_lora_weights` writes it, alpha in the header."""
    layers = {}
    for part, model in models.items():
        state = {name.removeprefix("base_model.model."): tensor for name, tensor in get_peft_model_state_dict(model).items()}
        layers[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(state)
    metadata = {f"{part}_lora_adapter_metadata": model.peft_config["default"].to_dict() for part, model in models.items()}
    type(pipe).save_lora_weights(folder, **layers, **metadata)


@pytest.mark.parametrize("kind", PARTS)
def test_stock_diffusers_reads_what_the_command_writes(
    kind: str, pipelines: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, folder = PARTS[kind], pipelines(kind)
    pipe, models = trained(folder, parts)
    want = states(pipe, parts)
    assert not torch.allclose(want[0], states(DiffusionPipeline.from_pretrained(folder), parts)[0], atol=1e-3)
    diffusers_file(tmp_path / "in", pipe, models)
    words = ["adapter", "--model", str(folder), "--json"]
    assert main([*words, str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["text_encoders"]) == set(parts)
    alphas = {(layer["name"], layer["rank"], layer["alpha"]) for layer in figures["text_encoders"]["text_encoder"]}
    assert alphas == {
        *((f"text_model.encoder.layers.{n}.self_attn.q_proj", 2, 3.0) for n in range(2)),
        *((f"text_model.encoder.layers.{n}.mlp.fc1", 2 + n, 5.0) for n in range(2)),
    }
    stock = DiffusionPipeline.from_pretrained(folder)
    stock.load_lora_weights(tmp_path / "out", weight_name=DIFFUSERS_FILE)
    for got, wanted in zip(states(stock, parts), want, strict=True):
        assert_same_values(got, wanted)
    for part, wanted in zip(parts, want, strict=True):
        plain = getattr(DiffusionPipeline.from_pretrained(folder), part)
        one = PeftModel.from_pretrained(plain, str(tmp_path / "out" / part))
        assert_same_values(one(torch.arange(1, 9)[None]).last_hidden_state.detach(), wanted)
    assert main([*words, str(tmp_path / "out" / KOHYA_FILE), "--output", str(tmp_path / "again")]) == 0
    first, again = (load_file(tmp_path / name / DIFFUSERS_FILE) for name in ("out", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first if kind != "sd3" or name.startswith("text_encoder"))


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_stock_diffusers_reads_kohyas_file(kind: str, pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    parts, folder = PARTS[kind], pipelines(kind)
    pipe, models = trained(folder, parts)
    diffusers_file(tmp_path / "in", pipe, models)
    assert main(["adapter", "--model", str(folder), str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    names = set(load_file(tmp_path / "out" / KOHYA_FILE))
    prefixes = ("lora_te_",) if kind == "sd" else ("lora_te1_", "lora_te2_")
    assert all(any(name.startswith(f"{prefix}text_model_encoder_layers_0") for name in names) for prefix in prefixes)
    state, alphas = type(pipe).lora_state_dict(tmp_path / "out", weight_name=KOHYA_FILE, unet_config=pipe.unet.config)
    for part in parts:  # diffusers 0.42 then loses alphas of a CLIPTextModel of transformers 5.6 and later, so what it read is compared
        for name, parameter in models[part].named_parameters():
            if ".lora_" in name:
                layer = name.removeprefix("base_model.model.").removeprefix("text_model.").replace(".default", "")
                layer = layer.replace(".lora_A.", ".lora_linear_layer.down.").replace(".lora_B.", ".lora_linear_layer.up.")
                layer = f"{part}.text_model.{layer.replace('q_proj.lora_linear_layer', 'to_q_lora')}"
                assert torch.equal(state[layer], parameter), name
                assert alphas[layer.replace(".up.", ".down.") + ".alpha"] == (5 if "fc1" in layer else 3)
    if kind == "sd":  # whose U-Net's blocks have diffusers' own names; what it makes of the file are its names from before PEFT
        old = {name: tensor for name, tensor in state.items() if name.startswith("text_encoder.")}
        assert any("to_q_lora.down" in name for name in old)
        save_file(old, tmp_path / "old.safetensors")
        found = read_text_encoders(open_adapter(tmp_path / "old.safetensors"), find_text_encoders(str(folder)))
        wanted_names = read_text_encoders(open_adapter(tmp_path / "out" / KOHYA_FILE), find_text_encoders(str(folder)))
        assert found["text_encoder"].layers.keys() == wanted_names["text_encoder"].layers.keys()


def test_comfyuis_names_and_t5(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    parts, folder = ("text_encoder", "text_encoder_2", "text_encoder_3"), pipelines("sd3")
    _, models = trained(folder, parts)
    encoders = find_text_encoders(str(folder))
    assert [(one.part, one.comfy) for one in encoders] == list(zip(parts, ("clip_l", "clip_g", "t5xxl"), strict=True))
    tensors, wanted = {}, {}
    for encoder in encoders:
        for name, tensor in get_peft_model_state_dict(models[encoder.part]).items():
            short = name.removeprefix("base_model.model.")
            short = short if encoder.wrapped else f"text_model.{short}"
            wanted[encoder.part, short] = tensor
            tensors[f"text_encoders.{encoder.comfy}.transformer.{short}"] = tensor.clone()
    save_file(tensors, tmp_path / "comfy.safetensors")
    found = read_text_encoders(open_adapter(tmp_path / "comfy.safetensors"), encoders)
    got = {(part, name): tensor for part, adapter in found.items() for name, tensor in adapter.tensors("").items()}
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], tensor) for key, tensor in wanted.items())
    assert any("SelfAttention.q" in name for part, name in got if part == "text_encoder_3")
    assert main(["adapter", "--model", str(folder), str(tmp_path / "comfy.safetensors"), "--output", str(tmp_path / "out")]) == 0
    names = load_file(tmp_path / "out" / KOHYA_FILE)
    assert "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight" in names


def test_what_the_pipeline_does_not_have_is_named(
    pipelines: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = pipelines("sd"), tmp_path / "x.safetensors"
    words = ["adapter", "--model", str(folder), str(path)]
    a, b = torch.ones(1, 16), torch.ones(16, 1)
    key = "text_model_encoder_layers_0_self_attn_q_proj"

    def told(**tensors: torch.Tensor) -> str:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
        assert main(words) == 2
        return capsys.readouterr().err

    pair = {"lora_down.weight": a, "lora_up.weight": b}
    assert "lora_te2_" in (error := told(**{f"lora_te2_{key}.{end}": tensor for end, tensor in pair.items()}))
    assert "of a text encoder that this pipeline does not have; it has text_encoder., text_encoders.clip_l.transformer." in error
    wrong = {f"lora_te_{key.replace('q_proj', 'x_proj')}.{end}": tensor for end, tensor in pair.items()}
    assert "x_proj, which this model does not have" in told(**wrong)
    assert "A and B are exchanged" in told(**{f"lora_te_{key}.lora_down.weight": b, f"lora_te_{key}.lora_up.weight": a})
    twice = {f"lora_te{n}_{key}.{end}": tensor for n in ("", "1") for end, tensor in pair.items()}
    assert f"has {key}.lora_down.weight of text_encoder twice" in told(**twice)
    save_file({f"lora_te_{key}.{end}": tensor.clone() for end, tensor in pair.items()}, path)
    assert main(words) == 0, "of a text encoder alone"
    assert "self_attn.q_proj" in capsys.readouterr().out
    assert main(["adapter", str(path)]) == 2
    assert "--unet-only takes those alone" in capsys.readouterr().err
    with pytest.raises(AdapterError, match="no text encoder"):
        read_text_encoders(open_adapter(path), [])


def test_the_published_pipelines_have_their_text_encoders() -> None:
    sizes = {name: [(one.comfy, len(one.shapes)) for one in find_text_encoders(name)] for name in ("sd15", "sdxl", "sd3", "flux", "wan")}
    assert [comfy for comfy, _ in sizes["sd3"]] == ["clip_l", "clip_g", "t5xxl"]
    assert [comfy for comfy, _ in sizes["flux"]] == ["clip_l", "t5xxl"]
    assert sizes["wan"] == []
    one = find_text_encoders("sd15")[0]
    assert one.shapes["text_model.encoder.layers.11.mlp.fc1"] == (3072, 768)
    assert find_text_encoders("sdxl")[1].shapes["text_model.encoder.layers.31.mlp.fc1"] == (5120, 1280)
    assert find_text_encoders("flux")[1].shapes["encoder.block.23.layer.1.DenseReluDense.wi_0"] == (10240, 4096)
