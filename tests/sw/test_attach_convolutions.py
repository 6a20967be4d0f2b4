"""Convolutions of one to three dimensions, grouped and depthwise: mapped by `attach(modules="all")`, frozen, adapted and trained."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from loralith.lora.convolution_windows import Window
from loralith.spec.scheme import FQT
from loralith.training.verification import ReferenceObserver

SHAPES = {
    "line": (nn.Conv1d(8, 12, 5, stride=2, padding=3, dilation=2), (2, 8, 17)),
    "plain line": (nn.Conv1d(8, 12, 3, padding=1), (2, 8, 13)),  # stock PEFT's LoRA knows no dilation
    "volume": (nn.Conv3d(4, 8, (3, 2, 3), stride=(1, 2, 1), padding=(1, 0, 1)), (2, 4, 4, 5, 3)),
    "groups": (nn.Conv2d(16, 24, 3, padding=1, groups=4), (2, 16, 5, 6)),
    "grouped line": (nn.Conv1d(16, 8, 3, groups=2), (1, 16, 9)),
    "depthwise": (nn.Conv2d(12, 12, 3, padding=1, stride=2, groups=12), (2, 12, 7, 6)),
    "depthwise, two outputs each": (nn.Conv2d(6, 12, 3, padding=1, groups=6), (2, 6, 4, 4)),
    "depthwise line": (nn.Conv1d(12, 12, 4, padding=3, groups=12), (2, 12, 11)),
    "depthwise volume": (nn.Conv3d(4, 4, 3, padding=1, groups=4), (1, 4, 3, 4, 3)),
}


class Model(nn.Module):
    """A convolution between pointwise ones, the first of which can be adapted."""

    def __init__(self, conv):
        super().__init__()
        point = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[conv.weight.dim() - 2]
        self.before, self.conv, self.after = point(conv.in_channels, conv.in_channels, 1), conv, point(conv.out_channels, 4, 1)

    def forward(self, x):
        return self.after(torch.tanh(self.conv(torch.tanh(self.before(x)))))


def made(name):
    torch.manual_seed(0)
    conv, shape = SHAPES[name]
    conv.reset_parameters()
    return Model(conv).requires_grad_(False), torch.randn(shape)


def gradients(model, x):
    x = x.clone().requires_grad_()
    model.zero_grad()
    model(x).square().mean().backward()
    return [x.grad, *(own.grad.clone() for own in model.parameters() if own.grad is not None)]


def on_devices(model, x, scheme, kinds=("direct", "reference")):
    """Gradients on each device, every product compared with the reference's; the names of the layers that were mapped."""
    found = []
    for kind in kinds:
        with loralith.open_device(kind, "tiny") as device:
            observer = ReferenceObserver()
            attachment = loralith.attach(model, device, scheme, modules="all", observer=observer)
            found.append(gradients(model, x))
            assert observer.compared
            names = [layer.name for layer in attachment.layers]
            attachment.detach()
    assert all(torch.equal(one, two) for other in found[1:] for one, two in zip(found[0], other, strict=True))
    return found[0], names


def close(plain, found):
    for one, two in zip(plain, found, strict=True):
        assert nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) >= 0.99


@pytest.mark.parametrize("rotation", [0, 16])
@pytest.mark.parametrize("name", SHAPES)
def test_frozen_convolutions_equal_their_definition(name, rotation):
    model, x = made(name)
    plain = gradients(model, x)
    found, names = on_devices(model, x, FQT(rotation=rotation, stochastic=()))
    assert names == ["after", "before", "conv"]
    close(plain, found)


@pytest.mark.parametrize("name", ["line", "groups", "depthwise"])
def test_on_the_rtl(name):
    model, x = made(name)
    on_devices(model, x, FQT(seed=3), ("direct", "verilator"))


@pytest.mark.parametrize("name", ["line", "volume", "groups", "depthwise"])
def test_a_trained_convolution_has_all_three_products(name):
    """As PEFT's modules_to_save trains one."""
    model, x = made(name)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["before"] if x.dim() == 4 else ["after"], modules_to_save=["conv"]))
    for own in model.parameters():
        if own.requires_grad and not own.any():
            nn.init.normal_(own, std=0.1)  # B
    plain = gradients(model, x)
    found, names = on_devices(model, x, FQT(rotation=4, stochastic=()))
    assert any(name.endswith("modules_to_save.default") for name in names)
    close(plain, found)


@pytest.mark.parametrize("name", ["plain line", "volume"])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True, "lora_dropout": 0.0}])
def test_lora_on_convolutions_of_one_and_three_dimensions(name, settings):
    model, x = made(name)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["conv"], init_lora_weights=False, **settings))
    plain = gradients(model, x)
    found, names = on_devices(model, x, FQT(stochastic=()))
    assert any("conv.lora_A" in name for name in names)
    close(plain, found)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")  # PEFT's own
@pytest.mark.parametrize("name", ["groups", "grouped line"])
def test_lora_on_grouped_convolutions(name):
    model, x = made(name)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["conv"], init_lora_weights=False))
    plain = gradients(model, x)
    close(plain, on_devices(model, x, FQT(stochastic=()))[0])


@pytest.mark.parametrize("runs", [False, True])
def test_groups_are_split_and_joined(runs):
    window = Window((2, 3), groups=3)
    rows = np.arange(5 * 6 * 12).reshape(5, -1)
    parts = window.split(rows, runs=runs)
    assert parts.shape == (3, 5, 24)
    assert np.array_equal(window.joined(parts, runs=runs), rows)
    outputs = np.arange(5 * 9).reshape(5, 9)
    assert window.split_outputs(outputs)[1].tolist() == outputs[:, 3:6].tolist()
    assert np.array_equal(window.joined_outputs(window.split_outputs(outputs)), outputs)
