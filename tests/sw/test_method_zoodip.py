"""ZOODiP: the subspace, replays, the correlation that must hold before it starts, and the token's file."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import loralith
from helpers.same_values import assert_same_values
from loralith.diffusion.data import personal_images
from loralith.lora.frozen import Window
from loralith.lora.quantize import QuantizedWeight
from loralith.lora.two_words import WideConv, WideLinear, quantize_words
from loralith.methods import make_method
from loralith.methods.options import SettingsError, ZoodipOptions
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.methods.training_method import Abandoned, Bench
from loralith.methods.zoodip.finite_differences import CorrelationError, directions, draw_evaluation, estimate
from loralith.methods.zoodip.subspace import Subspace, principal
from loralith.methods.zoodip.token import Token, TokenError, load_token, save_token
from loralith.spec.scheme import FQT
from loralith.training.attaching import attacher
from loralith.training.loop import Interrupted, finetune

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(folder: Path, options: ZoodipOptions | None = None, **changed) -> FinetuneSettings:
    quick = {"steps": 6, "batch": 2, "checkpoint_every": 2, "evaluation": EvaluationSettings(rounds=1, samples=1, sample_steps=1)}
    options = options or ZoodipOptions(tau=3, nu=0.2, mu=0.01)
    return FinetuneSettings(folder, method="zoodip", options=options, **(quick | changed))


def test_words_hold_sixteen_bits_and_their_products_are_exact():
    random = np.random.default_rng(0)
    x = random.standard_normal((9, 70)).astype(np.float32)
    words = quantize_words(x)
    q = words.high.astype(np.int64) * 256 + words.low
    assert np.abs(q * words.scale - x).max() <= words.scale * 0.5001
    assert words.scale == np.float32(np.abs(x).max() / np.float32(32639))
    assert np.abs(q).max() == 32639
    weight = QuantizedWeight(random.integers(-127, 128, (5, 70)).astype(np.int8), random.random(5, dtype=np.float32))
    with loralith.open_device("reference", config="tiny") as device:
        got = WideLinear(device, weight, FQT(), 0).forward(x, 0)
        assert_same_values(got.acc, q @ weight.q.T.astype(np.int64))
        image = random.standard_normal((2, 3, 5, 4)).astype(np.float32)
        kernel = QuantizedWeight(random.integers(-127, 128, (6, 27)).astype(np.int8), random.random(6, dtype=np.float32))
        conv = WideConv(device, kernel, Window((3, 3), padding=(1, 1), stride=(2, 1)), FQT(), 0).forward(image, 0)
    words = quantize_words(image)
    pixels = torch.from_numpy(words.high.astype(np.float64) * 256 + words.low)
    want = torch.nn.functional.conv2d(pixels, torch.from_numpy(kernel.q.astype(np.float64)).reshape(6, 3, 3, 3), padding=1, stride=(2, 1))
    scale = words.scale * kernel.scale.astype(np.float64)[:, None, None]
    assert_same_values(conv.y, (want.numpy() * scale).astype(np.float32))


def test_a_subspace_is_orthonormal_and_projects_once_for_all():
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -4, 10)
    tokens = torch.randn(64, 10, generator=generator) * spread
    basis = principal(tokens, 1e-3)
    k = len(basis)
    assert 1 < k < 10
    assert torch.allclose(basis @ basis.T, torch.eye(k, dtype=torch.float64), atol=1e-12)
    projector = basis.T @ basis
    assert torch.allclose(projector @ projector, projector, atol=1e-12)
    values = torch.linalg.eigvalsh(torch.cov(tokens.double().T)).flip(0)
    share = values.cumsum(0) / values.sum()
    assert share[k - 1] >= 1 - 1e-3 > share[k - 2], "the fewest directions that hold the share"
    subspace = Subspace(4, 1e-3, 10)
    gradient = torch.randn(10, generator=generator)
    for token in tokens[:3]:
        subspace.add(token)
    assert_same_values(subspace.project(gradient), gradient, "nothing is left out before the first buffer is full")
    subspace.add(tokens[3])
    once = subspace.project(gradient)
    assert len(subspace.buffer) == 0
    assert not torch.allclose(once, gradient)
    assert torch.allclose(subspace.project(once), once, atol=1e-6)
    assert len(principal(torch.ones(5, 3), 1e-3)) == 3


def test_draws_replay_and_stay_in_the_time_steps_of_the_method():
    images = personal_images(8, 5, 0)
    draws = [draw_evaluation("zoodip", 0, step, batch=8, images=images) for step in range(200)]
    times = torch.cat([draw.timesteps for draw in draws])
    assert (int(times.min()), int(times.max())) == (500, 899)
    again = draw_evaluation("zoodip", 0, 7, batch=8, images=images)
    assert_same_values(again.noise, draws[7].noise)
    u = directions("zoodip direction", 0, 3, 3, 64)
    assert_same_values(directions("zoodip direction", 0, 3, 2, 64), u[:2], "each direction has a seed of its own")
    assert torch.allclose(estimate(torch.tensor([2.0, -4.0]).double(), u[:2]), u[0] - 2 * u[1])


def test_evaluations_of_one_pass_are_those_of_several(tmp_path, small_model):
    told = settings(tmp_path, model=small_model)
    method = make_method(told, told.subject())
    draw = draw_evaluation("zoodip", 0, 0, batch=2, images=method.subject.images)
    tokens = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = method.losses(method.model, tokens, draw)  # type: ignore[attr-defined]
        one_by_one = torch.cat([method.losses(method.model, token[None], draw) for token in tokens])  # type: ignore[attr-defined]
    assert torch.allclose(losses, one_by_one, rtol=1e-5)
    assert len(set(losses.tolist())) == 3


def test_stopped_and_resumed_gives_the_same_token(tmp_path, small_model):
    whole = finetune(settings(tmp_path / "whole", model=small_model))
    told = settings(tmp_path / "out", model=small_model)
    steps = []
    with pytest.raises(Interrupted, match="stopped after step 4"):
        finetune(told, progress=lambda at: steps.append(at.step), stop=lambda: steps[-1:] == [3])
    resumed = finetune(told, resume=True)
    assert resumed.report["losses"] == whole.report["losses"]
    token = (whole.folder / "token.safetensors").read_bytes()
    assert (resumed.folder / "token.safetensors").read_bytes() == token
    assert whole.report["subspace"] < 64, "a basis was made within six steps"
    assert whole.report["prepared"] == resumed.report["prepared"]
    went_on = settings(tmp_path / "more", model=small_model, start_from=whole.folder / "token.safetensors", steps=1)
    method = make_method(went_on, went_on.subject())
    method.begin(Bench(lambda model: _nothing(), lambda note: None, lambda: False))  # type: ignore[arg-type, return-value]
    assert_same_values(method.parameters["token"], load_token(whole.folder / "token.safetensors", 64).value)


def test_a_stop_before_the_first_step_leaves_nothing(tmp_path, small_model):
    with pytest.raises(Abandoned, match="stopped while the correlation was measured; start the run again"):
        finetune(settings(tmp_path / "out", model=small_model), stop=lambda: True)
    assert not list((tmp_path / "out").iterdir())


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("wide", [True, False])
def test_eight_bits_drown_what_sixteen_show(tmp_path, small_model, monkeypatch, wide):
    """The correlation that a run prints is of the device's own passes."""
    from loralith.mapping.kinds.linears_and_convolutions import MappedConv, MappedLinear
    from loralith.methods.zoodip.zoodip_method import Zoodip

    if not wide:
        monkeypatch.setattr(Zoodip, "kinds", {"linear": MappedLinear, "conv": MappedConv})
    told = settings(tmp_path / "out", ZoodipOptions(mu=0.03), model=small_model, modules="all", device="direct", config="base", steps=8)
    notes = []
    with loralith.open_device("direct") as device:
        if wide:
            finetune(told, attacher(device, verify=False), lambda at: notes.append(at.note))
            assert any(note.startswith("mu 0.03: correlation 0.9") for note in notes)
        else:
            with pytest.raises(CorrelationError, match=r"by -?0\.[0-8]\d* at mu 0\.03; it must by at least 0\.95 \(over 16 directions\)"):
                finetune(told, attacher(device, verify=False))
            assert not list(told.output.iterdir()), "nothing is written"


def test_a_token_of_another_width_or_word_is_refused(tmp_path, small_model):
    path = tmp_path / "token.safetensors"
    save_token(Token("9", torch.zeros(32)), path)
    with pytest.raises(TokenError, match=r"a token of shape \(32,\), this model's prompts have the width 64"):
        finetune(settings(tmp_path / "out", model=small_model, start_from=path))
    save_token(Token("9", torch.zeros(64)), path)
    with pytest.raises(SettingsError, match="is a token for '9', this run trains '8'"):
        finetune(settings(tmp_path / "out", model=small_model, start_from=path))
    assert not list((tmp_path / "out").iterdir())
    path.write_bytes(b"nothing")
    with pytest.raises(TokenError, match="damaged or not a token's file"):
        load_token(path, 64)
    with pytest.raises(SettingsError, match=r"token must be a word of every caption, not 'house': one is 'a drawing of digit 8'"):
        finetune(settings(tmp_path / "out", ZoodipOptions(token="house"), model=small_model))
