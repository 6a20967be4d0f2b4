"""LoRA layers on the reference device, from floats to gradients, against the torch reference bit for bit."""

import numpy as np
import pytest
import torch

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof import checker
from loralith.compiler.schedules import layer_lists
from loralith.compiler.schedules.emit import Emitter
from loralith.device import open_device
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.spec.commands import Opcode
from loralith.spec.config import load_config
from loralith.spec.scheme import FQT
from loralith.verif.fqt import LoraLayer
from loralith.verif.torch_quantize import QuantizedWeight


def compare(device, T, I, O, r, alpha, scheme, need_dx=True, steps=2, seed=0):
    """Two steps of one layer on `device` and in the reference; every integer and every float must be equal."""
    rng = np.random.default_rng(seed)

    def tensor(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    w, a, b = tensor(O, I, scale=0.1), tensor(r, I, scale=0.2), tensor(O, r, scale=0.02)
    weight = quantize_weight(w, scheme)
    layer = DeviceLayer(device, weight, alpha, r, scheme, 3)
    reference = LoraLayer(QuantizedWeight(torch.from_numpy(weight.q), torch.from_numpy(weight.scale)), alpha, scheme, 3)
    for step in range(steps):
        x, dy = tensor(T, I), tensor(T, O, scale=1e-3)
        saved = layer.forward(x, a, b, step)
        forward = reference.forward(torch.from_numpy(x), torch.from_numpy(a), torch.from_numpy(b), step=step)
        assert (saved.y_acc == forward.y_acc.numpy()).all()
        assert saved.y.tobytes() == forward.y.numpy().tobytes()
        got = layer.backward(saved, dy, need_dx=need_dx)
        want = reference.backward(forward, torch.from_numpy(dy), torch.from_numpy(a), need_dx=need_dx)
        if need_dx:
            assert (got.dx_acc == want.dx_acc.numpy()).all()
            assert got.dx.tobytes() == want.dx.numpy().tobytes()
        else:
            assert got.dx is None
        assert (got.db_acc == want.db_acc.numpy()).all()
        assert (got.da_acc == want.da_acc.numpy().T).all()
        assert got.da.tobytes() == want.da.numpy().tobytes()
        assert got.db.tobytes() == want.db.numpy().tobytes()
    assert layer.numerics.state_dict() == reference.state_dict()
    layer.close()


@pytest.mark.parametrize("scales", ["measured", "device", "delayed"])
@pytest.mark.parametrize("T", [1, 64, 77])
@pytest.mark.parametrize("r", [1, 3, 4, 5, 16])
def test_layer_equals_reference_tiny(T, r, scales):
    with open_device("reference", config="tiny") as device:
        compare(device, T, 40, 24, r, 2.0 * r + 1, FQT(adapter_scales=scales, seed=5))


ROTATED = [("reference", 40, 256), ("direct", 64, 16), ("direct", 320, 256), ("verilator", 16, 4)]


@pytest.mark.parametrize(("name", "I", "rotation"), ROTATED)
def test_a_rotated_layer_equals_the_reference(name, I, rotation):
    with open_device(name, config="tiny") as device:
        compare(device, 9, I, 24, 3, 4.0, FQT(rotation=rotation, seed=5, adapter_scales="device"))


@pytest.mark.parametrize(("config", "T", "I", "O", "r"), [("base", 77, 64, 48, 4), ("base", 130, 320, 320, 6), ("ecp5", 50, 96, 64, 12)])
def test_layer_equals_reference_wider_arrays(config, T, I, O, r):
    with open_device("reference", config=config) as device:
        compare(device, T, I, O, r, 8.0, FQT(stochastic=("X", "dY", "H", "dH", "A", "B")))


@pytest.mark.parametrize("scales", ["measured", "device"])
def test_reduction_longer_than_the_scratchpad(scales):
    """K is split: sums go through the accumulate buffer, and each part of a shifted chain is shifted."""
    with open_device("reference", config="tiny") as device:
        compare(device, 9, 1200, 24, 3, 1.0, FQT(adapter_scales=scales))
        compare(device, 9, 24, 1200, 3, 64.0, FQT(adapter_scales=scales))


@pytest.mark.parametrize(("T", "I", "O", "r", "alpha", "up"), [(33, 40, 24, 5, 1.0, 0), (16, 24, 16, 3, 64.0, 1), (9, 24, 200, 3, 8.0, 1)])
def test_the_rtl_sets_the_scales(T, I, O, r, alpha, up):
    """Base first and adapter first: one list forward and one backward, with the reference's bits."""
    with open_device("verilator", config="tiny") as device:
        run, lists = device.run, []
        device.run = lambda data, timeout=60.0: lists.append(CommandList.unpack(data)) or run(data, timeout)
        compare(device, T, I, O, r, alpha, FQT(adapter_scales="device"), steps=3)
    assert len(lists) == 6
    assert {c["shift_up"] for commands in lists for c in commands if c.opcode is Opcode.COMPUTE and c["device_shift"] and c["chained"]} == {
        up
    }


@pytest.mark.parametrize("scales", ["measured", "device", "delayed"])
@pytest.mark.parametrize(
    ("T", "I", "O", "r", "alpha"), [(33, 40, 24, 5, 1.0), (16, 24, 16, 3, 64.0), (9, 2100, 1030, 3, 8.0), (1300, 8, 8, 1, 2.0)]
)
@pytest.mark.parametrize("weight_bits", [8, 4])
def test_direct_computes_layers_without_lists(T, I, O, r, alpha, scales, weight_bits):
    with open_device("direct", config="tiny") as device:
        compare(device, T, I, O, r, alpha, FQT(adapter_scales=scales, weight_bits=weight_bits, stochastic=("X", "dY", "H", "dH", "A", "B")))
        assert device.counters().macs == 0


def test_lists_of_a_shape_are_compiled_once(monkeypatch):
    """Layers, steps, scales, seeds and addresses differ; the compiler runs once for each list that they share."""
    finished = []
    finish = Emitter.finish
    monkeypatch.setattr(Emitter, "finish", lambda *args: finished.append(args) or finish(*args))
    for cached in (layer_lists.compile_measuring, layer_lists.compile_layer):
        cached.cache_clear()
    with open_device("reference", config="tiny") as device:
        compare(device, 13, 40, 24, 3, 1.0, FQT(seed=1))
        lists = len(finished)
        assert lists == 4  # H and dH measured, forward, backward
        device.alloc(4096)
        compare(device, 13, 40, 24, 3, 1.0, FQT(seed=2), steps=4, seed=9)
        assert len(finished) == lists


def test_leaf_layer_has_no_dx():
    with open_device("reference", config="tiny") as device:
        compare(device, 20, 16, 24, 4, 4.0, FQT(), need_dx=False)


def test_every_list_is_legal_and_free_of_races(monkeypatch):
    config = load_config("tiny")
    with open_device("reference", config=config) as device:
        run, checked = device.run, []

        def checking(data, timeout=60.0):
            commands = CommandList.unpack(data)
            checker.check(commands, config)
            checked.append(len(commands))
            return run(data, timeout)

        monkeypatch.setattr(device, "run", checking)
        compare(device, 77, 40, 24, 5, 8.0, FQT())
        compare(device, 9, 1200, 24, 3, 1.0, FQT())
    assert sum(checked) > 100
