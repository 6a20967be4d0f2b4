"""Rotated channels of an attached model: bits of the reference on every kind of layer, and what is refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import nn

import loralith
from loralith.cli import main
from loralith.mapping.attachment import attachment_of
from loralith.mapping.select import AttachError
from loralith.spec.scheme import FQT
from loralith.training.verification import ReferenceObserver


class Picture(nn.Module):
    """A convolution of one channel, which is not rotated, one of eight, and linear layers of 16, 80 and 12."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 1)
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.wide, self.narrow, self.head = nn.Linear(16, 80), nn.Linear(80, 12), nn.Linear(12, 6)

    def forward(self, x):
        x = torch.tanh(self.conv(torch.tanh(self.first(x)))).flatten(2).mT
        return self.head(torch.tanh(self.narrow(torch.tanh(self.wide(x)))))


ADAPTERS = {
    "plain": {"target_modules": ["wide", "narrow"]},
    "dora": {"target_modules": ["wide", "conv"], "use_dora": True},
    "saved": {"target_modules": ["wide"], "modules_to_save": ["head"]},
}


def adapted(name, **settings):
    torch.manual_seed(0)
    model = get_peft_model(Picture(), LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **ADAPTERS[name], **settings}))
    return model, torch.randn(2, 1, 6, 6, requires_grad=True)


def gradients(model, x):
    x.grad = None
    model.zero_grad()
    model(x).square().mean().backward()
    return [x.grad, *(own.grad for own in model.parameters() if own.grad is not None)]


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_product_is_the_reference_s(name):
    model, x = adapted(name)
    plain = gradients(model, x)
    found = []
    for kind in ("direct", "reference"):
        with loralith.open_device(kind, "tiny") as device:
            observer = ReferenceObserver()
            attachment = loralith.attach(model, device, FQT(rotation=64), modules="all", observer=observer)
            for _ in range(2):
                again = gradients(model, x)
            found.append(again)
            assert observer.compared > 10_000
            attachment.detach()
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    for one, two in zip(plain, found[0], strict=True):
        assert nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.97


def test_a_shared_input_is_rotated_once_for_all_its_layers():
    torch.manual_seed(0)
    model = nn.ModuleDict({"q": nn.Linear(64, 8), "k": nn.Linear(64, 8)})
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q", "k"], init_lora_weights=False))
    layers = dict(model.base_model.model.named_children())
    x = torch.randn(16, 64)
    with loralith.open_device("direct", "tiny") as device:
        attachment = loralith.attach(model, device, FQT(rotation=64), observer=ReferenceObserver())
        for layer in (layers["q"], layers["k"]):
            layer(x).sum().backward()
        assert len(attachment.inputs) == 1
        assert attachment.observer.compared


def test_channels_that_cannot_be_rotated_are_named_before_anything_is_placed():
    model = get_peft_model(nn.Sequential(nn.Linear(21, 8), nn.Linear(8, 8)), LoraConfig(r=2, target_modules=["0", "1"]))
    with loralith.open_device("direct", "tiny") as device:
        wanted = r"base_model\.model\.0: a rotation of 64 needs a reduction whose length 4 divides, not 21; use rotation 0"
        with pytest.raises(AttachError, match=wanted):
            loralith.attach(model, device, FQT(rotation=64))
        assert attachment_of(model) is None
        with pytest.warns(UserWarning, match="1 LoRA layers stay in torch"):
            attachment = loralith.attach(model, device, FQT(rotation=64), unsupported="leave")
        assert [layer.name for layer in attachment.layers] == ["base_model.model.1"]


def test_a_warning_of_a_lost_channel_names_the_rotation_as_remedy():
    model = get_peft_model(nn.Sequential(nn.Linear(64, 8)), LoraConfig(r=2, target_modules=["0"]))
    x = torch.randn(64, 64)
    x[:, 3] *= 300
    with loralith.open_device("direct", "tiny") as device:
        attachment = loralith.attach(model, device)
        with pytest.warns(loralith.lora.health.TrainingWarning, match="set rotation to 256, clip them"):
            model(x)
        attachment.detach()
        attachment = loralith.attach(model, device, FQT(rotation=64))
        model(x)
        assert attachment.health.losses["base_model.model.0", "X"].share < 0.1


def test_finetune_rotates_and_says_so_in_its_files(tmp_path, capsys):
    words = ["finetune", "--device", "direct", "--steps", "2", "--batch", "2", "--samples", "2", "--output", str(tmp_path / "out")]
    assert main([*words, "--rotation", "64", "--verify"]) == 0
    for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        with safe_open(tmp_path / "out" / name, framework="pt") as file:
            assert file.metadata()["loralith_rotation"] == "64"
    assert main(["finetune", "--resume", "--output", str(tmp_path / "out"), "--rotation", "16"]) == 2
    assert "--rotation 16 contradicts the run" in capsys.readouterr().err
    assert main(["finetune", "--resume", "--output", str(tmp_path / "out"), "--steps", "3"]) == 0
