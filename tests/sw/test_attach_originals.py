"""`attach(..., originals=FOLDER)`: what torch keeps of mapped weights lies in a file, and everything else is as without."""

import copy
import gc
import io
import pickle
import shutil
import weakref
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from helpers.same_values import assert_same_values
from helpers.tiny_unet import CONFIG
from loralith.mapping.select import AttachError


@pytest.fixture
def device():
    with loralith.open_device("direct", config="tiny") as device:
        yield device


class Tied(nn.Module):
    """A table whose weight is also a layer's, and convolutions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 12)
        self.first = nn.Linear(12, 12)
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        y = self.head(torch.tanh(self.first(x + self.table.weight[:6])))
        return y.sum() + self.conv(x.reshape(1, 3, 4, 6)).square().mean()


def peft_model(kind=Tied, dtype=torch.float32):
    torch.manual_seed(0)
    model = kind().to(dtype)
    model = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=["first"], init_lora_weights=False))
    return model.to(memory_format=torch.channels_last)


def x(dtype=torch.float32):
    return torch.randn(6, 12, generator=torch.Generator().manual_seed(1)).to(dtype)


def results(model, dtype=torch.float32):
    inputs = x(dtype).requires_grad_()
    y = model(inputs)
    trained = [p for p in model.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, [inputs, *trained], materialize_grads=True)]


def in_file(tensor):
    """Whether its values are those of a file that is mapped to memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        places, _, _, _, inode, *_ = line.split()
        first, last = (int(place, 16) for place in places.split("-"))
        if first <= tensor.data_ptr() < last:
            return inode != "0"
    return False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_parameters_are_what_they_were(dtype, device, tmp_path):
    model = peft_model(dtype=dtype)
    loralith.attach(model, device, modules="all")
    want = results(model, dtype)
    loralith.detach(model)
    before, state = list(model.parameters()), {name: value.clone() for name, value in model.state_dict().items()}
    weights = [model.base_model.model.first.base_layer.weight, model.base_model.model.conv.weight, model.base_model.model.head.weight]
    strides = [weight.stride() for weight in weights]
    loralith.attach(model, device, modules="all", originals=tmp_path)
    assert not list(tmp_path.iterdir())
    assert all(in_file(weight) for weight in weights)
    assert [weight.stride() for weight in weights] == strides
    for a, b in zip(results(model, dtype), want, strict=True):
        assert_same_values(a, b)
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    for found in (model.state_dict(), torch.load(saved), copy.deepcopy(model).state_dict(), pickle.loads(pickle.dumps(model)).state_dict()):
        assert found.keys() == state.keys()
        for name, value in found.items():
            assert_same_values(value, state[name], name)
    loralith.detach(model)
    assert not any(in_file(weight) for weight in weights)
    assert [weight.stride() for weight in weights] == strides
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_their_memory_is_given_back_and_the_file_goes_with_the_model(device, tmp_path):
    layer = nn.Linear(8, 8, bias=False).requires_grad_(False)
    values = torch.randn(8, 8).numpy()
    gone = weakref.ref(values)
    layer.weight.data = torch.from_numpy(values)
    del values
    assert gone() is not None
    loralith.attach(layer, device, modules="all", originals=tmp_path)
    assert gone() is None
    address = layer.weight.data_ptr()
    del layer
    gc.collect()
    assert not any(
        int(line.split("-")[0], 16) <= address < int(line.split("-")[1].split()[0], 16) and line.split()[4] != "0"
        for line in Path("/proc/self/maps").read_text().splitlines()
    )


def test_changes_are_followed_and_writes_stay_in_memory(device, tmp_path):
    model, twin = peft_model(), peft_model()
    loralith.attach(twin, device, modules="all")
    loralith.attach(model, device, modules="all", originals=tmp_path)
    for change in (
        lambda m: m.base_model.model.conv.weight.data.mul_(2),
        lambda m: m.base_model.model.head.weight.detach().numpy().__imul__(-1),
        lambda m: m.merge_adapter(),
        lambda m: m.unmerge_adapter(),
        lambda m: m.load_state_dict({name: value * 0.5 for name, value in m.state_dict().items()}),
    ):
        with torch.no_grad():
            before, _ = model(x()), twin(x())
            for one in (twin, model):
                change(one)
        after = results(model)
        for a, b in zip(after, results(twin), strict=True):
            assert_same_values(a, b)
        assert not torch.equal(after[0], before)
    loralith.detach(model)
    loralith.detach(twin)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def test_a_write_past_torchs_count_is_seen_in_a_large_weight(device, tmp_path):
    layer = nn.Linear(70, 50, bias=False).requires_grad_(False)
    loralith.attach(layer, device, modules="all", originals=tmp_path)
    before = layer(torch.ones(1, 70))
    for part in (layer.weight.data[:26], layer.weight.data[26:]):
        part.numpy()[:] *= -1
        after = layer(torch.ones(1, 70))
        assert not torch.equal(after, before)
        before = after
    twin = nn.Linear(70, 50, bias=False).requires_grad_(False)
    twin.load_state_dict(layer.state_dict())
    loralith.attach(twin, device, modules="all")
    assert_same_values(before, twin(torch.ones(1, 70)))


def test_a_whole_unet_and_a_layer_in_parts(device, tmp_path):
    """DoRA's norms read W of the file in every pass."""

    def unet():
        torch.manual_seed(0)
        model = UNet2DConditionModel(**CONFIG).requires_grad_(False)
        config = LoraConfig(r=2, target_modules=["to_q", "to_out.0"], use_dora=True, init_lora_weights=False)
        return get_peft_model(model, config)  # type: ignore[arg-type]

    inputs = torch.randn(1, 1, 4, 4), torch.tensor([3]), torch.randn(1, 5, 6)
    found = []
    for originals in (None, tmp_path):
        model = unet()
        loralith.attach(model, device, modules="all", originals=originals)
        loss = model(*inputs).sample.square().sum()
        found.append([loss.detach(), *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])])
        loralith.detach(model)
    for a, b in zip(*found, strict=True):
        assert_same_values(a, b)


def test_what_cannot_be_moved_is_refused_before_anything_is_changed(device, tmp_path, monkeypatch):
    model = peft_model()
    pointers = [p.data_ptr() for p in model.parameters()]

    def refused(match, folder=tmp_path):
        with pytest.raises(AttachError, match=match):
            loralith.attach(model, device, modules="all", originals=folder)
        assert [p.data_ptr() for p in model.parameters()] == pointers
        assert not device.heap.taken

    refused("missing cannot hold the frozen weights: No such file or directory; give a folder on a disk", tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    refused("file cannot hold the frozen weights: Not a directory", tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(8192))
        refused(r"has 8192 bytes free, and the frozen weights take 12288; give another folder")
    model.base_model.model.conv.weight.share_memory_()
    pointers = [p.data_ptr() for p in model.parameters()]
    refused("^conv: its weight is in shared memory|conv: its weight is in shared memory")
    loralith.attach(model, device, modules="all")
