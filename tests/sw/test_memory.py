"""Memory of a step: what is measured is what a plan says, and INT8 saves at most 0.30 of FP32."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

import loralith
from helpers import tiny_unet
from loralith.cli import main
from loralith.diffusion.peft_adapter import add_adapter
from loralith.diffusion.published import Source
from loralith.mapping.planning.saved_memory import Account, measure
from loralith.mapping.planning.step_plan import plan
from loralith.mapping.planning.trace import trace_model
from loralith.spec.config import PRESETS
from loralith.training import memory_report

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
CONFIG = tiny_unet.CONFIG | {"sample_size": 8, "block_out_channels": (16, 32), "cross_attention_dim": 16}


def account(modules: str | None) -> Account:
    unet = UNet2DConditionModel(**CONFIG).requires_grad_(False)
    unet.set_attn_processor(AttnProcessor())
    model = add_adapter(unet, rank=4, alpha=4, targets=PROJECTIONS, seed=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    x, text = torch.randn(2, 1, 8, 8), torch.randn(2, 8, 16)

    def loss():
        return model(x, torch.tensor([1, 2]), text).sample.square().sum()

    loss().backward()
    optimizer.step()
    if modules is None:
        return measure(model, loss, optimizer)
    with loralith.open_device("reference", config="tiny") as device:
        return measure(model, loss, optimizer, loralith.attach(model, device, modules=modules))


@pytest.fixture(scope="module")
def accounts() -> dict[str | None, Account]:
    return {modules: account(modules) for modules in (None, "lora", "all")}


@pytest.fixture(scope="module")
def planned():
    layers = plan(trace_model(Source("test", CONFIG, 8), targets=PROJECTIONS, rank=4, batch=2), PRESETS["tiny"])["layers"]
    kinds = ("lora", "conv", "attention")
    figures = ("saved_bytes", "saved_bytes_fp32", "weight_bytes")
    return {figure: {kind: sum(layer[figure] for layer in layers if layer["kind"] == kind) for kind in kinds} for figure in figures}


def test_saved_tensors_are_those_that_a_plan_counts(accounts, planned):
    fp32, int8 = accounts[None].saved, accounts["all"].saved
    assert {kind: fp32[kind][1] for kind in planned["saved_bytes_fp32"]} == planned["saved_bytes_fp32"]
    assert {kind: sum(int8.get(kind, (0, 0))) for kind in planned["saved_bytes"]} == planned["saved_bytes"]
    assert int8["lora"][1] == 0, "on the device alone"


def test_int8_saves_at_most_thirty_percent(accounts):
    fp32, lora, everything = (accounts[modules] for modules in (None, "lora", "all"))
    assert sum(lora.saved["lora"]) <= 0.30 * sum(fp32.saved["lora"])
    assert everything.saved_by_modules <= 0.30 * fp32.saved_by_modules
    assert sum(everything.parts["saved"]) < sum(fp32.parts["saved"])


def test_parts_add_up(accounts):
    fp32, everything = accounts[None], accounts["all"]
    assert fp32.parts["weights"][0] == fp32.parts["originals"][1] == fp32.parts["scratch"][0] == 0
    before, after = fp32.parts["weights"][1], everything.parts["weights"][1] + everything.parts["originals"][1]
    assert 0 <= after - before < 0.02 * before, "row scales come to it"
    assert 0.2 < everything.parts["weights"][0] / everything.parts["originals"][1] < 0.35
    assert everything.parts["gradients"] == fp32.parts["gradients"]
    assert everything.parts["optimizer"][1] >= 2 * everything.parts["gradients"][1]
    assert everything.parts["scratch"][0] > 0
    assert everything.parts["scratch"][1] > 0
    for one in accounts.values():
        assert one.parts["saved"] == [sum(pair[place] for pair in one.saved.values()) for place in (0, 1)]
        assert one.total == sum(sum(pair) for name, pair in one.parts.items() if name != "originals")


def test_report(accounts, monkeypatch, tmp_path, capsys):
    from loralith.training import method_memory as memory

    names = {"fp32-lora": None, "lora": "lora", "lora-all": "all"}
    for name, modules in names.items():
        step = memory.MEASURED_STEPS[name]
        monkeypatch.setitem(memory.MEASURED_STEPS, name, memory.MeasuredStep(step.text, lambda *_, m=modules: accounts[m], step.maps))
    told = ["report", "memory", "--methods", "lora,lora-all", "--plot", str(tmp_path / "memory.png")]
    assert main([*told, "--json", "--output", str(tmp_path / "memory")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["methods"]["fp32-lora"]["saved_ratio"] == 1.0
    assert figures["methods"]["lora"]["saved_ratio"] == sum(accounts["lora"].saved["lora"]) / sum(accounts[None].saved["lora"])
    assert (tmp_path / "memory.png").stat().st_size > 10000
    text = (tmp_path / "memory.md").read_text()
    assert "everything else" in text
    assert memory_report.page(figures)[0].startswith("The small U-Net, 4 images")
    assert main(["report", "memory", "--methods", "magic"]) == 2
    assert "there is no method 'magic'; there are fp32-lora, lora, lora-all" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_methods_save_what_they_promise(small_model, tmp_path):
    """The hollowed net less than LoRA, one token nothing; scales have no product for a gradient of W, so X is kept as INT8 alone."""
    from loralith.methods.settings import FinetuneSettings
    from loralith.spec.config import load_config
    from loralith.training.method_memory import MEASURED_STEPS

    settings = FinetuneSettings(tmp_path, model=small_model, batch=2)
    config = load_config("base")
    found = {
        name: MEASURED_STEPS[name].step(settings, config) for name in ("lora-all", "lora-all-int4", "hollowed-net", "tuneqdm", "zoodip")
    }
    saved = {name: sum(account.parts["saved"]) for name, account in found.items()}
    assert saved["hollowed-net"] < saved["lora-all"]
    assert saved["zoodip"] == 0
    assert not found["zoodip"].saved
    weights = {name: account.parts["weights"][0] for name, account in found.items()}
    assert weights["hollowed-net"] < 0.7 * weights["lora-all"], "what is left out is not resident"
    assert weights["tuneqdm"] <= weights["lora-all"]
    assert 0.5 * weights["lora-all"] <= weights["lora-all-int4"] < 0.75 * weights["lora-all"], "rows are whole bus words"
    assert saved["lora-all-int4"] == saved["lora-all"]
    assert found["zoodip"].parts["gradients"] == [0, 64 * 4]
    assert found["zoodip"].parts["optimizer"][1] >= 2 * 64 * 4
    tuned = found["tuneqdm"]
    assert set(tuned.saved) == {"linear", "conv", "attention", "rest"}
    assert tuned.saved["linear"][0] > tuned.saved["linear"][1] == 0, "INT8 on the device alone"
