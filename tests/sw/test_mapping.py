"""Whole models on a device: frozen layers, convolutions and attention beside torch, and their bits beside the definitions'."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from helpers.same_values import assert_same_values
from helpers.tiny_unet import CONFIG
from loralith.device.products import product
from loralith.lora.frozen import Window
from loralith.mapping.kinds.linears_and_convolutions import MappedLinear
from loralith.mapping.select import AttachError, select
from loralith.methods.settings import EvaluationSettings, FinetuneSettings, choose_targets
from loralith.spec.scheme import FQT
from loralith.training.attaching import attacher
from loralith.training.loop import finetune
from loralith.training.verification import ReferenceObserver, VerificationError


def unet(targets=("to_q", "to_k", "to_v", "to_out.0")):
    torch.manual_seed(0)
    model = UNet2DConditionModel(**CONFIG)
    model.requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=list(targets)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 1, 4, 4, generator=generator), torch.tensor([3, 700]), torch.randn(2, 3, 6, generator=generator)


def step(model):
    x, times, text = batch()
    y = model(x, times, text).sample
    parameters = [p for p in model.parameters() if p.requires_grad]
    return y.detach(), torch.autograd.grad(y.square().mean(), parameters)


def cosine(one, two):
    return torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0).item()


def test_the_whole_unet_is_near_torch_and_every_product_is_its_definitions(device):
    model = unet()
    y, gradients = step(model)
    observer = ReferenceObserver()
    attachment = loralith.attach(model, device, FQT(), observer=observer, modules="all")
    assert [layer.kind for layer in attachment.layers].count("lora") == 32
    assert {layer.kind for layer in attachment.layers} == {"lora", "linear", "conv", "attention"}
    assert not attachment.unmapped
    got_y, got = step(model)
    assert cosine(y, got_y) > 0.99
    assert min(cosine(one, two) for one, two in zip(gradients, got, strict=True)) > 0.6
    assert sum(cosine(one, two) for one, two in zip(gradients, got, strict=True)) / len(got) > 0.97
    assert observer.counters() == {"bit_exact": True, "elements_compared": observer.compared}
    assert observer.compared > 50000
    assert sum(layer.counters.macs for layer in attachment.layers) == attachment.counters()["macs"]
    weights = sum(layer.weight_bytes()[0] for layer in attachment.layers)
    attachment.step_begin(1)
    assert weights <= device._heap.used <= 2 * weights + (1 << 20)
    attachment.detach()
    assert_same_values(step(model)[0], y)
    assert device._heap.used < 1 << 19, "the list's buffer alone"


def test_rtl_and_reference_give_the_same_bits(device):
    results = []
    for name in ("reference", "verilator"):
        model = unet()
        with loralith.open_device(name, config="tiny") as opened:
            attachment = loralith.attach(model, opened, FQT(seed=7), modules="all")
            attachment.step_begin(3)
            results.append(step(model))
    (one, first), (two, second) = results
    assert_same_values(one, two)
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        assert_same_values(a, b, number)


class Odd(nn.Module):
    """Convolutions of every geometry, and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(5, 5)
        self.strided = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.point = nn.Conv2d(3, 4, 1, bias=False)
        self.groups = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.line = nn.Conv1d(4, 4, 1)
        self.end = nn.Linear(3, 3)
        self.requires_grad_(False)

    def forward(self, x):
        x = self.point(torch.tanh(self.strided(self.start(x))))
        return self.end(self.end(self.line(self.groups(x).flatten(2)).reshape(-1, 3)))


def odd():
    torch.manual_seed(0)
    return get_peft_model(Odd(), LoraConfig(r=1, target_modules=["start"], init_lora_weights=False))


def test_geometry_of_convolutions(device):
    model, x = odd(), torch.randn(2, 2, 6, 5)
    y = model(x)
    attachment = loralith.attach(model, device, observer=ReferenceObserver(), modules="all")
    assert not attachment.unmapped
    got = model(x)
    assert cosine(y, got) > 0.99
    got.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_windows_are_torchs():
    window = Window((3, 2), (2, 1), (1, 0), (1, 2))
    x = torch.randint(-9, 9, (2, 3, 7, 6))
    columns = window.columns(x.numpy())
    unfolded = nn.functional.unfold(x.double(), (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1))  # [N, C * kernel, T]
    assert (columns == unfolded.transpose(1, 2).flatten(0, 1).numpy()).all()
    back = nn.functional.fold(unfolded, (7, 6), (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1))
    assert (window.image(columns, (2, 3, 7, 6)) == back.numpy()).all()


@pytest.mark.parametrize("broken", ["frozen", "attention"])
def test_a_wrong_product_is_found(device, monkeypatch, broken):
    """One sum of one product is off by one."""

    def wrong(*args, **named):
        result = product(*args, **named)
        result[0, 0, 0] += 1
        return result

    monkeypatch.setattr(f"loralith.lora.{broken}.product", wrong)
    model = unet()
    loralith.attach(model, device, observer=ReferenceObserver(), modules="all")
    with pytest.raises(VerificationError, match=r"accumulators\[.*0\] is"):
        step(model)


def test_attention_alone(device):
    """Self-attention with a mask, and cross attention: O and the gradients of queries, keys and values."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"self": Attention(8, heads=2, dim_head=4), "cross": Attention(8, 6, heads=2, dim_head=4, processor=AttnProcessor())}
    )
    plain = copy.deepcopy(model)
    x, text = torch.randn(2, 9, 8), torch.randn(2, 5, 6)
    mask = torch.zeros(2, 9)
    mask[:, 7:] = -10000.0

    def results(used):
        a, b = x.clone().requires_grad_(), text.clone().requires_grad_()
        y = used["cross"](used["self"](a, attention_mask=mask[:, None].expand(2, 9, 9).contiguous()), b)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), (a, b))]

    want = results(plain)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    attachment = loralith.attach(model, device, observer=ReferenceObserver(), modules="all")
    assert isinstance(model["cross"].processor, object)
    for one, two in zip(want, results(model), strict=True):
        assert cosine(one, two) > 0.99
    assert not attachment.open
    with torch.no_grad():
        model["self"](x)
    assert not attachment.open, "nothing waits for a backward pass that cannot come"
    attachment.detach()
    assert isinstance(model["cross"].processor, AttnProcessor)
    for number, (one, two) in enumerate(zip(want, results(model), strict=True)):
        assert_same_values(one, two, number)


def test_layers_that_read_the_same_tensor_share_it_on_the_device(device):
    model = unet()
    attachment = loralith.attach(model, device)
    x, times, text = batch()
    y = model(x, times, text)
    saved = [layer for layer in attachment.layers if layer.calls]
    assert len(saved) == 32
    used = {id(pending.activation) for pending in attachment.open}
    blocks = 32 // 8
    assert len(used) == 4 * blocks + 1, "of each block: the inputs of both attentions and of both to_out; of all the prompt"
    device_bytes, host_bytes = attachment.saved_bytes()["lora"]
    assert host_bytes == 0
    assert device_bytes < device._heap.used
    del y
    assert not attachment.open, "what is open goes with its graph"


def test_a_method_may_map_a_kind_in_its_own_way(device):
    class Doubled(MappedLinear):
        def forward(self, x, step, call):
            return 2 * super().forward(x, step, call)

    model = nn.Sequential(nn.Linear(3, 2, bias=False)).requires_grad_(False)
    x = torch.randn(4, 3)
    attachment = loralith.attach(model, device, modules="all")
    once = model(x)
    attachment.detach()
    loralith.attach(model, device, modules="all", kinds={"linear": Doubled})
    assert_same_values(model(x), 2 * once)


def test_stochastic_inputs_are_each_layers_own(device):
    model = unet()
    attachment = loralith.attach(model, device, FQT(stochastic=("X", "dY", "dH")), observer=ReferenceObserver(), modules="all")
    step(model)
    assert not len(attachment.inputs)


def test_what_cannot_be_mapped_is_refused_or_named(device):
    with pytest.raises(AttachError, match="modules must be lora or all, not 'some'"):
        loralith.attach(unet(), device, modules="some")
    trained = nn.Linear(3, 3)
    with pytest.raises(AttachError, match=r"nothing of the model can run on the device \(0: its weight is trained\)"):
        loralith.attach(nn.Sequential(trained), device, modules="all")
    frozen = nn.Sequential(nn.Linear(3, 2), nn.Embedding(4, 4)).requires_grad_(False)
    assert [(choice.name, choice.reason) for choice in select(frozen, "all")] == [("0", "")]
    attachment = loralith.attach(frozen, device, modules="all")
    with pytest.raises(AttachError, match=r"^0: X must be finite, but its element \(0, 1\) is inf"):
        frozen[0](torch.tensor([[1.0, float("inf"), 0.0]]))
    with pytest.raises(AttachError, match=r"^0: X must have the shape \[T, 3\], not \(2, 4\)"):
        frozen[0](torch.zeros(2, 4))
    attachment.detach()
    assert len(device._heap.taken) <= 1


def test_a_fine_tuning_step_of_the_small_unet_on_rtl_is_the_references(tmp_path):
    """All 147 modules, on the RTL with every product compared with its definition, and on the reference device."""
    results = []
    for name in ("reference", "verilator"):
        evaluation = EvaluationSettings(rounds=1, samples=1, sample_steps=1)
        settings = FinetuneSettings(
            tmp_path / name, steps=1, batch=1, targets=choose_targets("all"), modules="all", device="any", evaluation=evaluation
        )
        with loralith.open_device(name, "base") as device:
            results.append(finetune(settings, attacher(device, verify=name == "verilator")))
    reference, rtl = results
    assert rtl.report["losses"] == reference.report["losses"]
    assert rtl.report["counters"]["bit_exact"] is True
    page = (rtl.folder / "report.html").read_text()
    assert all(f"<td>{name.removeprefix('base_model.model.')}</td>" in page for name in rtl.report["counters"]["layers"])
    assert len(rtl.report["counters"]["layers"]) == 147
    assert "saved on the device" in page
    counters = rtl.report["counters"]
    # By hand, 7 nm: 0.07 pJ a multiplication, 0.03 an addition; 1300 pJ for each 8 bytes of DRAM.
    spent = rtl.report["energy"]["joules"]["7nm"]
    assert spent["arithmetic"] == pytest.approx(counters["macs"] * 0.1e-12)
    assert spent["dram"] == pytest.approx((counters["bytes_read"] + counters["bytes_written"]) * 162.5e-12)
    assert f"<td>7nm</td><td>{1e3 * spent['arithmetic']:.3f}</td><td>{1e3 * spent['dram']:.3f}</td>" in page
    assert rtl.report["counters"]["macs"] == reference.report["counters"]["macs"]
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (rtl.folder / file).read_bytes() == (reference.folder / file).read_bytes()
