"""Plans of whole models: what they count is what a device does, and what torch counts."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

import loralith
from helpers import tiny_unet
from loralith.cli import main
from loralith.diffusion.peft_adapter import add_adapter
from loralith.diffusion.published import Source, find_model
from loralith.errors import LoralithError
from loralith.mapping.planning.step_plan import plan
from loralith.mapping.planning.trace import trace_model
from loralith.shapes.published_models import BESIDE_LORA
from loralith.spec.config import PRESETS
from loralith.spec.scheme import FQT

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
CONFIG = tiny_unet.CONFIG | {"block_out_channels": (8, 16)}


@pytest.mark.parametrize(("targets", "bits"), [(PROJECTIONS, 8), (("attn2.to_k", "attn2.to_v"), 8), (PROJECTIONS, 4)])
def test_a_plan_counts_what_a_device_does(targets, bits):
    config = PRESETS["tiny"]
    figures = plan(trace_model(Source("test", CONFIG, 3), targets=targets, rank=2, batch=2), config, bits)
    torch.manual_seed(0)
    model = add_adapter(UNet2DConditionModel(**CONFIG).requires_grad_(False), rank=2, alpha=4, targets=targets, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    with loralith.open_device("reference", config=config) as device:
        attachment = loralith.attach(model, device, FQT(weight_bits=bits), modules="all")
        y = model(torch.randn(2, 1, 4, 4), torch.tensor([1, 2]), torch.randn(2, 3, 6)).sample
        saved = attachment.saved_bytes()
        y.square().sum().backward()
        done = {layer.name.removeprefix("base_model.model."): layer.counters for layer in attachment.layers}
        weights = {layer.name.removeprefix("base_model.model."): sum(layer.weight_bytes()) for layer in attachment.layers}
    for layer in figures["layers"]:
        macs, moved = done[layer["name"]].macs, done[layer["name"]]
        if layer["kind"] == "lora":  # H and dH are measured first
            assert layer["macs"] < macs < 2 * layer["macs"]
            assert 0.7 < layer["bytes_written"] / moved.bytes_written < 1.3
        else:
            assert macs == layer["macs"], layer["name"]
            assert layer["bytes_written"] == moved.bytes_written, layer["name"]
        assert weights[layer["name"]] == layer["weight_bytes"], layer["name"]
    for kind, figure in saved.items():
        assert sum(layer["saved_bytes"] for layer in figures["layers"] if layer["kind"] == kind) == sum(figure), kind
    assert figures["macs"] == figures["macs_on_device"] == sum(layer["macs"] for layer in figures["layers"])


def test_what_stays_in_torch_is_counted_with_its_reason():
    traced = trace_model(Source("test", CONFIG, 3), targets=PROJECTIONS, rank=2, batch=2, modules="lora")
    figures = plan(traced, PRESETS["tiny"])
    assert {layer["why"] for layer in figures["layers"] if layer["where"] == "torch"} == {"only LoRA layers are mapped"}
    assert figures["macs_elsewhere"] == 0
    assert 0.0 < figures["share"] < 0.5
    assert figures["totals"]["conv in torch"]["bytes_read"] == 0
    everything = plan(trace_model(Source("test", CONFIG, 3), targets=PROJECTIONS, rank=2, batch=2), PRESETS["tiny"])
    assert figures["macs"] == everything["macs"]


def test_weights_of_4_bits_are_read_in_half_the_words():
    traced = trace_model(Source("test", CONFIG, 3), targets=PROJECTIONS, rank=2, batch=2)
    wide, narrow = (plan(traced, PRESETS["tiny"], bits)["layers"] for bits in (8, 4))
    less_weight = less_read = 0
    for before, after in zip(wide, narrow, strict=True):
        saved = before["weight_bytes"] - after["weight_bytes"]
        if before["kind"] == "attention":
            assert before == after
        elif saved:  # blocks begin at whole words, which may cost more of X: that never takes back all of it
            assert before["bytes_read"] > after["bytes_read"], before["name"]
        else:
            assert before["shape"].split()[2] in ("1", "2", "4", "6", "8"), "a row of one bus word stays one"
        less_weight += saved
        less_read += before["bytes_read"] - after["bytes_read"]
    assert less_read > 1.5 * less_weight, "W is read forward and backward; coarser blocks take some of it back"


def test_stable_diffusion_is_planned_without_weights():
    traced = trace_model(find_model("sd15"), targets=PROJECTIONS, rank=4, batch=1)
    assert traced.parameters == 859_520_964 + 797_184, "the published U-Net's, and LoRA's of rank 4"
    assert traced.macs == sum(step.macs for step in traced.steps)
    rest = sum(step.macs for step in traced.steps if step.choice.kind != "lora")
    assert rest == BESIDE_LORA["sd15"], "what pages of LoRA layers call the rest of a step"


def test_small_unet_from_the_command_line(capsys, tmp_path):
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **CONFIG}))
    assert main(["plan", "small", "--json"]) == 0
    small = json.loads(capsys.readouterr().out)
    assert small["macs_on_device"] >= 0.95 * small["macs"]
    assert small["macs"] == 122_659_456
    assert len(small["layers"]) == 147
    assert main(["plan", str(tmp_path), "--layers", "--targets", "kv", "--output", str(tmp_path / "plan.json")]) == 0
    shown = capsys.readouterr().out
    assert "Layers, in the order of the forward pass" in shown
    assert "nothing before it is trained" in json.loads((tmp_path / "plan.json").read_text())["layers"][0]["why"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["nowhere"],
            "the model must be small, sd15, sdxl, flux, flux2, sd3, sana, qwen-image, wan, ltx, z-image, pixart, or a folder with a",
        ),
        (["nowhere", "--map", "step"], "the model must be small, sd15, sdxl, or a folder with a U-Net's config.json, not 'nowhere'"),
        (["small", "--targets", "to_z"], "targets must be all, kv or some of"),
        (["small", "--rank", "0"], "rank must be at least 1, not 0"),
        (["small", "--config", "huge"], "config must be one of"),
    ],
)
def test_bad_input_is_named(capsys, words, message):
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_other_models_are_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(LoralithError, match="is of a FluxTransformer2DModel; a UNet2DConditionModel is what can be used here"):
        find_model(str(tmp_path))
    path.write_text("[")
    with pytest.raises(LoralithError, match="is not a U-Net's configuration"):
        find_model(str(tmp_path))
    with pytest.raises(LoralithError, match="the U-Net of odd cannot be built"):
        trace_model(Source("odd", {**CONFIG, "block_out_channels": (8,)}), targets=PROJECTIONS, rank=2, batch=1)
