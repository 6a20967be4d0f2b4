"""ZOODiP on a pipeline: an embedding that stock `load_textual_inversion` reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("diffusers")

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from helpers.same_values import assert_same_values
from loralith.diffusion.determinism import generator
from loralith.formats.checkpoint import load_checkpoint
from loralith.formats.run_folder import PIPELINE_CHECKPOINT, TEXTUAL_INVERSION
from loralith.methods.options import SettingsError
from loralith.methods.training_method import Interrupted
from loralith.pipeline.load import quiet
from loralith.pipeline.model_folder import PipelineError

pytestmark = pytest.mark.filterwarnings("ignore:.*captions, which are left aside")

OWN: dict[str, Any] = {"method": "zoodip", "prompt": "a <me>", "token": "<me>", "batch": 2, "lr": 0.5}


def test_stock_diffusers_draws_with_the_learned_word(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    settings = settings_for(validation_prompts=("a <me>",), device="direct", config="tiny", modules="all", **OWN)
    report = run(settings).report
    drawn = load_checkpoint(settings.output / PIPELINE_CHECKPOINT, report["settings"]).tensors
    found = {}
    with quiet():
        for name in ("before", "after"):
            pipe = DiffusionPipeline.from_pretrained(settings.model, local_files_only=True, safety_checker=None)
            pipe.set_progress_bar_config(disable=True)
            embedding = load_file(settings.output / TEXTUAL_INVERSION)
            if name == "before":
                embedding = {"<me>": pipe.text_encoder.get_input_embeddings().weight.detach().mean(dim=0)}
            pipe.load_textual_inversion(embedding if name == "before" else settings.output, weight_name=TEXTUAL_INVERSION)
            random = generator("pipeline validation", 0, 0)
            picture = pipe("a <me>", num_inference_steps=2, height=32, width=32, generator=random, output_type="np").images[0]
            found[name] = torch.from_numpy((picture * 255).round().astype("uint8"))
    assert_same_values(drawn["pictures/0"][0], found["before"])
    assert_same_values(drawn["pictures/2"][0], found["after"])
    assert not torch.equal(found["before"], found["after"])


def test_devices_and_resumed_runs_give_the_same_bits(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    usual = {**OWN, "config": "tiny", "modules": "all"}
    whole = settings_for(output="whole", device="direct", **usual)
    run(whole)
    cut = settings_for(output="cut", device="reference", **usual)
    steps: list[str] = []
    with pytest.raises(Interrupted):
        run(cut, stop=lambda: "before" in steps, progress=lambda at: steps.append("before"))
    run(cut, resume=True)
    first, second = (load_file(settings.output / TEXTUAL_INVERSION) for settings in (whole, cut))
    assert_same_values(first["<me>"], second["<me>"])


def test_the_estimate_follows_the_true_gradient(settings_for: Callable[..., Any]) -> None:
    """With as many directions as many more than the embedding has values, the mean of slopes times directions is the gradient."""
    from loralith.methods.zoodip.finite_differences import directions, estimate
    from loralith.pipeline.cache import Cache
    from loralith.pipeline.draws import Sampler
    from loralith.pipeline.encode import Encoder
    from loralith.pipeline.load import load_family
    from loralith.pipeline.model_folder import ModelFolder
    from loralith.pipeline.objective import objective_of
    from loralith.pipeline.photos import read_photos
    from loralith.pipeline.zoodip import Zoodip

    settings = settings_for(**OWN)
    folder = ModelFolder.read(settings.model)
    family = load_family(folder)
    photos = read_photos(settings.data, settings.prompt)
    method = Zoodip(settings, family, [photo.caption for photo in photos])
    encoder = Encoder(folder, family, Cache(settings.cache_folder()), lambda: False)
    material = encoder.material(photos, 32, buckets=False, texts=False)
    sampler = Sampler(settings, family, objective_of(family.pipe.scheduler, settings), material, None)
    ((pictures,),) = sampler.batches(0)

    # The true gradient: the embedding as a leaf, through the text encoder and the denoiser.
    token = method.token.detach().double().float()
    table = method.table.weight.detach().clone()
    table[method.id] = token
    method.table.weight = torch.nn.Parameter(table, requires_grad=True)
    loss = sampler.loss(method.model, replace(pictures, text=family.encode_prompts(pictures.captions)))
    (gradient,) = torch.autograd.grad(loss, method.table.weight)
    method.table.weight.requires_grad_(False)

    u = directions("test", 0, 0, 400, token.numel())
    mu = 1e-2
    losses = method.token_losses(torch.cat([token[None], token + mu * u]), pictures, sampler)
    own = estimate((losses[1:] - losses[0]).double() / mu, u)
    similarity = torch.nn.functional.cosine_similarity(own, gradient[method.id], dim=0)
    assert float(losses[0]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(similarity) > 0.9


@pytest.mark.parametrize(
    ("own", "error", "told"),
    [
        ({"prompt": "a toy"}, SettingsError, "token '<me>' must be in every caption, and one is 'a toy'"),
        ({"token": "a", "prompt": "a toy"}, SettingsError, "token 'a' is a word of the pipeline's vocabulary; give a new one"),
        ({"initializer": "toys"}, SettingsError, "initializer 'toys' must be one token of the pipeline's vocabulary, and it is 4"),
        ({"family": "sdxl"}, PipelineError, "method zoodip trains an embedding of one text encoder, which a StableDiffusionXLPipeline"),
        ({"family": "flux"}, PipelineError, "which a FluxPipeline is not drawn by; StableDiffusionPipeline is"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_written(
    own: dict[str, Any], error: type[Exception], told: str, settings_for: Callable[..., Any], run: Callable[..., Any]
) -> None:
    settings = settings_for(**{**OWN, **own})
    with pytest.raises(error, match=told):
        run(settings)
    assert not settings.output.exists()
