"""Noise, targets and weights against stock schedulers' own, and against the definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from loralith.methods.options import SettingsError
from loralith.pipeline.objective import Diffusion, Flow, logit_normal, objective_of
from loralith.pipeline.settings import PipelineSettings


def settings(**own: Any) -> PipelineSettings:
    return PipelineSettings(output=Path("x"), model=Path("x"), data=Path("x"), **own)


def latents() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, 8, 8, generator=random), torch.randn(4, 4, 8, 8, generator=random)


TIMES = torch.tensor([0.0, 0.25, 0.6, 0.9999])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_diffusion_noises_and_targets_as_the_stock_scheduler_does(prediction: str) -> None:
    stock = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    x, noise = latents()
    noised, steps, target, weights = objective_of(stock, settings()).prepare(x, noise, TIMES, 16)
    assert steps.tolist() == [0, 250, 600, 999]
    torch.testing.assert_close(noised, stock.add_noise(x, noise, steps))
    wanted = {"epsilon": noise, "v_prediction": stock.get_velocity(x, noise, steps), "sample": x}[prediction]
    torch.testing.assert_close(target, wanted)
    assert weights.tolist() == [1.0] * 4


def test_min_snr_weights() -> None:
    """Of the definitions: ratio S, weight min(S, 5) over S, over S + 1, or alone."""
    for prediction, divisor in (("epsilon", lambda s: s), ("v_prediction", lambda s: s + 1), ("sample", lambda s: 1.0)):
        stock = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
        weights = objective_of(stock, settings(min_snr=5.0)).prepare(*latents(), TIMES, 16)[3]
        for step, weight in zip((0, 250, 600, 999), weights.tolist(), strict=True):
            alpha = float(stock.alphas_cumprod[step])
            ratio = alpha / (1 - alpha)
            assert weight == pytest.approx(min(ratio, 5.0) / divisor(ratio), rel=1e-6)
    blind = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    objective = objective_of(blind, settings(min_snr=5.0))
    assert torch.isfinite(objective.prepare(*latents(), TIMES, 16)[3]).all(), "a last step without signal"


def test_the_weights_scale_each_pictures_error() -> None:
    objective = objective_of(DDPMScheduler(), settings())
    prediction, target = latents()
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5])
    errors = [float((prediction[i] - target[i]).square().mean()) * float(weights[i]) for i in range(4)]
    assert objective.losses(prediction, target, weights).tolist() == pytest.approx(errors)


def test_flow_noises_as_the_stock_scheduler_does() -> None:
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    x, noise = latents()
    times = torch.tensor([0.1, 0.5, 0.7, 1.0])
    noised, steps, target, weights = objective_of(stock, settings(timestep_sampling="uniform")).prepare(x, noise, times, 16)
    # The stock table's entry k stands for (1000 - k) / 1000 before the shift.
    known = torch.as_tensor(stock.timesteps)[torch.tensor([900, 500, 300, 0])]
    torch.testing.assert_close(steps, known)
    torch.testing.assert_close(noised, stock.scale_noise(x, known, noise))
    torch.testing.assert_close(target, noise - x)
    assert weights.tolist() == [1.0] * 4


def test_a_dynamic_shift_follows_the_size() -> None:
    stock = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    objective = objective_of(stock, settings())
    assert isinstance(objective, Flow)
    for tokens, mu in ((256, 0.5), (4096, 1.15)):
        stock.set_timesteps(4, mu=mu)
        shifted = torch.as_tensor(stock.sigmas)[:4].double()
        plain = torch.linspace(1.0, 1 / 1000, 4, dtype=torch.float64)
        factor = objective.factor(tokens)
        torch.testing.assert_close(factor * plain / (1 + (factor - 1) * plain), shifted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("stock", "kind", "sampling"),
    [
        (EulerDiscreteScheduler(), Diffusion, "uniform"),
        (DPMSolverMultistepScheduler(), Diffusion, "uniform"),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0), Flow, "logit-normal"),
        (FlowMatchEulerDiscreteScheduler(), Flow, "logit-normal"),
    ],
)
def test_the_scheduler_says_which_objective(stock: Any, kind: type, sampling: str) -> None:
    objective = objective_of(stock, settings())
    assert type(objective) is kind
    assert objective.sampling == sampling


def test_an_unknown_prediction_is_named() -> None:
    with pytest.raises(SettingsError, match="prediction_type 'x0' is not known; epsilon, v_prediction and sample are"):
        objective_of(DDPMScheduler(prediction_type="x0"), settings())


def test_logit_normal_quantiles() -> None:
    places = (torch.arange(10000) + 0.5) / 10000
    times = logit_normal(places.double())
    logits = torch.log(times / (1 - times))
    assert float(logits.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(logits.std()) == pytest.approx(1.0, abs=1e-2)
    assert float(logit_normal(torch.tensor([0.8413447]))) == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-5)
