"""Gradient checkpointing, state and exceptions: what a step of an attached model keeps, and for how long."""

import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

import loralith
from helpers.lora_loops import SCHEMES, equal, gradients, inputs, peft_model, trained


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("modules", ["lora", "all"])
def test_checkpointing_changes_no_bit_and_keeps_no_memory(device, scheme, reentrant, modules):
    plain, checked = peft_model(), peft_model()
    one, two = (loralith.attach(model, device, scheme, modules=modules) for model in (plain, checked))
    for step in range(3):
        x = inputs(step).requires_grad_()
        want = gradients(plain, x)
        y = checkpoint(checked, x, use_reentrant=reentrant)
        assert not two.open, "what will be done again keeps nothing"
        if reentrant:
            y.square().sum().backward()
            got = {name: p.grad for name, p in trained(checked).items()}
        else:
            parameters = trained(checked)
            got = dict(zip(parameters, torch.autograd.grad(y.square().sum(), list(parameters.values())), strict=True))
        assert equal(got, want), step
        assert not two.open
        for p in trained(checked).values():
            p.grad = None
    assert one.state_dict() == two.state_dict()
    assert one.step == two.step == 2


class Residual(nn.Module):
    """A block of two LoRA layers, which adds to its input."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 48)
        self.second = nn.Linear(48, 16)

    def forward(self, x):
        return x + self.second(torch.tanh(self.first(x)))


class Peak:
    """The most bytes of a device's heap that were taken since this was made."""

    def __init__(self, heap, monkeypatch):
        self.heap, self.before, self.most, self.take = heap, heap.used, 0, heap.take
        monkeypatch.setattr(heap, "take", self.taking)

    def taking(self, nbytes, align):
        address = self.take(nbytes, align)
        self.most = max(self.most, self.heap.used - self.before)
        return address


def blocks_step(monkeypatch, run, modules, count=6):
    """Over a step through ``count`` blocks on a device: (the most bytes, those at the end of the forward pass, gradients)."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Residual() for _ in range(count))).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False))
    with loralith.open_device("direct", "tiny") as device:  # which takes no scratch
        attachment = loralith.attach(model, device, modules=modules)
        peak = Peak(device.heap, monkeypatch)
        y = torch.randn(200, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        for block in model.base_model.model.children():
            y = run(block, y)
        attachment.open  # noqa: B018, runs what is deferred
        between = device.heap.used - peak.before
        y.square().sum().backward()
        assert not attachment.open
        monkeypatch.undo()
    return peak.most, between, {name: p.grad for name, p in trained(model).items()}


@pytest.mark.parametrize("modules", ["lora", "all"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_takes_the_device_memory_of_the_checkpoints_and_one_block(monkeypatch, reentrant, modules):
    count = 6
    whole, kept, want = blocks_step(monkeypatch, lambda block, y: block(y), modules)
    assert whole == kept, "all blocks' passes are open at the end of the forward pass"
    checkpoints = count * 200 * 16  # INT8 X of each block's input, which the tensors that torch keeps keep
    most, between, got = blocks_step(monkeypatch, lambda block, y: checkpoint(block, y, use_reentrant=reentrant), modules)
    assert between <= checkpoints
    assert most <= checkpoints + whole // count
    assert most < whole / 2
    assert equal(got, want)


def test_state_dict_of_an_attached_model(device):
    """It has the names and values of the plain model's, and one that is loaded is followed, frozen weights too."""
    plain, attached, other = peft_model(), peft_model(), peft_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1.5)
    loralith.attach(attached, device, modules="all")
    attached(inputs())
    assert equal(attached.state_dict(), plain.state_dict())
    attached.load_state_dict(other.state_dict())
    want = other(inputs())
    assert (attached(inputs()) - want).norm() < 0.05 * want.norm()


class Failing(torch.autograd.Function):
    """Its backward pass fails."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        raise ValueError("in the middle of a step")


def test_an_exception_in_a_backward_pass_leaves_nothing_behind(device):
    model = peft_model()
    attachment = loralith.attach(model, device, modules="all")
    want = gradients(model)
    layers = model.base_model.model
    with pytest.raises(ValueError, match="in the middle of a step"):
        layers.second(Failing.apply(torch.relu(layers.middle(layers.first(inputs()))))).sum().backward()
    gc.collect()
    assert not attachment.open
    attachment.step_begin(0)
    model.zero_grad()
    assert equal(gradients(model), want)
