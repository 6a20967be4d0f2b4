"""Attention that calls torch's scaled_dot_product_attention, in models of diffusers and transformers: outputs and gradients beside torch's,
and every product beside its definition."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import loralith
from helpers.same_values import assert_same_values
from helpers.tiny_transformers import DENOISERS, TEXT, flux, llama, qwen_image, sana, sd3, with_lora, z_image
from loralith.mapping.forward import is_mapped
from loralith.mapping.select import AttachError, select
from loralith.training.verification import ReferenceObserver

LINEAR_ATTENTION = {"transformer_blocks.0.attn1"}
ATTENTIONS = {sd3: 3, sana: 1, qwen_image: 1, z_image: 3}
"""How many of a model are mapped, where it is not two."""
STAYS = {sana: LINEAR_ATTENTION}


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    return one_thread


def cosine(one, two):
    one, two = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (one, two))
    return nn.functional.cosine_similarity(one, two, dim=0).item()


def step(model, run):
    """Output, and gradients of a loss that is linear in it: of a normalized output the squares' sum would have none."""
    y = run()
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    return y.detach(), torch.autograd.grad((y * weights).sum(), [p for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("make", [*DENOISERS, *TEXT], ids=lambda make: make.__name__)
def test_a_model_is_near_torch_and_every_product_is_its_definitions(device, make):
    model, run = with_lora(make)
    y, gradients = step(model, run)
    observer = ReferenceObserver()
    attachment = loralith.attach(model, device, observer=observer, modules="all")
    assert {choice.name for choice in attachment.unmapped} == STAYS.get(make, set())
    got_y, got = step(model, run)
    assert cosine([y], [got_y]) > 0.99
    assert cosine(gradients, got) > 0.99
    assert not torch.equal(y, got_y)
    assert observer.compared > 7000
    attention = [layer for layer in attachment.layers if layer.kind == "attention"]
    assert len(attention) == ATTENTIONS.get(make, 2)
    assert all(layer.counters.macs for layer in attention)
    assert not attachment.open
    attachment.detach()
    assert_same_values(step(model, run)[0], y)


class Attend(nn.Module):
    """Calls torch's function with what it is given."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v):
        return scaled_dot_product_attention(q, k, v, **self.options)


LEAVES_ONE = torch.zeros(1, 5).masked_fill(torch.tensor([[0, 1, 0, 0, 1]]).bool(), -torch.inf)
CALLS = {
    "heads": ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 8), {}),
    "no heads": ((3, 4, 8), (3, 5, 8), (3, 5, 8), {"attn_mask": torch.ones(3, 4, 5, dtype=torch.bool).tril(1)}),
    "wider values": ((1, 2, 4, 4), (1, 2, 5, 4), (1, 2, 5, 6), {"scale": 0.3}),
    "causal": ((1, 2, 5, 8), (1, 2, 5, 8), (1, 2, 5, 8), {"is_causal": True}),
    "shared keys": ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8), {"enable_gqa": True, "attn_mask": LEAVES_ONE}),
    "one mask a head": ((2, 2, 3, 8), (2, 2, 4, 8), (2, 2, 4, 8), {"attn_mask": torch.linspace(-3, 3, 24).reshape(2, 3, 4)}),
    "deeper": ((2, 2, 2, 3, 8), (2, 2, 2, 4, 8), (2, 2, 2, 4, 8), {"attn_mask": torch.ones(4, dtype=torch.bool)}),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_torchs(device, name):
    *shapes, options = CALLS[name]
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    model = Attend(**options)
    y = model(q, k, v)
    weights = torch.randn(y.shape, generator=generator)
    wanted = torch.autograd.grad((y * weights).sum(), (q, k, v))
    loralith.attach(model, device, observer=ReferenceObserver(), modules="all")
    got = model(q, k, v)
    assert got.shape == y.shape
    assert cosine([y], [got]) > 0.999
    for one, two in zip(wanted, torch.autograd.grad((got * weights).sum(), (q, k, v)), strict=True):
        assert one.shape == two.shape
        assert cosine([one], [two]) > 0.99


def test_what_torchs_function_takes_and_the_device_does_not_is_refused(device):
    q = torch.randn(1, 2, 3, 4)
    for options, message in (
        ({"dropout_p": 0.1}, "the model: attention's dropout must be 0, not 0.1"),
        ({"attn_mask": torch.ones(2, 3, dtype=torch.bool)}, r"its mask must broadcast to \[1, 2, 3, 3\], not have the shape \[2, 3\]"),
        ({"attn_mask": torch.zeros(3, 3, dtype=torch.bool)}, "its mask leaves a query without any key"),
    ):
        model = nn.ModuleDict({"the model": Attend(**options)})
        loralith.attach(model, device, modules="all")
        with pytest.raises(AttachError, match=message):
            model["the model"](q, q, q)


def test_other_ways_to_compute_attention_are_named(device):
    """Before `attach` as what stays in torch, after it by the pass."""
    model, run = with_lora(llama)
    loralith.attach(model, device, modules="all")
    run()
    model.config._attn_implementation = "eager"
    with pytest.raises(AttachError, match=r"layers\.0\.self_attn: it computed attention without scaled_dot_product_attention since"):
        run()
    loralith.detach(model)
    reasons = {choice.reason for choice in select(model, "all") if choice.kind == "attention"}
    assert reasons == {"its attention implementation is eager; sdpa is mapped"}
    transformer, _ = with_lora(flux)
    transformer.set_attention_backend("_native_math")
    reasons = {choice.reason for choice in select(transformer, "all") if choice.kind == "attention"}
    assert reasons == {"its attention backend is _native_math; native is mapped"}


def test_only_lora_layers_and_copies(device):
    model, run = with_lora(flux)
    attachment = loralith.attach(model, device)
    assert {layer.kind for layer in attachment.layers} == {"lora"}
    assert {choice.reason for choice in attachment.unmapped if choice.kind == "attention"} == {"only LoRA layers are mapped"}
    attachment.detach()
    y = run()
    loralith.attach(model, device, modules="all")
    twin = copy.deepcopy(model)
    assert any(is_mapped(module) for module in model.modules())
    assert not any(is_mapped(module) for module in twin.modules())
    loralith.detach(model)
    assert_same_values(run(), y)


def test_checkpointing_changes_no_bit(device):
    gradients = []
    for checkpointing in (False, True):
        model, run = with_lora(flux)
        model.train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        attachment = loralith.attach(model, device, modules="all")
        gradients.append(step(model, run)[1])
        assert not attachment.open
        attachment.detach()
    for number, (one, two) in enumerate(zip(*gradients, strict=True)):
        assert_same_values(one, two, number)
