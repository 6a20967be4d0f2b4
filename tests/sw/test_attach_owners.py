"""Who has a device, a model and their memory: threads, parts of models, closed devices, too little memory."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from helpers.same_values import assert_same_values
from loralith.device.device_errors import DeviceError, OutOfMemory
from loralith.mapping.select import AttachError


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 8, bias=False)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def peft_model():
    torch.manual_seed(0)
    return get_peft_model(Small(), LoraConfig(r=3, lora_alpha=6, target_modules=["first", "second"], init_lora_weights=False))


def inputs(seed=0):
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(seed))


def gradients(model, x):
    return torch.autograd.grad(model(x).square().sum(), [p for p in model.parameters() if p.requires_grad])


@pytest.fixture
def device():
    with loralith.open_device("reference", config="tiny") as device:
        yield device


def flat(models):
    """Gradients of all passes of all models."""
    return [found for passes in models for found in passes]


@pytest.mark.parametrize("modules", ["lora", "all"])
def test_threads_on_one_device(device, modules):
    """Two models in two threads; gradients are those of each alone."""
    models = [peft_model(), peft_model()]
    for model in models:
        loralith.attach(model, device, modules=modules).step_begin(0)
    want = [[gradients(model, inputs(seed)) for seed in range(4)] for model in models]
    for model in models:
        loralith.detach(model)
        loralith.attach(model, device, modules=modules).step_begin(0)

    def work(model):
        with warnings.catch_warnings():
            return [gradients(model, inputs(seed)) for seed in range(4)]

    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(work, models))
    assert all(torch.equal(a, b) for one, two in zip(flat(want), flat(got), strict=True) for a, b in zip(one, two, strict=True))


def test_a_part_of_an_attached_model_is_refused(device):
    model = peft_model()
    loralith.attach(model, device)
    before = set(device.heap.taken)
    with pytest.raises(AttachError, match="first is attached already, as a part of another model"):
        loralith.attach(model.base_model.model, device, modules="all")
    assert set(device.heap.taken) == before
    loralith.detach(model)
    loralith.attach(model.base_model.model.first, device)
    with pytest.raises(AttachError, match=r"first is attached already, as a part of another model"):
        loralith.attach(model, device)
    loralith.detach(model.base_model.model.first)
    assert_same_values(model(inputs()), peft_model()(inputs()))


def test_backward_after_detach_or_close():
    with loralith.open_device("reference", config="tiny") as device:
        model = peft_model()
        loralith.attach(model, device)
        y = model(inputs()).sum()
        loralith.detach(model)
        with pytest.raises(AttachError, match=r"second: what this forward pass saved is gone; backward must come before"):
            y.backward()
        loralith.attach(model, device)
        y = model(inputs()).sum()
    with pytest.raises(DeviceError, match="the device is closed"):
        y.backward()
    with pytest.raises(DeviceError, match="the device is closed"):
        model(inputs())
    loralith.detach(model)
    assert_same_values(model(inputs()), peft_model()(inputs()))


def test_too_little_memory_says_what_would_do():
    model = nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 64)).requires_grad_(False)
    with loralith.open_device("reference", config="tiny", memory_bytes=1 << 14) as small:
        with pytest.raises(OutOfMemory, match=r"frozen weights of 2 layers take 32768 bytes.* has 16384.*memory_bytes=131072 or more"):
            loralith.attach(model, small, modules="all")
        assert not small.heap.taken
    with loralith.open_device("reference", config="tiny", memory_bytes=131072) as enough:
        loralith.attach(model, enough, modules="all")
        with pytest.raises(OutOfMemory, match=r"^0: no \d+ bytes.*memory_bytes=\d+ or more instead of 131072, or take smaller batches"):
            model(torch.randn(2000, 64))
