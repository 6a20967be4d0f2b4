"""A torch model with PEFT LoRA layers, attached to the reference device."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from helpers.same_values import assert_same_values
from loralith.mapping.select import AttachError
from loralith.spec.scheme import FQT


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 8, bias=False)
        self.line = nn.Conv1d(1, 1, 3)
        self.words = nn.Embedding(3, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def peft_model(**settings):
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["first", "second"], **settings})
    model = get_peft_model(Small(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


def gradients(model, x):
    loss = model(x).square().sum()
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_outputs_and_gradients_are_those_of_torch_within_quantization(device):
    model, x = peft_model(), torch.randn(5, 7, 12)
    y, want = model(x), gradients(model, x)
    attachment = loralith.attach(model, device, FQT())
    got_y, got = model(x), gradients(model, x)
    assert got.keys() == want.keys()
    assert torch.nn.functional.cosine_similarity(y.flatten(), got_y.flatten(), dim=0) > 0.999
    for name, value in want.items():
        assert torch.nn.functional.cosine_similarity(value.flatten(), got[name].flatten(), dim=0) > 0.99, name
    assert attachment.counters()["macs"] > 0
    loralith.detach(model)
    assert_same_values(model(x), y)


def test_device_memory_is_given_back(device):
    model, x = peft_model(), torch.randn(4, 12)
    attachment = loralith.attach(model, device)
    gradients(model, x)
    attachment.step_begin(0)
    taken = set(device.heap.taken)
    for step in range(3):
        attachment.step_begin(step)
        gradients(model, x)
        model(x)  # a forward pass whose result nobody keeps
    attachment.step_begin(9)
    assert set(device.heap.taken) == taken
    with torch.no_grad():
        model(x)
    attachment.step_begin(10)
    assert set(device.heap.taken) == taken
    attachment.detach()
    assert len(device.heap.taken) == 1, "the list's buffer alone"


def test_same_step_same_bits_other_step_other_bits(device):
    model, x = peft_model(), torch.randn(4, 12)
    attachment = loralith.attach(model, device)

    def at(step):
        attachment.step_begin(step)
        return gradients(model, x)

    first, second, again = at(1), at(2), at(1)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], second[n]) for n in first)


def test_state_of_delayed_scales_continues(device):
    model, x = peft_model(), torch.randn(4, 12)
    scheme = FQT(adapter_scales="delayed")
    attachment = loralith.attach(model, device, scheme)
    attachment.step_begin(0)
    gradients(model, x)
    state = attachment.state_dict()
    attachment.step_begin(1)
    want = gradients(model, x)
    attachment.detach()
    attachment = loralith.attach(model, device, scheme)
    attachment.load_state_dict(state)
    attachment.step_begin(1)
    got = gradients(model, x)
    assert all(torch.equal(want[n], got[n]) for n in want)
    with pytest.raises(AttachError, match="other layers"):
        attachment.load_state_dict({"other": {}})


@pytest.mark.parametrize(
    ("target", "message"), [("line", "LoRA on Conv1d is not supported"), ("words", "LoRA on Embedding is not supported")]
)
def test_unsupported_settings_are_refused_by_name(device, target, message):
    model = peft_model(target_modules=["first", target])
    with pytest.raises(AttachError, match=f"{target}: {message}; target linear layers and 2-D convolutions"):
        loralith.attach(model, device)
    assert not device._heap.taken


@pytest.mark.parametrize(
    ("settings", "left", "reason"),
    [
        ({"target_modules": ["first", "line"]}, "line", "LoRA on Conv1d is not supported; target linear layers and 2-D convolutions"),
        ({"exclude": "second"}, "second", "the base weight is trainable; freeze it (requires_grad False)"),
    ],
)
def test_unsupported_layers_stay_in_torch_on_request(device, settings, left, reason):
    dropped = settings.pop("exclude", None)
    model = peft_model(**settings)
    modules = {name: module for name, module in model.named_modules() if name.split(".")[-1] == left}
    ((name, module),) = modules.items()
    if dropped:
        module.base_layer.weight.requires_grad_(True)
    with pytest.warns(UserWarning, match=f"1 LoRA layers stay in torch .*{left}: {re.escape(reason)}"):
        attachment = loralith.attach(model, device, unsupported="leave")
    assert [(choice.name, choice.kind, choice.reason) for choice in attachment.unmapped if choice.kind == "lora"] == [
        (name, "lora", reason)
    ]
    assert all(layer.name != name for layer in attachment.layers)
    assert any(layer.name.endswith("first") for layer in attachment.layers)
    assert "forward" not in vars(module), "it is torch's own"
    loralith.detach(model)
    with pytest.raises(AttachError, match=re.escape(reason)):
        loralith.attach(model, device)
    with pytest.raises(AttachError, match="unsupported must be refuse or leave, not 'skip'"):
        loralith.attach(model, device, unsupported="skip")


def test_a_model_of_unsupported_layers_alone_is_refused(device):
    with (
        pytest.warns(UserWarning, match="stay in torch"),
        pytest.raises(AttachError, match=r"nothing of the model can run on the device \(.*LoRA on Conv1d is not supported"),
    ):
        loralith.attach(peft_model(target_modules=["line"]), device, unsupported="leave")


def test_other_refusals(device):
    with pytest.raises(AttachError, match="no LoRA layers"):
        loralith.attach(Small(), device)
    model = peft_model()
    loralith.attach(model, device)
    with pytest.raises(AttachError, match="attached already"):
        loralith.attach(model, device)
    x = torch.randn(4, 12)
    x[2, 3] = float("nan")
    with pytest.raises(AttachError, match=r"first.*X must be finite.*\(2, 3\)"):
        model(x)
    loralith.detach(model)
    with pytest.raises(AttachError, match="not attached"):
        loralith.detach(model)
