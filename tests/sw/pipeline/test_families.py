"""Pipelines that stock diffusers wrote, fine-tuned by the command's loop, and their adapters read by stock diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file

from helpers.same_values import assert_same_values
from loralith.diffusion.determinism import generator
from loralith.formats.checkpoint import load_checkpoint
from loralith.formats.run_folder import DIFFUSERS_FILE, KOHYA_FILE, PEFT_FILE, PIPELINE_CHECKPOINT
from loralith.pipeline.load import quiet

FAMILIES = ("sd", "sd-v", "sdxl", "sd3", "sd3-without-t5", "pixart", "pixart-alpha", "sana", "flux")
OBJECTIVES = {
    "sd": "noise (epsilon)",
    "sd-v": "velocity (v)",
    "sdxl": "noise (epsilon)",
    **dict.fromkeys(("pixart", "pixart-alpha"), "noise (epsilon)"),
}


def stock_picture(model: Path, adapter: Path | None, prompt: str, file: str = DIFFUSERS_FILE) -> torch.Tensor:
    """What stock diffusers draws with the noise of the first validation prompt, uint8."""
    without: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None} if "without-t5" in model.name else {"safety_checker": None}
    with quiet():
        pipe = DiffusionPipeline.from_pretrained(model, local_files_only=True, **without)
        if adapter is not None:
            if hasattr(pipe, "load_lora_weights"):
                pipe.load_lora_weights(adapter, weight_name=file)
            else:
                pipe.transformer = PeftModel.from_pretrained(pipe.transformer, adapter)
        pipe.set_progress_bar_config(disable=True)
        more: dict[str, Any] = {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ or "Sana" in type(pipe).__name__ else {}
        random = generator("pipeline validation", 0, 0)
        found = pipe(prompt, num_inference_steps=2, height=32, width=32, generator=random, output_type="np", **more).images[0]
    return torch.from_numpy((found * 255).round().clip(0, 255).astype("uint8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_diffusers_draws_what_the_trained_pipeline_draws(
    family: str, settings_for: Callable[..., Any], run: Callable[..., Any]
) -> None:
    settings = settings_for(family, device="direct", config="tiny", validation_prompts=("toy",), lr=0.1)
    result = run(settings)
    assert result.report["objective"] == OBJECTIVES.get(family, "flow matching")
    identity = result.report["settings"]
    drawn = load_checkpoint(settings.output / PIPELINE_CHECKPOINT, identity).tensors
    before, after = drawn["pictures/0"][0], drawn["pictures/2"][0]
    assert_same_values(before, stock_picture(settings.model, None, "toy"))
    assert_same_values(after, stock_picture(settings.model, settings.output, "toy"))
    assert not torch.equal(before, after), "two steps at this learning rate change the picture"
    page = (settings.output / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 + 2


@pytest.mark.parametrize(("family", "own"), [("sd", {}), ("sdxl", {}), ("sd", {"rslora": True, "rank": 3, "alpha": 2.0})])
def test_kohyas_file_is_the_same_adapter(
    family: str, own: dict[str, Any], settings_for: Callable[..., Any], run: Callable[..., Any]
) -> None:
    settings = settings_for(family, lr=0.1, **own)
    assert KOHYA_FILE in run(settings).report["files"]
    pictures = [stock_picture(settings.model, settings.output, "toy", file) for file in (DIFFUSERS_FILE, KOHYA_FILE)]
    difference = (pictures[0].int() - pictures[1].int()).abs().max()
    assert difference <= (1 if own else 0), "rsLoRA's scale is rounded in alpha"
    assert not torch.equal(pictures[0], stock_picture(settings.model, None, "toy"))
    names = list(load_file(settings.output / KOHYA_FILE))
    assert all(name.startswith(("lora_unet_input_blocks_", "lora_unet_middle_", "lora_unet_output_")) for name in names) == (
        family == "sdxl"
    )


ON_REFERENCE = ("sdxl", "sd3", "pixart", "pixart-alpha", "sana", "flux")
DEVICES = {"sd": ("direct", "reference", "verilator"), **dict.fromkeys(ON_REFERENCE, ("direct", "reference"))}


@pytest.mark.parametrize("family", DEVICES)
def test_devices_train_the_same_bits(family: str, settings_for: Callable[..., Any], run: Callable[..., Any]) -> None:
    found = {}
    for device in DEVICES[family]:
        settings = settings_for(family, device, device=device, config="tiny", verify=device == "direct")
        report = run(settings).report
        found[device] = report["losses"], (settings.output / PEFT_FILE).read_bytes()
        assert report["counters"].get("bit_exact") is (True if settings.verify else None)
    assert len(found["direct"][0]) == 2
    assert all(own == found["direct"] for own in found.values())
