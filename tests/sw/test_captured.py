"""Real tensors of every LoRA layer as golden vectors: the reference, the numpy device and the RTL give the recorded bits."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.same_values import assert_same_values
from loralith import cli
from loralith.device import open_device
from loralith.device.device import Device
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.verif import captured
from loralith.verif.captured import CAPTURED, CapturedLayer, digest, read_captured, write_captured
from loralith.verif.golden import layer_vector, read_vector
from loralith.verif.golden_compare import compare

LAYERS = {layer.case.name: layer for layer in read_captured()}
ON_RTL = [name for name in LAYERS if "mid_block" in name or "down_blocks.1" in name][::3]
"""Both widths, and every projection: q, k and v of the image and of the prompt, and the output's."""


def device_step(device: Device, layer: CapturedLayer) -> dict[str, torch.Tensor]:
    case, (x, w, a, b, dy) = layer.case, (layer.inputs[name].numpy() for name in ("x", "w", "a", "b", "dy"))
    weight = quantize_weight(w, case.scheme)
    own = DeviceLayer(device, weight, case.alpha, case.r, case.scheme, case.layer)
    saved = own.forward(x, a, b, case.step, case.call)
    gradients = own.backward(saved, dy)
    own.close()
    plan = saved.plan.operands
    found = {"wq": weight.q, "xq": plan.xq, "aq": plan.aq, "bq": plan.bq, "y_acc": saved.y_acc, "y": saved.y}
    found |= {"dyq": gradients.plan.operands.dyq, "dx_acc": gradients.dx_acc, "dx": gradients.dx, "db": gradients.db, "da": gradients.da}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


@pytest.fixture(scope="module", params=["reference", "verilator"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with open_device(request.param, "tiny") as device:
        yield device


def test_the_set_is_small_and_has_every_layer_at_several_diffusion_steps() -> None:
    assert CAPTURED.stat().st_size < 2_000_000
    assert len(LAYERS) == 56
    assert len({step for layer in LAYERS.values() for step in layer.timesteps}) >= 4
    for layer in LAYERS.values():
        assert len(layer.timesteps) == layer.case.T
        assert all(layer.inputs[name].isfinite().all() and layer.inputs[name].any() for name in layer.inputs)


def test_the_reference_gives_the_recorded_bits() -> None:
    for layer in LAYERS.values():
        assert digest(layer) == layer.expected, layer.case.name


def test_real_tensors_keep_their_direction() -> None:
    """Rung 1 on real data: INT8 results beside float64."""
    for name, layer in LAYERS.items():
        x, w, a, b, dy = (layer.inputs[key].double() for key in ("x", "w", "a", "b", "dy"))
        s = layer.case.alpha / layer.case.r
        tensors, _ = layer_vector(layer.case, layer.inputs)
        exact = {"y": x @ w.T + s * x @ a.T @ b.T, "dx": dy @ w + s * dy @ b @ a}
        exact |= {"db": s * dy.T @ x @ a.T, "da": s * b.T @ dy.T @ x}
        for key, wanted in exact.items():
            cosine = torch.nn.functional.cosine_similarity(tensors[key].double().flatten(), wanted.flatten(), dim=0)
            assert cosine > (0.998 if key in ("y", "dx") else 0.98), (name, key)


def test_a_device_gives_the_recorded_bits(device: Device) -> None:
    names = LAYERS if type(device).__name__ == "ReferenceDevice" else ON_RTL
    assert len(names) >= 5
    for name in names:
        expected, _ = layer_vector(LAYERS[name].case, LAYERS[name].inputs)
        found = device_step(device, LAYERS[name])
        assert compare({key: expected[key] for key in found}, found, layer=name, step=LAYERS[name].case.step) is None


def test_a_changed_value_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    layer = next(iter(LAYERS.values()))
    write_captured(tmp_path / "a.safetensors", [layer])
    (again,) = read_captured(tmp_path / "a.safetensors")
    assert again.expected == layer.expected
    assert again.case == layer.case
    monkeypatch.setattr(captured, "CAPTURED", tmp_path / "a.safetensors")
    assert captured.main(["--check", "--output", str(tmp_path / "files")]) == 0
    tensors, meta = read_vector(tmp_path / "files" / f"{layer.case.name}.safetensors")
    assert meta["case"]["T"] == len(tensors["x"])
    # As a change of the reference would: other random numbers, the same tensors.
    monkeypatch.setattr(captured, "read_captured", lambda path: [dataclasses.replace(layer, case=dataclasses.replace(layer.case, step=1))])
    assert captured.main(["--check"]) == 1
    assert f"{layer.case.name}: the reference's results differ" in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be representable in float16"):
        write_captured(tmp_path / "b.safetensors", [dataclasses.replace(layer, inputs={**layer.inputs, "w": layer.inputs["w"] + 1e-5})])
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "files" / f"{layer.case.name}.safetensors").read_bytes())
    with pytest.raises(ValueError, match="holds no captured tensors of version 1"):
        read_captured(tmp_path / "c.safetensors")


def test_capture_takes_a_training_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    path = tmp_path / "small.safetensors"
    arguments = ["capture", "--output", str(path), "--steps", "1", "--batch", "2", "--rows", "5", "--rank", "3", "--json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 56
    layers = {layer.case.name: layer for layer in read_captured(path)}
    assert list(layers) == list(LAYERS)
    for layer in layers.values():
        assert len(layer.inputs["x"]) == layer.case.T == 5
        assert layer.inputs["b"].shape == (layer.case.O, 3)
        assert len(set(layer.timesteps)) == 2
        assert_same_values(layer.inputs["w"], LAYERS[layer.case.name].inputs["w"])
