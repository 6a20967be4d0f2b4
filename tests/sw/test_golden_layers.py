"""Golden layers: a training step's floats in, every tensor of the file out, on the reference device and on the RTL."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from loralith.device import open_device
from loralith.device.device import Device
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.spec.scheme import FQT
from loralith.verif.golden import layer_cases, read_vector
from loralith.verif.golden_compare import compare

CASES = [case.name for case in layer_cases()]
# Tensors of the file that no command list gives: sums that stay on chip. Maxima and gradients are made from them.
ON_CHIP = {"h_acc", "dh_acc", "dhq"}


def one_step(device: Device, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """The file's layer on a device: tensors by the file's names, and values by those of its metadata."""
    tensors, meta = read_vector(path)
    case = meta["case"]
    scheme = FQT.from_dict(case["scheme"])
    x, w, a, b, dy = (tensors[name].numpy() for name in ("x", "w", "a", "b", "dy"))
    weight = quantize_weight(w, scheme)
    layer = DeviceLayer(device, weight, case["alpha"], case["r"], scheme, case["layer"])
    saved = layer.forward(x, a, b, case["step"], case["call"])
    hq = saved.skinny.unpack(device.read(saved.skinny.address, saved.skinny.nbytes), np.int8)[:, : case["r"]]
    gradients = layer.backward(saved, dy)
    layer.close()
    forward, backward = saved.plan, gradients.plan
    found = {
        **{"wq": weight.q, "sw": weight.scale},
        **{"xq": forward.operands.xq, "aq": forward.operands.aq, "bq": forward.operands.bq, "hq": hq},
        **{"b_chain": forward.b_chain, "y_acc": saved.y_acc, "y_scale": forward.y_scale, "y": saved.y},
        **{"dyq": backward.operands.dyq, "a_chain": backward.a_chain, "dx_acc": gradients.dx_acc, "dx": gradients.dx},
        **{"db_acc": gradients.db_acc.astype(np.int64), "db_scale": backward.db_scale, "db": gradients.db},
        **{"da_acc": gradients.da_acc.T.astype(np.int64), "da": gradients.da},
    }
    maxima = layer.numerics.history
    values = {
        **{"sx": forward.operands.sx, "sa": forward.operands.sa, "b": forward.operands.b, "h": forward.h, "h_max": maxima["H"][-1]},
        **{"g": backward.operands.g, "h_prime": backward.h_prime, "dh_max": maxima["dH"][-1]},
        **{"dx_scale": backward.dx_scale, "da_scale": backward.da_scale},
        **{f"saturated {name}": count for name, count in layer.saturations.items()},
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}, values


def check(device: Device, path: Path) -> None:
    tensors, meta = read_vector(path)
    found, values = one_step(device, path)
    expected = {name: tensors[name] for name in found}
    assert set(tensors) - set(found) - {"x", "w", "a", "b", "dy"} == ON_CHIP
    assert compare(expected, found, layer=path.stem, step=meta["case"]["step"]) is None
    for name, value in values.items():
        wanted = meta["saturated"][name.split()[1]] if name.startswith("saturated") else meta[name]
        assert value == wanted, name


@pytest.fixture(scope="module", params=["reference", "verilator"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with open_device(request.param, "tiny") as device:
        yield device


@pytest.mark.parametrize("name", CASES)
def test_layer_gives_the_golden_bits(device: Device, golden_layers: Path, name: str) -> None:
    check(device, golden_layers / f"{name}.safetensors")


def test_a_wrong_bit_is_found(golden_layers: Path) -> None:
    """Guards the test itself: a device whose products are off by one in one place."""
    path = golden_layers / f"{CASES[7]}.safetensors"
    with open_device("reference", "tiny") as device:
        read = device.read

        def wrong(address: int, nbytes: int) -> np.ndarray:
            data = read(address, nbytes)
            if nbytes > 1000:
                data[500] ^= 1
            return data

        device.read = wrong
        with pytest.raises(AssertionError):
            check(device, path)
