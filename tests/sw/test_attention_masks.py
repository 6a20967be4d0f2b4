"""Masks of mapped attention: every form is torch's own result, or refused by name."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTokenRefiner
from torch import nn

import loralith
from loralith.mapping.select import AttachError

B, H, Q, K, WIDTH = 2, 3, 5, 7, 12


@pytest.fixture
def device():
    with loralith.open_device("direct", config="tiny") as device:
        yield device


class One(nn.Module):
    def __init__(self, processor, **settings):
        super().__init__()
        self.attn = Attention(WIDTH, 6, heads=H, dim_head=4, processor=processor, **settings)

    def forward(self, x, text, mask):
        return self.attn(x, text, attention_mask=mask)


def both(device, processor, mask, torchs_mask=None, **settings):
    """(torch's result, the device's) of one cross attention; torch's with a mask of its own where one is given."""
    torch.manual_seed(0)
    model = One(processor, **settings).requires_grad_(False)
    # Scores of several units, so that a mask which is taken as 0 and 1 shows.
    model.attn.to_q.weight.mul_(4)
    x, text = torch.randn(B, Q, WIDTH), torch.randn(B, K, 6)
    want = model(x, text, mask if torchs_mask is None else torchs_mask)
    loralith.attach(model, device, modules="all")
    try:
        return want, model(x, text, mask)
    finally:
        loralith.detach(model)


def error(want, got):
    return ((got - want).norm() / want.norm()).item()


def keep(*shape):
    """True for about half of the keys, the first one among them."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[..., 0] = True
    return mask


def bias(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4)) * 3


@pytest.mark.parametrize(
    "mask",
    [
        None,
        keep(B, K),
        keep(B, 1, K),
        keep(B, Q, K),
        keep(B * H, Q, K),
        keep(B * H, K),
        keep(B, 1, 1, K),
        keep(B, 1, Q, K),
        bias(B, K),
        bias(B, 1, K),
        bias(B, Q, K),
        bias(B * H, 1, K),
        bias(B, 1, Q, K),
        torch.zeros(B, 1, K).masked_fill(~keep(B, 1, K), -torch.inf),
        torch.zeros(B, 1, K).masked_fill(~keep(B, 1, K), torch.finfo(torch.float32).min),
    ],
    ids=lambda mask: "none" if mask is None else f"{str(mask.dtype)[6:]}{list(mask.shape)}",
)
def test_masks_of_torchs_own_attention(device, mask):
    assert error(*both(device, AttnProcessor2_0(), mask)) < 0.06


@pytest.mark.parametrize("mask", [None, bias(B, 1, K), bias(B, Q, K), bias(B * H, Q, K)])
def test_masks_of_the_older_processor(device, mask):
    assert error(*both(device, AttnProcessor(), mask)) < 0.06


@pytest.mark.parametrize("mask", [keep(1, K), keep(1, Q, K), bias(B, H, Q, K), bias(1, H, 1, K)])
def test_masks_that_diffusers_does_not_spread_are_spread(device, mask):
    """Over images and heads, as scaled_dot_product_attention broadcasts; diffusers takes the same mask in full."""
    four = mask if mask.dim() == 4 else mask[:, None] if mask.dim() == 3 else mask[:, None, None]
    full = four.expand(B, H, -1, -1).reshape(B * H, -1, K)
    assert error(*both(device, AttnProcessor2_0(), mask, full)) < 0.06


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_each_processor_has_its_own_scale(device, processor):
    """Without scale_qk the older one does not scale, and torch's attention does all the same."""
    assert error(*both(device, processor(), None, scale_qk=False)) < 0.06


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(B, K, dtype=torch.long), r"attn: its mask must be bool \(True keeps\) or floating point \(added\), not torch.int64"),
        (keep(B, K - 1), r"attn: its mask must have the shape .*, not \[2, 6\]"),
        (bias(3, Q, K), r"with B of 1, 2 or 6, not \[3, 5, 7\]"),
        (bias(K), r"not \[7\]"),
        (bias(B, 1, 1, 1, K), r"not \[2, 1, 1, 1, 7\]"),
        (torch.zeros(B, K, dtype=torch.bool), "attn: its mask leaves a query without any key"),
        (torch.full((B, 1, K), -torch.inf), "attn: its mask leaves a query without any key"),
        (bias(B, 1, K).requires_grad_(), "attn: its mask needs a gradient, which the device does not compute"),
    ],
)
def test_other_masks_are_refused_by_name(device, mask, message):
    model = One(AttnProcessor2_0()).requires_grad_(False)
    loralith.attach(model, device, modules="all")
    with pytest.raises(AttachError, match=message):
        model(torch.randn(B, Q, WIDTH), torch.randn(B, K, 6), mask)
    loralith.detach(model)


def test_the_token_refiner_of_hunyuan_video(device):
    torch.manual_seed(0)
    model = HunyuanVideoTokenRefiner(8, num_attention_heads=2, attention_head_dim=4, num_layers=2).requires_grad_(False)
    plain = copy.deepcopy(model)
    text, mask = torch.randn(2, 6, 8), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    arguments = text, torch.tensor([3, 700]), mask
    loralith.attach(model, device, modules="all")
    assert error(plain(*arguments), model(*arguments)) < 0.06
    loralith.detach(model)
