"""Warnings where quantized training would silently go wrong: which layer, and which setting mends it."""

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from loralith.lora.health import PASSES, Health, TrainingWarning
from loralith.spec.scheme import FQT

FINE = {"dy": True, "dyq": True, "b": True, "da": True, "db": True}


def said(scheme: FQT = FQT()) -> tuple[Health, list[str]]:  # noqa: B008 - frozen
    messages: list[str] = []
    return Health(scheme, messages.append), messages


@pytest.mark.parametrize(
    ("scheme", "zero", "message"),
    [
        (FQT(), {"dy": False, "dyq": False, "da": False, "db": False}, "attn.to_q: no gradient reaches the layer"),
        (FQT(), {"dyq": False, "da": False, "db": False}, "attn.to_q: dY vanishes.*multiply the loss by a constant"),
        (FQT(), {"db": False}, "attn.to_q: the gradient of B is zero although dY is not: H is zero"),
        (FQT(adapter_scales="delayed", history=9), {"db": False}, "B is zero.*adapter_scales to 'measured', or a history shorter than 9"),
        (FQT(adapter_scales="device"), {"db": False}, "B is zero although dY is not; set adapter_scales to 'measured'"),
        (FQT(), {"da": False}, "attn.to_q: the gradient of A is zero although dY and B are not"),
    ],
)
def test_a_layer_without_gradient_is_named_once_after_several_passes(scheme, zero, message):
    health, messages = said(scheme)
    for _ in range(PASSES - 1):
        health.gradients("attn.to_q", **(FINE | zero))
    health.gradients("attn.to_k", **(FINE | zero))
    health.gradients("attn.to_q", **FINE)  # one good pass, and the count starts again
    for _ in range(PASSES - 1):
        health.gradients("attn.to_q", **(FINE | zero))
    assert messages == []
    for _ in range(4):
        health.gradients("attn.to_q", **(FINE | zero))
    assert len(messages) == 1
    with pytest.warns(TrainingWarning, match=message):
        warnings.warn(messages[0], TrainingWarning, stacklevel=1)


def test_an_adapter_that_starts_from_b_zero_is_no_fault():
    health, messages = said()
    for _ in range(10):
        health.gradients("attn.to_q", **(FINE | {"b": False, "da": False}))
    assert messages == []


@pytest.mark.parametrize(
    ("scheme", "tensor", "mend"),
    [
        (FQT(adapter_scales="delayed", headroom=1.5), "dH", "raise headroom (now 1.5) or set adapter_scales to 'measured'"),
        (FQT(adapter_scales="device"), "H", "its maxima grow faster than the device's bounds allow; set adapter_scales to 'measured'"),
        (FQT(stochastic=("X",)), "X", "take X out of stochastic, so that its largest values round to nearest"),
    ],
)
def test_a_saturating_tensor_is_named_with_the_setting(scheme, tensor, mend):
    health, messages = said(scheme)
    health.values("few.to_v", tensor, 500, 1000)  # too few values to judge
    for _ in range(20):
        health.values("mid.to_v", tensor, 9, 1000)
    assert messages == []
    for _ in range(20):
        health.values("mid.to_v", tensor, 15, 1000)
    assert messages == [f"mid.to_v: 1.1% of the latest values of {tensor} saturated, more than 1%; {mend}"]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.kept, self.cut = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, scale=1.0):
        return (self.kept(x).square().mean() + 0.0 * self.cut(x).sum()) * scale


@pytest.fixture
def model():
    torch.manual_seed(0)
    return get_peft_model(Two(), LoraConfig(r=2, lora_alpha=4, target_modules=["kept", "cut"]))


def caught(model, scheme: FQT, x, scale=1.0, steps=4) -> list[str]:
    """Messages of a short training on the reference device."""
    with loralith.open_device("reference", config="tiny") as device, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        attachment = loralith.attach(model, device, scheme)
        for step in range(steps):
            attachment.step_begin(step)
            model(x(step), scale).backward()
        attachment.detach()
    return [str(warning.message) for warning in found if warning.category is TrainingWarning]


def test_training_on_a_device_warns_of_the_layer_that_gets_nothing(model):
    messages = caught(model, FQT(), lambda step: torch.randn(64, 8))
    assert len(messages) == 1
    assert "cut: no gradient reaches the layer" in messages[0]


def test_training_on_a_device_warns_of_gradients_that_vanish(model):
    messages = caught(model, FQT(), lambda step: torch.randn(64, 8), scale=1e-36)
    assert any("kept: dY vanishes" in message for message in messages)


def test_training_on_a_device_warns_of_delayed_scales_that_lag_behind(model):
    """A's accumulators grow from step to step: the sign pattern of X comes to agree with A's first row."""
    row = dict(model.named_parameters())["base_model.model.kept.lora_A.default.weight"][0].detach().sign()
    noise = torch.randn(512, 8)
    noise[:, 1:] *= 0.01

    def x(step):
        return noise if step < 3 else row.expand(512, 8) * torch.linspace(0.9, 1.0, 512)[:, None]

    messages = caught(model, FQT(adapter_scales="delayed", headroom=1.0, history=1), x)
    assert any("kept" in m and "of the latest values of H saturated" in m and "raise headroom (now 1)" in m for m in messages)


def test_training_on_a_device_warns_of_delayed_scales_of_dh_too(model):
    """The sign pattern of dY comes to agree with B's first column."""
    b = dict(model.named_parameters())["base_model.model.kept.lora_B.default.weight"]
    nn.init.normal_(b)
    noise = torch.randn(512, 8)
    noise[:, 1:] *= 0.01

    def dy(step):
        return noise if step < 3 else b[:, 0].detach().sign().expand(512, 8)

    model.base_model.model.forward = lambda x, scale: (model.base_model.model.kept(torch.ones(512, 8)) * x).sum()
    messages = caught(model, FQT(adapter_scales="delayed", headroom=1.0, history=1), dy)
    assert any("kept" in m and "of the latest values of dH saturated" in m for m in messages)


def test_healthy_training_is_silent(model):
    messages = caught(model, FQT(stochastic=("X", "dY", "H", "dH", "A", "B")), lambda step: torch.randn(64, 8))
    assert all("cut" in message for message in messages)
