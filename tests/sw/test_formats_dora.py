"""DoRA, convolutions, 16-bit tensors and metadata in adapter files of every kind: written, read back, and read by stock tools."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.adapters import PLAIN, SHAPES, edit, output, read, unet
from helpers.same_values import assert_same_values
from helpers.tiny_unet import CONFIG
from loralith.cli import main
from loralith.diffusion.peft_adapter import AdapterError, adapter_of, load_adapter, save_adapter
from loralith.formats.adapter_file import kohya_tensors, read_adapter, write_kohya

TARGETS = ["to_q", "to_out.0", "conv1", "conv_shortcut", "proj_in"]
"""Linear layers, and convolutions of 3 x 3 and 1 x 1 (LoCon)."""
FIRST = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"


def adapted(dora=True, dtype=torch.float32, **settings):
    """A U-Net whose every adapter tensor is other than its first value."""
    model = unet()
    torch.manual_seed(4)
    model = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": TARGETS, "use_dora": dora, **settings}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape))
            if "lora_" in name:
                parameter.copy_(parameter.to(dtype))
    return model.eval()


FORMS = ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "lora_kohya.safetensors"]


@pytest.mark.parametrize("dora", [False, True])
def test_every_file_that_we_write_is_read_back_the_same(dora, tmp_path):
    model = adapted(dora)
    want = output(model)
    assert not torch.allclose(want, PLAIN, atol=1e-3)
    save_adapter(model, tmp_path)
    write_kohya(adapter_of(model), set(SHAPES), tmp_path / FORMS[2], stability_names=False)
    for form in FORMS:
        assert_same_values(read(tmp_path / form), want, form)
    other = adapted(dora)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_" in name:
                parameter.zero_()
    load_adapter(other, tmp_path / FORMS[2])
    assert_same_values(output(other), want)


def test_stock_peft_and_diffusers_read_dora_that_we_write(tmp_path):
    model = adapted()
    want = output(model)
    save_adapter(model, tmp_path)
    assert_same_values(output(PeftModel.from_pretrained(unet(), str(tmp_path)).eval()), want)
    state, alphas, header = StableDiffusionPipeline.lora_state_dict(str(tmp_path), return_lora_metadata=True)  # pyright: ignore[reportAssignmentType]
    stock = unet()
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, stock, metadata=header)
    assert_same_values(output(stock.eval()), want)


def test_stock_diffusers_reads_convolutions_under_kohyas_names(tmp_path):
    model = adapted(dora=False)
    write_kohya(adapter_of(model), set(SHAPES), tmp_path / FORMS[2], stability_names=False)
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path), weight_name=FORMS[2])  # pyright: ignore[reportAssignmentType]
    stock = unet()
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, stock)
    assert_same_values(output(stock.eval()), output(model))


def test_dora_that_stock_peft_and_diffusers_write_is_read(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "peft")
    assert_same_values(read(tmp_path / "peft"), output(model))
    model.base_model.model.peft_config = model.peft_config
    model.base_model.model._hf_peft_config_loaded = True
    model.base_model.model.save_lora_adapter(tmp_path / "unet", "default")
    assert_same_values(read(tmp_path / "unet"), output(model))


@pytest.mark.parametrize("stability", [False, True])
@pytest.mark.parametrize("ends", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_names_of_comfyui_are_read(stability, ends, tmp_path):
    """`diffusion_model.`, a module's name with its dots, and DoRA's scales [O, 1]."""
    from loralith.formats.stability_names import sgm_blocks, sgm_name

    model = adapted()
    blocks = sgm_blocks(set(SHAPES)) if stability else {}
    tensors = {}
    for name, layer in adapter_of(model).layers.items():
        key = f"diffusion_model.{sgm_name(name, blocks)}"
        tensors |= {f"{key}.{ends[0]}.weight": layer.a.clone(), f"{key}.{ends[1]}.weight": layer.b.clone()}
        tensors |= {f"{key}.alpha": torch.tensor(6.0), f"{key}.dora_scale": layer.magnitude.reshape(-1, *[1] * (layer.a.ndim - 1))}
    save_file(tensors, tmp_path / "comfy.safetensors")
    assert_same_values(read(tmp_path / "comfy.safetensors"), output(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_stay(dtype, tmp_path):
    model = adapted(dtype=dtype)
    tensors = {name: tensor.to(dtype) for name, tensor in kohya_tensors(adapter_of(model), set(SHAPES), stability_names=False).items()}
    save_file(tensors, tmp_path / "half.safetensors")
    found = read_adapter(tmp_path / "half.safetensors", SHAPES)
    assert {t.dtype for layer in found.layers.values() for t in (layer.a, layer.b, layer.magnitude)} == {dtype}
    assert_same_values(read(tmp_path / "half.safetensors"), output(model))
    write_kohya(found, set(SHAPES), tmp_path / "again.safetensors", stability_names=False)
    again = load_file(tmp_path / "again.safetensors")
    assert all(
        torch.equal(again[name], tensor) and (tensor.dtype == again[name].dtype or "alpha" in name) for name, tensor in tensors.items()
    )


def test_the_command_writes_every_form_and_keeps_metadata(tmp_path, capsys):
    folder, source, out = tmp_path / "model", tmp_path / "one.safetensors", tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    model = adapted()
    header = {"ss_tag_frequency": "{}", "modelspec.title": "a cat", "ss_network_module": "networks.lora"}
    save_file(kohya_tensors(adapter_of(model), set(SHAPES), stability_names=False), source, metadata=header)
    assert main(["adapter", str(source), "--model", str(folder), "--output", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["dora"]
    assert shown["metadata"] == header
    for form in FORMS:
        with safe_open(out / form, framework="pt") as file:
            kept = file.metadata()
        assert {name: kept[name] for name in header} == header
        assert_same_values(read(out / form), output(model), form)
    before = {form: (out / form).read_bytes() for form in FORMS}
    assert main(["adapter", str(out / FORMS[2]), "--model", str(folder), "--output", str(tmp_path / "again")]) == 0
    assert all((tmp_path / "again" / form).read_bytes() == content for form, content in before.items())


REFUSED = {
    "magnitudes of inputs": (
        lambda t: t.update({f"{FIRST}.dora_scale": torch.ones(1, 8)}),
        r"to_q has magnitudes of shape \[1, 8\]; .* \[8\]",
    ),
    "magnitudes of some": (lambda t: t.pop(f"{CONV}.dora_scale"), "is DoRA, and .*conv1 has no magnitudes; all layers have them, or none"),
    "not finite": (lambda t: t[f"{CONV}.dora_scale"].fill_(torch.inf), "values in magnitudes of .*conv1 that are not finite"),
    "LoCon's middle": (
        lambda t: t.update({f"{CONV}.lora_mid.weight": torch.ones(3, 3, 3, 3)}),
        r"has a middle factor of shape \[3, 3, 3, 3\] and A of",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what, tmp_path):
    change, message = REFUSED[what]
    tensors = kohya_tensors(adapter_of(adapted()), set(SHAPES), stability_names=False)
    names = {"lora_unet_" + name.replace(".", "_"): name for name in SHAPES}
    dotted = {f"{names[key.split('.')[0]]}.{key.split('.', 1)[1]}": tensor.clone() for key, tensor in tensors.items()}
    change(dotted)
    save_file({f"diffusion_model.{name}": tensor for name, tensor in dotted.items()}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=message):
        read_adapter(tmp_path / "x.safetensors", SHAPES)


def test_a_run_of_another_kind_refuses_dora(tmp_path):
    save_adapter(adapted(), tmp_path)
    with pytest.raises(AdapterError, match="has use_dora True, this run has False; give an adapter of the same kind"):
        load_adapter(adapted(dora=False), tmp_path)
    edit(tmp_path, use_dora=False)
    with pytest.raises(AdapterError, match=r"has use_dora False, and .* has its magnitudes"):
        read_adapter(tmp_path, SHAPES)
