"""Hollowed Net on a pipeline's U-Net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("diffusers")

import torch
from safetensors.torch import load_file

from helpers.same_values import assert_same_values
from loralith.formats.checkpoint import CheckpointError, load_checkpoint
from loralith.formats.run_folder import DIFFUSERS_FILE, PEFT_FILE, PIPELINE_CHECKPOINT
from loralith.methods.options import SettingsError
from loralith.methods.training_method import Interrupted
from loralith.pipeline.load import load_family
from loralith.pipeline.model_folder import ModelFolder, PipelineError
from loralith.pipeline.samples import draw

OWN: dict[str, Any] = {"method": "hollowed-net", "steps": 3, "samples_stored": 2, "lr": 0.1}


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_first_step_is_that_of_the_full_model(kind: str, settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    """B is zero at first, so that the boundary tensor is what the inner blocks would give; later the kept layers alone are trained."""
    own = run(settings_for(kind, output="own", **OWN))
    full = run(settings_for(kind, output="full", steps=1, lr=0.1))
    assert own.report["losses"][0] == full.report["losses"][0]
    assert own.report["method"] == "Hollowed Net without mid_block, LoRA rank 4"
    names = list(load_file(own.folder / PEFT_FILE))
    assert names
    assert not any("mid_block" in name for name in names)
    assert any("mid_block" in name for name in load_file(full.folder / PEFT_FILE))


def test_what_is_kept_must_have_a_layer_to_train(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    settings = settings_for(hollow="down_blocks.1,mid_block,up_blocks.0", **OWN)  # what is left of the tiny model has no attention
    with pytest.raises(SettingsError, match="the model keeps no layer that is to be trained; leave out less"):
        run(settings)
    assert not settings.output.exists()


def test_stock_diffusers_draws_what_the_full_model_draws(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    settings = settings_for(validation_prompts=("toy",), **OWN)
    drawn = load_checkpoint(settings.output / PIPELINE_CHECKPOINT, run(settings).report["settings"]).tensors
    family = load_family(ModelFolder.read(settings.model))
    family.pipe.load_lora_weights(settings.output, weight_name=DIFFUSERS_FILE)
    assert_same_values(drawn["pictures/3"][0], draw(family, settings, "toy", 32, "validation", 0))
    assert not torch.equal(drawn["pictures/3"][0], drawn["pictures/0"][0])


def test_a_stopped_run_ends_with_the_same_bits(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    usual = {**OWN, "validation_prompts": ("toy",)}
    whole, cut = settings_for(output="whole", **usual), settings_for(output="cut", **usual)
    first = run(whole)
    seen: list[str] = []
    with pytest.raises(Interrupted, match="stopped after step 0"):
        run(cut, stop=lambda: "before" in seen, progress=lambda at: seen.append(at.phase))
    seen.clear()
    with pytest.raises(Interrupted, match="stopped after step"):
        run(cut, stop=lambda: "train" in seen, progress=lambda at: seen.append(at.phase), resume=True)
    second = run(cut, resume=True)
    assert first.report["losses"] == second.report["losses"]
    one, other = (load_file(result.folder / PEFT_FILE) for result in (first, second))
    for name in one:
        assert_same_values(one[name], other[name], name)
    with pytest.raises(CheckpointError, match="stores 2 batches and one of 1 1"):
        run(replace(cut, steps=1), resume=True)


def test_layers_behind_and_int8_boundaries(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    result = run(settings_for(output="behind", train="behind", boundary="int8", device="direct", config="tiny", verify=True, **OWN))
    assert all(".up_blocks." in name for name in load_file(result.folder / PEFT_FILE))
    assert result.report["counters"]["bit_exact"] is True


def test_a_transformer_has_no_inner_blocks(settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    with pytest.raises(PipelineError, match="method hollowed-net leaves out a U-Net's inner blocks, and a FluxPipeline has a transformer"):
        run(settings_for("flux", **OWN))
    with pytest.raises(SettingsError, match="class_prompt is no setting of hollowed-net"):
        settings_for(class_prompt="a toy", **OWN)
