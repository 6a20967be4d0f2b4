"""The torch reference under a model gives the bits of a device under it."""

import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from helpers.same_values import assert_same_values
from loralith.mapping.select import AttachError
from loralith.spec.scheme import FQT, SchemeError
from loralith.verif.reference_attachment import ReferenceAttachment


class Twice(nn.Module):
    """A layer with bias that runs twice in a step, a layer whose input needs no gradient, and one without bias."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 12)
        self.prompt = nn.Linear(7, 12, bias=False)
        self.outer = nn.Linear(12, 5, bias=False)

    def forward(self, x, prompt):
        return self.outer(torch.tanh(self.inner(torch.tanh(self.inner(x)) + self.prompt(prompt))))


def peft_model():
    torch.manual_seed(0)
    model = get_peft_model(Twice(), LoraConfig(r=3, lora_alpha=5, target_modules=["inner", "prompt", "outer"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


def train(model, attachment, first, last):
    """Losses of steps of gradient descent, and the adapter after them."""
    losses = []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for step in range(first, last):
        generator = torch.Generator().manual_seed(0)
        attachment.step_begin(step)
        loss = model(torch.randn(2, 6, 12, generator=generator), torch.randn(2, 6, 7, generator=generator)).square().mean()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.5 * gradient
        losses.append(loss.item())
    return losses, [p.detach().clone() for p in parameters]


SCHEMES = {
    "default": FQT(seed=5),
    "delayed": FQT(adapter_scales="delayed", history=2),
    "device": FQT(adapter_scales="device", seed=6),
    "all stochastic, int4 weights": FQT(weight_bits=4, stochastic=("X", "dY", "H", "dH", "A", "B"), seed=1 << 50),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_training_is_the_devices_bit_for_bit(name):
    with loralith.open_device("reference", config="tiny") as device:
        model = peft_model()
        attachment = loralith.attach(model, device, SCHEMES[name])
        wanted = train(model, attachment, 0, 4)
        histories = attachment.state_dict()
        attachment.detach()
    model = peft_model()
    attachment = ReferenceAttachment(model, SCHEMES[name])
    losses, adapter = train(model, attachment, 0, 4)
    assert losses == wanted[0]
    assert all(torch.equal(one, two) for one, two in zip(adapter, wanted[1], strict=True))
    assert attachment.state_dict() == histories


def test_state_continues_and_detach_restores():
    scheme = FQT(adapter_scales="delayed")
    model = peft_model()
    x, prompt = torch.ones(1, 2, 12), torch.ones(1, 2, 7)
    plain = model(x, prompt)
    attachment = ReferenceAttachment(model, scheme)
    with torch.no_grad():  # an evaluation: it leaves no trace in the history
        assert not torch.equal(model(x, prompt), plain)
    losses, _ = train(model, attachment, 0, 4)
    other = peft_model()
    first = ReferenceAttachment(other, scheme)
    again, _ = train(other, first, 0, 2)
    state = first.state_dict()
    first.detach()
    second = ReferenceAttachment(other, scheme)
    second.load_state_dict(state)
    again += train(other, second, 2, 4)[0]
    assert again == losses
    second.detach()
    second.detach()
    other.load_state_dict(peft_model().state_dict())
    assert_same_values(other(x, prompt), plain)


def test_a_step_leaves_nothing_behind():
    """What a pass saved is gone with its step: a study runs thousands."""
    passes = []

    class Seen:
        def forward(self, name, x, forward):
            passes.append(weakref.ref(forward))

        def backward(self, name, dy, forward, backward):
            passes.append(weakref.ref(backward))

    model = peft_model()
    attachment = ReferenceAttachment(model, FQT(), Seen())
    train(model, attachment, 0, 2)
    gc.collect()
    assert len(passes) == 16
    assert not [seen for seen in passes if seen() is not None]


def test_a_layer_is_named_in_an_error():
    model = peft_model()
    ReferenceAttachment(model, FQT())
    with pytest.raises(SchemeError, match=r"inner: X must be finite, but its element \(0, 3\) is nan"):
        model(torch.tensor([[[1.0, 2.0, 3.0, float("nan")] + [0.0] * 8]]), torch.zeros(1, 1, 7))
    with pytest.raises(SchemeError, match="no LoRA layers"):
        ReferenceAttachment(Twice(), FQT())


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (FQT(activation_bits=4), "inner: activation_bits must be 8 on a device, not 4; only the reference runs it"),
        (FQT(gradient_bits=4), "gradient_bits must be 8 on a device"),
        (FQT(power_of_two=True), "power_of_two must be False on a device, not True"),
        (FQT(weight_scales="block"), "weight_scales must be 'tensor' or 'channel' on a device, not 'block'"),
    ],
)
def test_a_device_refuses_what_only_the_reference_runs(scheme, message):
    model = peft_model()
    with loralith.open_device("reference", config="tiny") as device:
        with pytest.raises(AttachError, match=message):
            loralith.attach(model, device, scheme)
    attachment = ReferenceAttachment(model, scheme)
    losses, _ = train(model, attachment, 0, 3)
    assert losses == sorted(losses, reverse=True)
