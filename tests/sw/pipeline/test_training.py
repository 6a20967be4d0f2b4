"""Options of the training loop, resumed runs, and the cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import torch
from safetensors.torch import load_file

from helpers.same_values import assert_same_values
from loralith.formats.checkpoint import CheckpointError, load_checkpoint
from loralith.formats.run_folder import PEFT_FILE, PIPELINE_CHECKPOINT, FolderError
from loralith.methods.options import SettingsError
from loralith.methods.training_method import Abandoned, Interrupted
from loralith.pipeline.cache import Cache
from loralith.pipeline.draws import Pictures, Sampler
from loralith.pipeline.encode import Encoder, batch_text
from loralith.pipeline.load import load_family
from loralith.pipeline.model_folder import ModelFolder
from loralith.pipeline.objective import objective_of
from loralith.pipeline.optimizer import learning_rate
from loralith.pipeline.photos import read_photos
from loralith.pipeline.pipeline_method import Lora
from loralith.pipeline.settings import PipelineSettings

Run = Callable[..., Any]
Settings = Callable[..., PipelineSettings]


def adapter(settings: PipelineSettings) -> dict[str, torch.Tensor]:
    return load_file(settings.output / PEFT_FILE)


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert_same_values(one[name], other[name], name)


EVERYTHING: dict[str, Any] = {
    "steps": 4,
    "batch": 2,
    "accumulation": 2,
    "class_prompt": "a toy",
    "class_images": 2,
    "min_snr": 5.0,
    "noise_offset": 0.1,
    "caption_dropout": 0.3,
    "ema": 0.9,
    "lr_schedule": "cosine",
    "warmup": 1,
    "checkpointing": True,
    "validation_prompts": ("toy",),
    "validate_every": 3,
    "checkpoint_every": 2,
    "device": "direct",
    "config": "tiny",
    "adapter_scales": "delayed",
}


def test_a_resumed_run_ends_with_the_same_bits(settings_for: Settings, run: Run) -> None:
    whole = settings_for(output="whole", **EVERYTHING)
    run(whole)
    cut = settings_for(output="cut", **EVERYTHING)
    with pytest.raises(Abandoned, match="stopped while pictures and prompts were encoded"):
        run(cut, stop=lambda: True)
    for step, resume in ((1, False), (3, True)):
        trained: list[int] = []
        with pytest.raises(Interrupted, match=f"stopped after step {step}"):
            run(cut, stop=lambda: max(trained, default=-1) >= step - 1, progress=lambda at: trained.append(at.step), resume=resume)  # noqa: B023
        with pytest.raises(FolderError, match="holds an unfinished run"):
            run(cut)
    report = run(cut, resume=True).report
    assert_same_tensors(adapter(whole), adapter(cut))
    there = json.loads((whole.output / "report.json").read_text())
    assert report["losses"] == there["losses"]
    assert len(report["losses"]) == 4
    states = [load_checkpoint(own.output / PIPELINE_CHECKPOINT, report["settings"]).tensors for own in (whole, cut)]
    assert [name for name in sorted({*states[0], *states[1]}) if not torch.equal(states[0][name], states[1][name])] == []
    assert [name for name in states[0] if name.startswith("pictures/")] == ["pictures/0", "pictures/3", "pictures/4"]
    assert run(cut, resume=True).report == report, "a finished run is returned as it is"


def test_a_longer_run_goes_on_from_a_finished_one(settings_for: Settings, run: Run) -> None:
    short, long = settings_for(output="short"), settings_for(output="long", steps=4)
    run(short)
    run(replace(short, steps=4), resume=True)
    run(long)
    assert_same_tensors(adapter(short), adapter(long))
    with pytest.raises(CheckpointError, match="4 steps are done"):
        run(replace(short, steps=3), resume=True)
    falling = settings_for(output="falling", lr_schedule="linear")
    run(falling)
    with pytest.raises(CheckpointError, match="steps is 2 there and 4 here, and the linear learning rate follows it"):
        run(replace(falling, steps=4), resume=True)
    with pytest.raises(CheckpointError, match="rank is 4 there and 2 here"):
        run(replace(long, rank=2), resume=True)


def test_other_pictures_or_another_model_are_no_resumed_run(settings_for: Settings, run: Run, pipelines: Callable[[str], Path]) -> None:
    settings = settings_for()
    run(settings)
    with pytest.raises(CheckpointError, match="model is"):
        run(replace(settings, model=pipelines("sd-v")), resume=True)
    (settings.data / "0.txt").write_text("another toy")
    with pytest.raises(CheckpointError, match="data is"):
        run(settings, resume=True)


def test_the_cache_computes_each_once_and_notices_every_source(settings_for: Settings, run: Run, tmp_path: Path) -> None:
    assert run(settings_for(output="1")).report["cached"] == {"computed": 3 + 3 + 1, "found": 0}, (
        "three pictures, captions and the empty one"
    )
    one = settings_for(output="2")
    assert run(one).report["cached"] == {"computed": 0, "found": 7}
    assert run(settings_for(output="3", resolution=16)).report["cached"] == {"computed": 3, "found": 4}
    (one.data / "1.txt").write_text("new words")
    shutil.copy(one.data / "0.png", one.data / "2.png")
    assert run(settings_for(output="4")).report["cached"] == {"computed": 1, "found": 6}, "2.png's latents are 0.png's"
    damaged = sorted((tmp_path / "cache").glob("latents-*"))[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    found = [run(settings_for(output=f"5-{edge}", resolution=edge)).report["cached"]["computed"] for edge in (16, 32)]
    assert sum(found) == 1, "what does not match its hash is computed again"
    with_vae = settings_for("sd-v", output="6")
    assert run(with_vae).report["cached"]["found"] == 7, "the same VAE and text encoder in another pipeline"


def test_gradient_checkpointing_changes_no_bit(settings_for: Settings, run: Run) -> None:
    for device in ({"device": "fp32"}, {"device": "direct", "config": "tiny"}):
        own = {
            name: settings_for(output=f"{name}-{device['device']}", checkpointing=name == "again", **device) for name in ("kept", "again")
        }
        for settings in own.values():
            run(settings)
        assert_same_tensors(adapter(own["kept"]), adapter(own["again"]))


def test_accumulated_batches_give_the_gradient_of_one_large_batch(settings_for: Settings) -> None:
    settings = settings_for(accumulation=3)
    folder = ModelFolder.read(settings.model)
    family = load_family(folder)
    encoder = Encoder(folder, family, Cache(settings.cache_folder()), lambda: False)
    material = encoder.material(read_photos(settings.data, None), 32, buckets=False)
    sampler = Sampler(settings, family, objective_of(family.pipe.scheduler, settings), material, None)
    method = Lora(settings, family)
    parts = [pictures for (pictures,) in sampler.batches(0)]
    assert [len(part.latents) for part in parts] == [1, 1, 1]
    captions = [caption for part in parts for caption in part.captions]
    joined = [torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "noise", "times")]
    whole = Pictures(*joined, captions, batch_text(material.texts, captions))
    loss = sampler.loss(method.model, whole)
    wanted = torch.autograd.grad(loss, list(method.parameters.values()))
    assert method.step(0, sampler) == pytest.approx(loss.item())
    for own, (name, tensor) in zip(wanted, method.parameters.items(), strict=True):
        torch.testing.assert_close(tensor.grad, own, msg=name)


def test_the_average_is_what_is_saved(settings_for: Settings, run: Run) -> None:
    plain, averaged = settings_for(output="plain", steps=3), settings_for(output="averaged", steps=3, ema=0.5)
    found = [run(settings).report for settings in (plain, averaged)]
    assert found[0]["losses"] == found[1]["losses"], "training does not see the average"
    states = load_checkpoint(averaged.output / PIPELINE_CHECKPOINT, found[1]["settings"]).tensors
    own, trained = adapter(averaged), adapter(plain)
    assert any(not torch.equal(own[name], trained[name]) for name in own)
    for name, tensor in own.items():
        inside = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert_same_values(tensor, states[f"average/{inside}"])
        assert_same_values(trained[name], states[f"parameter/{inside}"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_snr", 0.01),
        ("noise_offset", 0.5),
        ("caption_dropout", 0.9),
        ("timestep_sampling", "logit-normal"),
        ("prompt", "a toy"),
        ("seed", 1),
    ],
)
@pytest.mark.filterwarnings("ignore:.*captions, which are left aside")
def test_every_option_of_the_objective_changes_the_loss(option: str, value: Any, settings_for: Settings, run: Run) -> None:
    plain = run(settings_for(output="plain")).report["losses"]
    assert run(settings_for(output="other", **{option: value})).report["losses"] != plain


def test_the_class_is_drawn_or_given(settings_for: Settings, run: Run, photos_of: Callable[..., Path]) -> None:
    drawn = settings_for(output="drawn", class_prompt="a toy", class_images=3)
    report = run(drawn).report
    assert report["cached"]["computed"] == 3 + 3 + 3 + 1 + 1
    given = settings_for(output="given", class_prompt="a toy", class_data=photos_of([(32, 32)] * 2, captions=False))
    losses = run(given).report["losses"]
    plain = run(settings_for(output="plain")).report["losses"]
    heavy = run(settings_for(output="heavy", class_prompt="a toy", class_images=3, prior_weight=2.0)).report
    assert heavy["cached"]["computed"] == 0, "the class's pictures are in the cache"
    first = [found[0] for found in (plain, report["losses"], heavy["losses"])]
    assert first[2] - first[1] == pytest.approx(first[1] - first[0]), "the class's loss counts with its weight"
    assert losses[0] > plain[0]
    assert losses[0] != report["losses"][0]


def test_learning_rates() -> None:
    usual: dict[str, Any] = {"output": Path("x"), "model": Path("x"), "data": Path("x"), "lr": 1.0}

    def rates(**own: Any) -> list[float]:
        settings = PipelineSettings(**usual, steps=5, **own)
        return [round(learning_rate(settings, step), 6) for step in range(5)]

    assert rates() == [1.0] * 5
    assert rates(warmup=3) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(lr_schedule="linear") == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert rates(lr_schedule="cosine", warmup=1) == [0.5, 1.0, 0.853553, 0.5, 0.146447]


@pytest.mark.parametrize(
    ("family", "own", "told"),
    [
        ("sd", {"targets": ("to_z",)}, r"targets 'to_z' is the end of no module's name; linear layers here end in .*to_q"),
        ("sd", {"rank_pattern": {"to_z": 2}}, "the pattern 'to_z' fits no layer with an adapter; one is"),
        ("sd", {"optimizer": "adamw8bit"}, "optimizer adamw8bit needs bitsandbytes, which is not installed"),
        ("sd3", {"min_snr": 5.0}, "min_snr is of schedulers that predict noise or velocity"),
        ("flux", {"noise_offset": 0.1}, "noise_offset is of schedulers that predict noise or velocity"),
    ],
)
def test_what_a_family_does_not_have_is_refused_before_anything_is_written(
    family: str, own: dict[str, Any], told: str, settings_for: Settings, run: Run
) -> None:
    settings = settings_for(family, **own)
    with pytest.raises(SettingsError, match=told):
        run(settings)
    assert not settings.output.exists()
    assert not (settings.cache_folder()).exists()


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"modules": "step"}, "modules must be lora or all for a pipeline, not 'step'"),
        ({"method": "dora"}, "method must be one of lora, hollowed-net, tuneqdm, zoodip, not 'dora'"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, not 1.0"),
        ({"warmup": 2}, "warmup must be below the 2 steps, not 2"),
        ({"validate_every": 1}, "validate_every goes with a validation prompt"),
        ({"class_data": Path("x")}, "class_data goes with class_prompt"),
        ({"prompt": " "}, "prompt must have words, not ' '"),
        ({"min_snr": 0.0}, "min_snr must be a finite number above 0, not 0.0"),
        ({"weight_bits": 4}, "weight_bits must be 8 without a device, not 4"),
        ({"timestep_sampling": "mode"}, "timestep_sampling must be one of auto, uniform, logit-normal, not 'mode'"),
        ({"threads": 0}, "threads must be an integer of at least 1, not 0"),
        ({"method": "zoodip", "ema": 0.9}, "ema is no setting of zoodip"),
    ],
)
def test_settings_out_of_range_are_named(own: dict[str, Any], told: str) -> None:
    usual: dict[str, Any] = {"output": Path("x"), "model": Path("x"), "data": Path("x"), "steps": 2}
    with pytest.raises(SettingsError, match=told.replace("(", r"\(")):
        PipelineSettings(**{**usual, **own})
