"""TuneQDM: codes, the gradients of scales beside float64's autograd, PEQA, experts by time step, and the scales' file."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import loralith
from helpers.same_values import assert_same_values
from loralith.device.products import Resident, column_sums, tall_blocks
from loralith.lora.codes import quantize_codes
from loralith.lora.frozen import Window
from loralith.lora.tuned import TunedConv, TunedLinear, high_columns
from loralith.methods import make_method
from loralith.methods.options import SettingsError, TuneqdmOptions
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.methods.training_method import Bench
from loralith.methods.tuneqdm.scales_file import ScalesError, load_scales
from loralith.spec.scheme import FQT
from loralith.training.attaching import attacher
from loralith.training.loop import Interrupted, finetune
from loralith.verif.torch_tuned import Layer, autograd

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(folder: Path, options: TuneqdmOptions | None = None, **changed) -> FinetuneSettings:
    quick = {"steps": 4, "batch": 2, "checkpoint_every": 2, "evaluation": EvaluationSettings(rounds=1, samples=1, sample_steps=1)}
    return FinetuneSettings(folder, method="tuneqdm", options=options or TuneqdmOptions(experts=2), **(quick | changed))


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_within_half_a_step_and_have_a_zero(bits):
    random = np.random.default_rng(0)
    weight = (random.standard_normal((6, 50)) + np.arange(6)[:, None] - 3).astype(np.float32)
    weight[4], weight[5] = 0.0, 2.0
    codes = quantize_codes(weight, bits)
    assert codes.code.max() == 2**bits - 1
    error = np.abs(codes.centred * codes.scale[:, None] - weight)
    assert (error <= codes.scale[:, None] * 1.0001)[:4].all(), "the zero point rounds too"
    assert not error[4].any()
    assert np.abs(error[5]).max() < 1e-6
    code, zero = codes.halved()
    assert_same_values(code.astype(np.int16) - zero[:, None], codes.centred)
    assert codes.centred.min() < 0 < codes.centred.max()


def case(kind, seed=0):
    """(X, W [O, I], s_in, shape of dY)"""
    random = np.random.default_rng(seed)
    if kind == "linear":
        x, weight, channels, shape = random.standard_normal((90, 70)), random.standard_normal((23, 70)), 70, (90, 23)
    else:
        x, weight, channels, shape = random.standard_normal((3, 5, 9, 6)), random.standard_normal((7, 45)), 5, (3, 7, 5, 6)
    scales = random.uniform(0.5, 1.5, channels)
    return (
        (x + 0.5).astype(np.float32),
        weight.astype(np.float32),
        scales.astype(np.float32),
        random.standard_normal(shape).astype(np.float32),
    )


WINDOW = Window((3, 3), stride=(2, 1), padding=(1, 1))


def make(device, kind, codes, scheme):
    return TunedLinear(device, codes, scheme, 0) if kind == "linear" else TunedConv(device, codes, WINDOW, scheme, 0)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_are_autograds_to_rounding_and_bits_those_of_the_definition(kind, bits):
    x, weight, s_in, dy = case(kind)
    codes = quantize_codes(weight, bits)
    s_out = (codes.scale * 1.1).astype(np.float32)
    window = None if kind == "linear" else {"kernel": WINDOW.kernel, "stride": WINDOW.stride, "padding": WINDOW.padding}
    reference = Layer(codes.code, codes.zero, window, FQT(seed=3), 0)
    results = []
    for name in ("reference", "direct"):
        with loralith.open_device(name, config="tiny") as device:
            layer = make(device, kind, codes, FQT(seed=3))
            y, kept = layer.forward(x, s_out, s_in, 5)
            assert kept is not None
            found = layer.backward(dy, s_out, s_in, kept)
            results.append((y, found.dx, found.ds_out, found.ds_in))
            layer.release(kept)
    want = reference.step(x, dy, s_out, s_in, step=5, call=0)
    for one, two, three in zip(*results, want, strict=True):
        assert_same_values(one, two)
        assert_same_values(one, three)
    exact = autograd(x, dy, codes.code, codes.zero, s_out, s_in, window)
    # What independent rounding of each tensor leaves: a part of 1 / 127 of its largest value, over what is summed.
    for own, true, least in zip(results[0], exact, (0.9999, 0.9999, 0.998, 0.998), strict=True):
        cosine = (own * true).sum() / np.sqrt((own.astype(np.float64) ** 2).sum() * (true**2).sum())
        assert cosine > least
        assert 0.97 < (own * true).sum() / (true**2).sum() < 1.03


def test_a_sum_of_columns_and_a_row_sums_words_at_their_limits():
    random = np.random.default_rng(0)
    left, right = random.integers(-127, 128, (2, 37, 21)).astype(np.int8)
    with loralith.open_device("reference", config="base") as device:
        right_at = Resident.place(device, tall_blocks(right, device.config))
        got = column_sums(device, tall_blocks(left, device.config), right_at)
        assert_same_values(got[:21], (left.astype(np.int64) * right).sum(axis=0))
        assert high_columns(600) * 127 * 256 >= 127 * 600
        weight = np.stack([np.linspace(0.0, 1.0, 600), np.linspace(-1.0, 0.0, 600)]).astype(np.float32)
        codes = quantize_codes(weight, 8)
        layer = TunedLinear(device, codes, FQT(), 0)
        ones = np.ones(600, np.float32)
        for sign in (1.0, -1.0):
            y, _ = layer.forward(np.full((2, 600), sign, np.float32), codes.scale, ones, 0, save=False)
            want = sign * 127 * codes.centred.astype(np.float64).sum(axis=1) * (codes.scale.astype(np.float64) / 127)
            assert np.allclose(y, want, rtol=1e-6), "all of X at its largest makes the row sums' words the longest"


def test_one_expert_with_fixed_input_scales_is_peqa(tmp_path, small_model):
    told = settings(tmp_path, TuneqdmOptions(experts=1, input_scales="fixed"), model=small_model)
    method = make_method(told, told.subject())
    assert method.label == "PEQA, 4 bit, 1 expert"
    assert all(name.endswith(".s_out.0") for name in method.parameters)
    codes = {name: tuned.code.clone() for name, tuned in method.layers.items()}  # type: ignore[attr-defined]
    name, tuned = next((n, t) for n, t in method.layers.items() if "to_q" in n)  # type: ignore[attr-defined]
    method.loss(0).backward()
    # PEQA's own definition: W = s (Wq - z), by a plain layer of that weight in a second model.
    other = make_method(told, told.subject())
    module = other.model.get_submodule(f"unet.{name}")
    scale = tuned.s_out[0].detach().clone().requires_grad_(True)
    centred = tuned.code.float() - tuned.zero.float()[:, None]
    module.forward = lambda x: torch.nn.functional.linear(x, scale[:, None] * centred, module.bias)  # type: ignore[method-assign]
    other.loss(0).backward()
    assert torch.allclose(scale.grad, tuned.s_out[0].grad, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    method.step(0)
    assert all(torch.equal(tuned.code, codes[name]) for name, tuned in method.layers.items())  # type: ignore[attr-defined]


def test_images_of_several_experts_are_grouped(tmp_path, small_model):
    told = settings(tmp_path, TuneqdmOptions(experts=4), model=small_model)
    model = make_method(told, told.subject()).model
    generator = torch.Generator().manual_seed(0)
    images, text = torch.randn(5, 1, 16, 16, generator=generator), torch.randn(5, 7, 64, generator=generator)
    times = torch.tensor([999, 0, 250, 749, 1])
    with torch.no_grad():
        equal = model(images, times, text).sample
        for expert, scale in enumerate(model.get_submodule("unet.conv_in.tuned").s_out):  # type: ignore[arg-type]
            scale *= 1 + expert
        together = model(images, times, text).sample
        alone = torch.cat([model(images[i : i + 1], times[i : i + 1], text[i : i + 1]).sample for i in range(5)])
    assert model.router.of(times).tolist() == [3, 0, 1, 2, 0]  # type: ignore[union-attr]
    assert torch.allclose(together, alone, atol=1e-5)
    changed = (together - equal).abs().amax(dim=(1, 2, 3)) > 1e-2
    assert changed.tolist() == [True, False, True, True, False], "the first expert's scales are what they were"


def test_stopped_and_resumed_gives_the_same_scales(tmp_path, small_model):
    told = settings(tmp_path / "whole", model=small_model, device="direct", config="base", modules="all")
    with loralith.open_device("direct") as device:
        whole = finetune(told, attacher(device, verify=False))
        cut = settings(tmp_path / "out", model=small_model, device="direct", config="base", modules="all")
        with pytest.raises(Interrupted, match="stopped after step 2"):
            finetune(cut, attacher(device, verify=False), stop=iter([False, True]).__next__)
        resumed = finetune(cut, attacher(device, verify=False), resume=True)
    assert resumed.report["losses"] == whole.report["losses"]
    content = (whole.folder / "scales.safetensors").read_bytes()
    assert (resumed.folder / "scales.safetensors").read_bytes() == content
    assert device._heap.used < 1 << 19, "the list's buffer alone"
    start = whole.folder / "scales.safetensors"
    again = settings(tmp_path / "more", model=small_model, start_from=start)
    method = make_method(again, again.subject())
    method.begin(Bench(lambda model: None, lambda note: None, lambda: False))  # type: ignore[arg-type, return-value]
    method.save(tmp_path)
    assert (tmp_path / "scales.safetensors").read_bytes() == content
    for options, message in (
        (TuneqdmOptions(experts=3), "has experts 2, this run has 3"),
        (TuneqdmOptions(experts=2, bits=8), "has bits 4, this run has 8"),
    ):
        with pytest.raises(ScalesError, match=message):
            finetune(settings(tmp_path / "other", options, model=small_model, start_from=start))
    with pytest.raises(ScalesError, match=r"has model '\w+', this run has '\w+'"):
        finetune(settings(tmp_path / "other", start_from=start))
    assert not list((tmp_path / "other").iterdir())
    start.write_bytes(content[:-9])
    with pytest.raises(ScalesError, match="damaged"):
        load_scales(method.layers, "", start)  # type: ignore[attr-defined]


def test_bad_options_are_named(tmp_path):
    with pytest.raises(SettingsError, match="bits must be 4 or 8, not 5"):
        TuneqdmOptions(bits=5)
    with pytest.raises(SettingsError, match="experts must be an integer from 1 to 1000, not 0"):
        TuneqdmOptions(experts=0)
    with pytest.raises(SettingsError, match="modules must be 'all' for tuneqdm on a device, not 'lora'"):
        settings(tmp_path, device="reference", config="base")
    with pytest.raises(SettingsError, match="options of tuneqdm must be TuneqdmOptions"):
        FinetuneSettings(tmp_path, method="tuneqdm", options=loralith.methods.options.LoraOptions())
    with pytest.raises(SettingsError, match="verify has no reference for the products of tuneqdm"):
        settings(tmp_path, verify=True)
