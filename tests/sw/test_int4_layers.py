"""Layers whose W has 4 bits: the reference's bits on every device, and half the traffic of W."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from helpers.packed_weights import INT4, run_loads
from helpers.same_values import assert_same_values
from loralith.compiler.cycles import model
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import check
from loralith.device import open_device
from loralith.device.native.memory_model import MemoryTiming
from loralith.lora.frozen import FrozenLinear
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.spec.scheme import FQT
from loralith.verif.fqt import LoraLayer
from loralith.verif.torch_quantize import QuantizedWeight


def layer_step(device, T, I, O, r, scheme, *, need_dx=True, seed=0):
    """One step of a layer, compared with the torch reference: bytes read by its lists, bytes of W."""
    rng = np.random.default_rng(seed)

    def tensor(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    x, a, b, dy = tensor(T, I), tensor(r, I, scale=0.2), tensor(O, r, scale=0.02), tensor(T, O, scale=1e-3)
    weight = quantize_weight(tensor(O, I, scale=0.1), scheme)
    layer = DeviceLayer(device, weight, 8.0, r, scheme, 3)
    reference = LoraLayer(QuantizedWeight(torch.from_numpy(weight.q), torch.from_numpy(weight.scale)), 8.0, scheme, 3)
    read, run = [], device.run

    def counting(data, timeout=60.0):
        commands = CommandList.unpack(data)
        check(commands, device.config, (device.memory_base, device.memory_base + device.memory_bytes))
        result = run(commands, timeout)
        read.append(device.last_counters.bytes_read)
        assert model(commands, device.config).read_words * device.config.bus_bytes == read[-1]
        return result

    device.run = counting
    try:
        saved = layer.forward(x, a, b, 1)
        forward = reference.forward(torch.from_numpy(x), torch.from_numpy(a), torch.from_numpy(b), step=1)
        assert_same_values(saved.y_acc, forward.y_acc.numpy())
        got = layer.backward(saved, dy, need_dx=need_dx)
        want = reference.backward(forward, torch.from_numpy(dy), torch.from_numpy(a), need_dx=need_dx)
    finally:
        del device.run
        layer.close()
    assert_same_values(got.db_acc, want.db_acc.numpy())
    assert_same_values(got.da_acc, want.da_acc.numpy().T)
    if need_dx:
        assert_same_values(got.dx_acc, want.dx_acc.numpy())
        assert got.dx.tobytes() == want.dx.numpy().tobytes()
    return sum(read), layer.weight.nbytes


@pytest.mark.parametrize(
    ("config", "T", "I", "O", "r"),
    [
        *(("tiny", 1, 40, 24, 3), ("tiny", 77, 40, 24, 4), ("tiny", 9, 1200, 24, 3), ("tiny", 9, 24, 1200, 3), ("tiny", 12, 15, 17, 16)),
        *(("base", 77, 64, 48, 4), ("base", 130, 320, 320, 6), ("ecp5", 50, 96, 64, 12), ("paper", 70, 200, 130, 4)),
    ],
)
def test_a_layer_with_packed_weights_is_the_references(config, T, I, O, r):
    with open_device("reference", config) as device:
        layer_step(device, T, I, O, r, INT4)


@pytest.mark.parametrize(("T", "I", "O", "r"), [(12, 40, 24, 3), (20, 33, 50, 4), (9, 300, 20, 2)])
def test_a_layer_with_packed_weights_on_the_rtl(devices, T, I, O, r):
    assert layer_step(devices[1], T, I, O, r, INT4) == layer_step(devices[0], T, I, O, r, INT4)


@pytest.mark.parametrize("which", [0, 1], ids=["reference", "verilator"])
def test_the_weight_takes_half_the_bytes_of_memory_and_bus(devices, which):
    """Eight tokens, so that each pass reads W once, in the same blocks: all else of a step is the same."""
    (read8, bytes8), (read4, bytes4) = (layer_step(devices[which], 8, 64, 64, 4, FQT(weight_bits=bits, seed=5)) for bits in (8, 4))
    assert (bytes8, bytes4) == (64 * 64, 64 * 64 // 2)
    assert read8 - read4 == 2 * bytes4, "forward and backward"


def test_a_memory_of_few_words_per_cycle_is_waited_for_less(devices):
    rtl, cycles = devices[1], []
    rtl.configure(timing=MemoryTiming(read_rate=0.25))
    try:
        for bits in (8, 4):
            *_, commands, read = run_loads(rtl, 8, bits, natural=False, transposed=True, M=4, N=16, K=128)
            cycles.append((rtl.last_counters.cycles, read, len(commands)))
    finally:
        rtl.configure(timing=MemoryTiming())
    (before, read8, n8), (after, read4, n4) = cycles
    assert n8 == n4
    words = (read8 - read4) // rtl.config.bus_bytes
    assert words == 16 * 128 // 2 // rtl.config.bus_bytes
    assert before - after > 3 * words, "four cycles a word"


@pytest.mark.parametrize("which", [0, 1], ids=["reference", "verilator"])
def test_a_frozen_layer_with_a_packed_weight(devices, which):
    device, rng = devices[which], np.random.default_rng(8)
    w, x, dy = (rng.standard_normal(shape).astype(np.float32) for shape in ((24, 48), (10, 48), (10, 24)))
    weight = quantize_weight(w, INT4)
    layer = FrozenLinear(device, weight, INT4, 2)
    assert layer.weight.nbytes(device) == 24 * 24
    output = layer.forward(x, 1)
    assert_same_values(output.acc, output.xq.astype(np.int32) @ weight.q.T.astype(np.int32))
    back = layer.backward(dy, 1)
    assert_same_values(back.acc, back.dyq.astype(np.int32) @ weight.q.astype(np.int32))
    layer.close()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 36), nn.Linear(36, 20), nn.Linear(20, 8, bias=False)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


def train(device, bits, steps=3):
    """Losses and trained weights of a model with LoRA layers and a frozen one; bytes that the device read, bytes of W on it."""
    torch.manual_seed(0)
    net = get_peft_model(Small(), LoraConfig(r=3, lora_alpha=6, target_modules=["first", "third"]))
    attachment = loralith.attach(net, device, FQT(weight_bits=bits), modules="all")
    assert [layer.kind for layer in attachment.layers] == ["lora", "lora", "linear"]
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
    x, wanted = torch.randn(10, 12), torch.randn(10, 8)
    losses = []
    for step in range(steps):
        attachment.step_begin(step)
        loss = (net(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    read, weights = attachment.counters().get("bytes_read"), sum(layer.weight_bytes()[0] for layer in attachment.layers)
    trained = [p.detach().clone() for p in net.parameters() if p.requires_grad]
    loralith.detach(net)
    return losses, trained, read, weights


@pytest.mark.usefixtures("one_thread")
def test_training_on_the_rtl_is_training_on_the_reference(devices):
    results = [train(device, 4) for device in devices]
    with open_device("direct", "tiny") as direct:
        results.append(train(direct, 4))
    losses, trained, read, weights = results[0]
    assert losses[-1] < losses[0]
    for other in results[1:]:
        assert other[0] == losses
        assert all(torch.equal(one, two) for one, two in zip(other[1], trained, strict=True))
    assert results[1][2:] == (read, weights)
    wide = train(devices[0], 8)
    assert wide[0] != losses, "a W of 8 bits gives other values"
    assert weights == 8 * (36 + 3 * 20 + 2 * 8)
    assert wide[3] == 8 * (2 * 36 + 5 * 20 + 3 * 8)
    assert wide[2] - read >= 3 * 2 * (wide[3] - weights) - 3 * 8 * 36, "each step reads each W twice; the first layer's once"
