"""LoKr's and LoHa's files: made by stock PEFT, written under every tool's names, and read by stock PEFT, diffusers and LyCORIS."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.adapters import PLAIN, SHAPES, output, unet
from helpers.same_values import assert_same_values
from loralith.cli import main
from loralith.diffusion.peft_adapter import module_shapes
from loralith.formats.adapter_checks import AdapterError
from loralith.formats.adapter_file import read_adapter
from loralith.formats.lycoris_file import read_lycoris, write_lycoris_diffusers, write_lycoris_kohya, write_lycoris_peft
from loralith.formats.run_folder import DIFFUSERS_FILE, KOHYA_FILE, PEFT_FILE

TARGETS = ["to_q", "to_v", "to_out.0", "conv1", "proj_in"]
KINDS = {
    "lokr": LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    "lokr of whole matrices": LoKrConfig(r=64, alpha=32, target_modules=TARGETS),
    "lokr of low rank": LoKrConfig(r=1, alpha=2, decompose_both=True, decompose_factor=4, target_modules=TARGETS),
    "lokr of kernels": LoKrConfig(r=1, alpha=1, use_effective_conv2d=True, target_modules=TARGETS),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=TARGETS),
    "loha of kernels": LoHaConfig(r=2, alpha=1, use_effective_conv2d=True, target_modules=TARGETS, rank_pattern={"attn1.to_q": 3}),
}


def made(kind, folder):
    """A U-Net with a filled adapter by stock PEFT, which is saved in ``folder``."""
    torch.manual_seed(2)
    model = get_peft_model(unet(), KINDS[kind])  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if ".lokr_" in name or ".hada_" in name:
            nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(str(folder))
    return model.eval()


def by_peft(folder):
    return output(PeftModel.from_pretrained(unet(), str(folder)).eval())


@pytest.mark.parametrize("kind", KINDS)
def test_every_tools_names_hold_the_same_adapter(kind, tmp_path):
    model = made(kind, tmp_path / "peft")
    want = output(model)
    assert not torch.allclose(want, PLAIN, atol=1e-3)
    adapter = read_lycoris(tmp_path / "peft", SHAPES)
    for name, layer in adapter.layers.items():
        own = model.base_model.model.get_submodule(name).get_delta_weight("default")
        assert torch.allclose(layer.weight(SHAPES[name]), own, atol=1e-6), name
    (tmp_path / "again").mkdir()
    write_lycoris_peft(adapter, tmp_path / "again", SHAPES, UNet2DConditionModel)
    assert_same_values(by_peft(tmp_path / "again"), want)
    for stability_names in (False, True):
        write_lycoris_kohya(adapter, set(SHAPES), tmp_path / "k.safetensors", stability_names=stability_names)
        keys = load_file(tmp_path / "k.safetensors")
        assert all(key.startswith("lora_unet_") for key in keys)
        assert any("input_blocks" in key for key in keys) == stability_names
        found = read_lycoris(tmp_path / "k.safetensors", SHAPES)
        folder = tmp_path / f"back {stability_names}"
        folder.mkdir()
        write_lycoris_peft(found, folder, SHAPES, UNet2DConditionModel)
        assert torch.allclose(by_peft(folder), want, atol=1e-6)
        for name, layer in adapter.layers.items():
            assert torch.allclose(found.layers[name].weight(SHAPES[name]), layer.weight(SHAPES[name]), atol=1e-7), name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("lokr")])
def test_stock_diffusers_reads_lokr(kind, tmp_path):
    want = output(made(kind, tmp_path / "peft"))
    adapter = read_lycoris(tmp_path / "peft", SHAPES)
    write_lycoris_diffusers(adapter, tmp_path, SHAPES, "unet.")
    stock = unet()
    stock.load_lora_adapter(str(tmp_path), prefix="unet", weight_name=DIFFUSERS_FILE)
    assert_same_values(output(stock), want)
    found = read_lycoris(tmp_path / DIFFUSERS_FILE, SHAPES)
    assert {name: layer.scale for name, layer in found.layers.items()} == {name: layer.scale for name, layer in adapter.layers.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_lyc_oris_reads_kohyas_file_to_the_same_weights(kind, tmp_path):
    modules = pytest.importorskip("lycoris.modules", reason="lycoris-lora is not installed: make test-outside")
    made(kind, tmp_path / "peft")
    adapter = read_lycoris(tmp_path / "peft", SHAPES)
    write_lycoris_kohya(adapter, set(SHAPES), tmp_path / "k.safetensors", stability_names=False)
    tensors = load_file(tmp_path / "k.safetensors")
    layers = dict(unet().named_modules())
    assert len(adapter.layers) > 5
    for name, layer in adapter.layers.items():
        kind_, parameters = modules.get_module(tensors, "lora_unet_" + name.replace(".", "_"))
        with torch.no_grad():
            if kind in ("lokr of low rank", "lokr of kernels"):  # of which LyCORIS 4.1.3 makes modules of other shapes than the file's
                from lycoris.functional.lokr import kron_weight  # pyright: ignore[reportMissingImports]

                *factors, alpha, _ = parameters
                rank = next((factors[place].shape[0] for place in (5, 2) if factors[place] is not None), None)
                got = kron_weight(*factors[:6], factors[7], scale=float(alpha) / rank if rank else 1.0).reshape(SHAPES[name])
            else:
                got = modules.make_module(kind_, parameters, name, layers[name]).get_weight(SHAPES[name])
        assert torch.allclose(got, layer.weight(SHAPES[name]), rtol=1e-5, atol=1e-6), name


def test_the_command_writes_what_each_tool_reads(tmp_path, capsys):
    unet().save_pretrained(tmp_path / "unet")
    words = ["adapter", "--model", str(tmp_path / "unet"), "--json"]
    for kind, files in (("lokr", {PEFT_FILE, DIFFUSERS_FILE, KOHYA_FILE}), ("loha", {PEFT_FILE, KOHYA_FILE})):
        want = output(made(kind, tmp_path / kind))
        out = tmp_path / f"{kind} out"
        assert main([*words, str(tmp_path / kind), "--output", str(out)]) == 0
        told = capsys.readouterr()
        figures = json.loads(told.out)
        assert figures["kind"] == {"lokr": "LoKr", "loha": "LoHa"}[kind]
        assert {Path(path).name for path in figures["written"]} == {*files, "adapter_config.json"}
        assert ("diffusers reads no LoHa" in told.err) == (kind == "loha")
        assert {layer["rank"] for layer in figures["layers"]} <= {2, None}
        assert_same_values(by_peft(out), want)
        assert main(["adapter", "--model", str(tmp_path / "unet"), str(out / KOHYA_FILE)]) == 0
        assert figures["kind"] in capsys.readouterr().out


NAME = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "lora_unet_" + NAME.replace(".", "_")


def small(**changes):
    tensors = {f"{KEY}.lokr_w1": torch.ones(2, 2), f"{KEY}.lokr_w2": torch.ones(4, 4), f"{KEY}.alpha": torch.tensor(5.0)}
    return {
        key: value for key, value in (tensors | {f"{KEY}.{name}": value for name, value in changes.items()}).items() if value is not None
    }


def test_two_whole_matrices_have_the_scale_1_whatever_alpha_says(tmp_path):
    """As LyCORIS, ComfyUI and diffusers have it."""
    save_file(small(), tmp_path / "x.safetensors")
    ((name, layer),) = read_lycoris(tmp_path / "x.safetensors", SHAPES).layers.items()
    assert name == NAME
    assert torch.equal(layer.weight((8, 8)), torch.ones(8, 8))
    save_file({key.replace(KEY, f"diffusion_model.{NAME}"): value for key, value in small().items()}, tmp_path / "comfy.safetensors")
    assert list(read_lycoris(tmp_path / "comfy.safetensors", SHAPES).layers) == [NAME]
    save_file({key.replace("lora_unet_", "lycoris_"): value for key, value in small().items()}, tmp_path / "own.safetensors")
    assert list(read_lycoris(tmp_path / "own.safetensors", SHAPES).layers) == [NAME]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lokr_w2": torch.ones(4, 3)}, r"lokr_w2': \[4, 3\]\}, which make no weight of \[8, 8\]"),
        ({"lokr_w2": None}, "to_q has the factors lokr_w1; LoKr has"),
        ({"lokr_w2": None, "lokr_w2_a": torch.ones(4, 2), "lokr_w2_b": torch.ones(3, 4)}, "shapes that do not multiply"),
        ({"hada_w1_a": torch.ones(8, 2)}, "holds LoHa and LoKr; one of them goes"),
        ({"dora_scale": torch.ones(8, 1)}, "LoKr with DoRA is not supported"),
        ({"lokr_t9": torch.ones(1)}, r"lokr_t9, which is none of LoKr's"),
        ({"lokr_w1": torch.full((2, 2), torch.nan)}, "that are not finite"),
        ({"alpha": torch.ones(2)}, "an alpha is one number"),
    ],
)
def test_what_is_no_lokr_of_this_model_is_refused(changes, told, tmp_path):
    save_file(small(**changes), tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=told):
        read_lycoris(tmp_path / "x.safetensors", SHAPES)


def test_other_layers_and_other_readers_are_named(tmp_path):
    save_file({key.replace("_blocks_1", "_blocks_9"): value for key, value in small().items()}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=r"blocks_9.*, which this model does not have"):
        read_lycoris(tmp_path / "x.safetensors", SHAPES)
    save_file(small(), tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=r"holds LoKr .*plain LoRA is; `loralith adapter` shows and converts it"):
        read_adapter(tmp_path / "x.safetensors", SHAPES)
    save_file({**small(), "lora_te_x.lokr_w1": torch.ones(1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="has layers of a text encoder"):
        read_lycoris(tmp_path / "x.safetensors", SHAPES)
    with pytest.warns(UserWarning, match="1 layers of a text encoder are left out: lora_te_x"):
        assert read_lycoris(tmp_path / "x.safetensors", SHAPES, unet_only=True).left_out == ("lora_te_x",)


def test_factors_that_peft_does_not_make_stay_kohyas(tmp_path):
    """LyCORIS' unbalanced factors have the larger part on the left."""
    save_file(small(lokr_w1=torch.ones(8, 2), lokr_w2=torch.ones(1, 4)), tmp_path / "x.safetensors")
    found = read_lycoris(tmp_path / "x.safetensors", SHAPES)
    with pytest.raises(AdapterError, match=r"PEFT makes no LoKr whose w1 have the shapes .*\[8, 2\]\); kohya's file holds them"):
        write_lycoris_peft(found, tmp_path, SHAPES, UNet2DConditionModel)
    write_lycoris_kohya(found, set(SHAPES), tmp_path / "y.safetensors", stability_names=False)
    assert torch.equal(load_file(tmp_path / "y.safetensors")[f"{KEY}.lokr_w1"], torch.ones(8, 2))


def test_settings_that_no_configuration_of_peft_has_at_once(tmp_path):
    """A w1 of two factors beside one that is whole at the same rank."""
    low = {"lokr_w1_a": torch.ones(4, 1), "lokr_w1_b": torch.ones(1, 4), "lokr_w2": torch.ones(2, 2), "alpha": torch.tensor(1.0)}
    whole = {"lokr_w1": torch.ones(4, 4), "lokr_w2_a": torch.ones(2, 1), "lokr_w2_b": torch.ones(1, 2), "alpha": torch.tensor(1.0)}
    tensors = {f"{KEY}.{name}": value for name, value in low.items()}
    tensors |= {f"{KEY[:-1]}v.{name}": value for name, value in whole.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_lycoris(tmp_path / "x.safetensors", SHAPES)
    with pytest.raises(AdapterError, match=r"PEFT's LoKr of .*to_[qv] has .*, the file has .*; kohya's file holds it as it is"):
        write_lycoris_peft(found, tmp_path, SHAPES, UNet2DConditionModel)
    assert not (tmp_path / PEFT_FILE).exists()


def test_a_fused_layer_of_flux_is_refused(tmp_path):
    config = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "in_channels": 4}
    config |= {"joint_attention_dim": 6, "pooled_projection_dim": 6, "axes_dims_rope": (2, 2, 0)}
    with torch.device("meta"):
        shapes = module_shapes(FluxTransformer2DModel(**config))
    for key, told in (
        ("double_blocks.0.img_attn.qkv", "attn.to_q.*, and its factors make no part's weight"),
        ("final_layer.adaLN_modulation.1", "halves"),
    ):
        save_file(
            {f"diffusion_model.{key}.lokr_w1": torch.ones(1, 1), f"diffusion_model.{key}.lokr_w2": torch.ones(24, 8)},
            tmp_path / "x.safetensors",
        )
        with pytest.raises(AdapterError, match=told):
            read_lycoris(tmp_path / "x.safetensors", shapes)
    save_file(
        {
            "diffusion_model.double_blocks.0.img_attn.proj.lokr_w1": torch.ones(2, 2),
            "diffusion_model.double_blocks.0.img_attn.proj.lokr_w2": torch.ones(4, 4),
        },
        tmp_path / "x.safetensors",
    )
    found = read_lycoris(tmp_path / "x.safetensors", shapes)
    assert list(found.layers) == ["transformer_blocks.0.attn.to_out.0"]
    write_lycoris_kohya(found, set(shapes), tmp_path / "y.safetensors", stability_names=False)
    assert "lora_unet_double_blocks_0_img_attn_proj.lokr_w1" in load_file(tmp_path / "y.safetensors")
