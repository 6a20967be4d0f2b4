"""Hollowed Net: what may be left out, the boundary store, and that nothing but the kept layers' adapters is trained."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from safetensors import safe_open

import loralith
from helpers.same_values import assert_same_values
from loralith.diffusion.unet import load_model
from loralith.formats.run_folder import BOUNDARY
from loralith.methods import make_method
from loralith.methods.hollow.boundary_store import BoundaryStore, StoreError
from loralith.methods.hollow.hollowed_unet import hollowed, tapped
from loralith.methods.hollow.parts import choose, rings
from loralith.methods.options import HollowOptions, SettingsError
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.methods.training_method import Bench
from loralith.study.methods import OnKept
from loralith.training.loop import Interrupted, finetune

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(
    folder: Path, hollow: str = "down_blocks.2,mid_block,up_blocks.0", samples: int = 8, boundary: str = "fp32", **changed
) -> FinetuneSettings:
    quick = {"steps": 6, "batch": 2, "checkpoint_every": 2, "evaluation": EvaluationSettings(rounds=1, samples=1, sample_steps=1)}
    options = HollowOptions(hollow, samples, boundary)
    return FinetuneSettings(folder, method="hollowed-net", options=options, **(quick | changed))


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 1, 16, 16, generator=generator), torch.tensor([3, 700]), torch.randn(2, 7, 64, generator=generator)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_without_an_adapter_the_hollowed_net_is_the_full_one(depth):
    full = load_model()[0]
    part = rings(full)[depth]
    rest = copy.deepcopy(full)
    boundary = hollowed(rest, part)
    with tapped(full, part) as found:
        y = full(*inputs()).sample
    boundary.value = found[0]
    with torch.no_grad():
        assert_same_values(rest(*inputs()).sample, y)
    resident = {name for name, _ in rest.named_parameters()}
    assert resident == {name for name, _ in full.named_parameters() if not part.holds(name)}
    own, all_ = (sum(p.numel() for p in model.parameters()) for model in (rest, full))
    assert own / all_ == pytest.approx(1 - part.share)


def test_without_an_adapter_the_same_holds_on_the_device():
    full = load_model()[0]
    part = rings(full)[1]
    rest = copy.deepcopy(full)
    boundary = hollowed(rest, part)
    with loralith.open_device("reference", config="base") as device:
        attachment = loralith.attach(full, device, modules="all")
        with tapped(full, part) as found:
            y = full(*inputs()).sample
        attachment.detach()
        attachment = loralith.attach(rest, device, modules="all")
        boundary.value = found[0]
        with torch.no_grad():
            assert_same_values(rest(*inputs()).sample, y)
        attachment.detach()


def test_parts_are_whole_rings():
    unet = load_model()[0]
    assert choose(unet, "up_blocks.0, mid_block,down_blocks.2").depth == 1
    assert [choose(unet, text).depth for text in ("0.3", "0.7", "0.99")] == [0, 1, 2]
    with pytest.raises(
        SettingsError, match=r"'up_blocks\.0' cannot be left out .* mid_block \(18\.2%\); down_blocks\.2,mid_block,up_blocks\.0"
    ):
        choose(unet, "up_blocks.0")
    with pytest.raises(SettingsError, match=r"a share of the parameters from 0\.182 to below 1, not 0\.01; parts are mid_block"):
        choose(unet, "0.01")


def test_only_kept_adapters_train_and_a_stop_anywhere_changes_no_bit(tmp_path, small_model):
    whole = finetune(settings(tmp_path / "whole", model=small_model))
    with safe_open(whole.folder / "adapter_model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert names
    assert not [name for name in names if any(part in name for part in ("down_blocks.2", "mid_block", "up_blocks.0"))]
    assert whole.report["hollow"]["batches_stored"] == 4
    told = settings(tmp_path / "out", model=small_model)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        finetune(told, stop=lambda: next(asked))  # in stage 1, whose first shard is not full
    assert not list((told.output / BOUNDARY).iterdir())
    with pytest.raises(Interrupted, match="stopped after step 5"):
        finetune(told, stop=iter([False] * 8 + [True]).__next__, resume=True)
    made = {path.name: path.stat().st_mtime_ns for path in (told.output / BOUNDARY).iterdir()}
    result = finetune(told, resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in (told.output / BOUNDARY).iterdir()} == made
    assert result.report["losses"] == whole.report["losses"]
    for name in ("adapter_model.safetensors", "samples.png"):
        assert (result.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_frozen_weights_stay_and_lora_sees_the_same_batches(tmp_path, small_model):
    told = settings(tmp_path / "out", steps=3, model=small_model)
    method = make_method(told, told.subject())
    before = {name: tensor.clone() for name, tensor in method.model.state_dict().items() if "lora_" not in name}
    method.prepare(Bench(lambda model: None, lambda note: None, lambda: False))  # type: ignore[arg-type, return-value]
    loss = method.step(0)
    method.step(1)
    after = method.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    lora = FinetuneSettings(tmp_path / "lora", batch=2, model=small_model)
    assert make_method(lora, lora.subject()).loss(0).item() == loss, "B is zero in the first step"
    assert [method.batch_of(step) for step in range(3)] == [0, 1, 2]  # type: ignore[attr-defined]


def test_adapters_behind_the_part_train_as_lora_does(tmp_path, small_model):
    """Nothing before the boundary tensor moves, so that it is the full U-Net's own at every step: the same bits as LoRA on those layers."""
    told = settings(tmp_path / "out", steps=3, model=small_model)
    told = replace(told, options=replace(told.options, train="behind"))  # type: ignore[type-var]
    method = make_method(told, told.subject())
    method.prepare(Bench(lambda model: None, lambda note: None, lambda: False))  # type: ignore[arg-type, return-value]
    full = OnKept(told, told.subject())
    assert list(method.parameters) == list(full.parameters)
    assert all(".up_blocks.1." in name for name in method.parameters)
    assert [method.step(step) for step in range(3)] == [full.step(step) for step in range(3)]
    assert all(torch.equal(value, full.parameters[name]) for name, value in method.parameters.items())


def test_rounds_after_the_first_take_each_batch_once(tmp_path, small_model):
    told = settings(tmp_path / "out", samples=6, steps=9, model=small_model)
    method = make_method(told, told.subject())
    order = [method.batch_of(step) for step in range(9)]  # type: ignore[attr-defined]
    assert [sorted(order[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3
    assert order[3:6] != order[6:9]


def test_a_store_of_other_settings_or_a_damaged_one_is_refused(tmp_path):
    values = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    store = BoundaryStore(tmp_path / "s", {"model": "a", "seed": 0}, 1, int8=False)
    store.add(values)
    assert_same_values(BoundaryStore(tmp_path / "s", {"model": "a", "seed": 0}, 1, int8=False).read(0), values)
    with pytest.raises(StoreError, match="of other settings: model is 'a' there and 'b' here"):
        BoundaryStore(tmp_path / "s", {"model": "b", "seed": 0}, 1, int8=False)
    path = next((tmp_path / "s").iterdir())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match="damaged"):
        BoundaryStore(tmp_path / "s", {"model": "a", "seed": 0}, 1, int8=False)


def test_an_int8_store_is_within_half_a_step_of_each_sample(tmp_path):
    values = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0])[:, None, None, None]
    store = BoundaryStore(tmp_path / "s", {}, 1, int8=True)
    store.add(values)
    error = (store.read(0) - values).abs().amax(dim=(1, 2, 3))
    assert (error <= values.abs().amax(dim=(1, 2, 3)) / 127 * 0.501).all()
    assert (error > 0).all()


def test_a_store_of_another_seed_is_named_by_finetune(tmp_path, small_model):
    told = settings(tmp_path / "out", steps=2, model=small_model)
    with pytest.raises(Interrupted):
        finetune(told, stop=lambda: True)
    BoundaryStore(told.output / BOUNDARY, {"seed": 9}, 1, int8=False).add(torch.zeros(1, 1, 1, 1))
    kept = next((told.output / BOUNDARY).iterdir()).read_bytes()
    with pytest.raises(StoreError, match="seed is 9 there and 0 here"):
        finetune(told, resume=True)
    assert next((told.output / BOUNDARY).iterdir()).read_bytes() == kept
