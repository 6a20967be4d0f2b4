"""How much of each tensor its quantization loses: known for every pass, and said where it is much."""

import warnings

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from loralith.lora.health import Health, TrainingWarning
from loralith.lora.loss import Loss, mass_loss, row_loss
from loralith.lora.quantize import Stream, quantize
from loralith.spec.scheme import FQT


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("outlier", [0.0, 30.0, 300.0, 3000.0])
def test_the_loss_is_the_error_of_the_other_rows(outlier, stochastic):
    x = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    x[17, 3] += outlier
    q, scale, _ = quantize(x, stream=Stream(1, 2, 3) if stochastic else None)
    rest = np.delete(np.arange(300), 17)
    error = np.linalg.norm((q * np.float64(scale) - x)[rest]) / np.linalg.norm(x[rest])
    found = row_loss(x, scale, stochastic=stochastic)
    assert found.share == pytest.approx(min(error, 1.0), rel=0.1)
    assert found.step == scale
    assert found.rms == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("scales", ["tensor", "row"])
def test_the_loss_is_the_error_of_the_other_columns(scales, stochastic):
    """A channel of large values is most of each row, whose error beside it is small."""
    x = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    x[:, 3] += 300
    scale = np.full(300, 300 / 127) if scales == "tensor" else np.abs(x).max(axis=1) / 127
    found = row_loss(x, scale, stochastic=stochastic)
    assert found.of == "column"
    assert found.share == pytest.approx(300 / 127 / (6 if stochastic else 12) ** 0.5, rel=0.1)
    assert found.rms == pytest.approx(1.0, rel=0.2)
    assert row_loss(x[:15], scale[:15]).of == "row", "too few values to judge a column by"


def test_rows_of_zeros_do_not_count_and_columns_are_weighted():
    x = np.zeros((10, 4), np.float32)
    assert row_loss(x, 1.0).share == 0.0
    x[2] = 1.0
    assert row_loss(x, 0.1).share == pytest.approx(0.1 / 12**0.5)
    assert row_loss(x, np.full(10, 0.1), factor=np.full(4, 2.0)).share == pytest.approx(0.05 / 12**0.5)


def test_what_a_softmax_loses_is_its_tail():
    e = np.full((3, 4, 1001), np.exp(-6.0), np.float32)
    e[..., 5] = 1.0
    kept = np.rint(127 * e).sum(axis=-1)
    assert mass_loss(e, kept).share == pytest.approx(1000 * np.exp(-6) / (1 + 1000 * np.exp(-6)), rel=1e-3)


@pytest.mark.parametrize(
    ("scheme", "tensor", "stochastic", "share", "mend"),
    [
        (FQT(), "X", False, 0.11, "set rotation to 256, clip them before the layer, or leave the layer in torch"),
        (FQT(weight_scales="tensor"), "W", False, 0.11, "set weight_scales to 'channel'"),
        (FQT(), "W", False, 0.11, "raise weight_scale_range (now 16), or leave the layer in torch"),
        (FQT(weight_bits=4), "W", False, 0.51, "set weight_bits to 8, or leave the layer in torch"),
        (FQT(), "A", False, 0.11, "lower the learning rate, or clip the adapter's gradients"),
        (FQT(stochastic=()), "dY", False, 0.51, "add dY to stochastic, whose rounding has the right mean, or leave the layer in torch"),
        (FQT(), "P", False, 0.11, "leave attention in torch"),
        (FQT(weight_bits=4), "W", False, 0.49, None),
        (FQT(), "X", False, 0.09, None),
        (FQT(), "dY", True, 1.0, None),
    ],
)
def test_much_is_said_once_with_layer_numbers_and_setting(scheme, tensor, stochastic, share, mend):
    messages: list[str] = []
    health = Health(scheme, messages.append)
    for _ in range(3):
        health.quantized("ff.out", tensor, Loss(share, 0.25, 0.5), stochastic=stochastic)
    assert health.losses["ff.out", tensor].share == share
    if mend is None:
        assert messages == []
    else:
        lost = f"ff.out: quantization loses {share:.0%} of a typical row of {tensor} (RMS 0.25, in steps of 0.5)"
        assert messages == [f"{lost}: a few large values set the scale; {mend}"]


@pytest.mark.parametrize(("share", "said"), [(0.24, 0), (0.26, 1)])
def test_channels_may_lose_more_than_rows(share, said):
    messages: list[str] = []
    Health(FQT(), messages.append).quantized("ff.out", "X", Loss(share, 0.25, 0.5, "column"))
    assert len(messages) == said
    assert all("26% of a typical column of X" in message for message in messages)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.adapted, self.plain, self.conv = nn.Linear(8, 8), nn.Linear(8, 8), nn.Conv2d(1, 2, 3, padding=1)
        self.attn = Attention(8, heads=2, dim_head=4)

    def forward(self, x):
        y = self.attn(self.plain(self.adapted(x)))
        return self.conv(y[:, None]).square().mean()


def losses(outlier, where=(0, 0, 0)):
    torch.manual_seed(0)
    model = get_peft_model(Block(), LoraConfig(r=2, target_modules=["adapted"], init_lora_weights=False))
    x = torch.randn(2, 32, 8)
    x[where] += outlier
    with loralith.open_device("direct", config="tiny") as device, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        attachment = loralith.attach(model, device, modules="all")
        model(x.requires_grad_()).backward()
        attachment.detach()
    said = [str(warning.message).removeprefix("base_model.model.") for warning in found if warning.category is TrainingWarning]
    return {(layer.removeprefix("base_model.model."), name): loss for (layer, name), loss in attachment.health.losses.items()}, said


def test_every_tensor_of_every_kind_of_module_is_watched():
    found, said = losses(0.0)
    assert said == []
    wanted = {("adapted", name) for name in ("W", "X", "A", "B", "dY")}
    wanted |= {(layer, name) for layer in ("plain", "conv", "attn.to_q", "attn.to_out.0") for name in ("W", "X", "dY")}
    wanted |= {("attn", name) for name in ("Q", "K", "V", "P", "dO", "dO / rows", "dS")}
    assert wanted <= set(found)
    assert all(0 < found[key].share < 0.1 for key in wanted if key[1] in ("W", "X", "A", "B", "Q", "K", "V"))


def test_an_outlier_in_the_input_is_named():
    found, said = losses(300.0)
    assert found["adapted", "X"].share == pytest.approx(300 / 127 / 12**0.5, rel=0.3)
    assert any(message.startswith("adapted: quantization loses") and "of X" in message for message in said)


def test_an_outlying_channel_is_named():
    found, said = losses(300.0, (..., 3))
    assert found["adapted", "X"].of == "column"
    assert any(message.startswith("adapted: quantization loses") and "of a typical column of X" in message for message in said)
