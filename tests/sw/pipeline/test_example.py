"""The example of a loop of one's own runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

import torch
from diffusers import StableDiffusionPipeline

from loralith.pipeline.load import quiet

LIMIT = 100


def test_the_example_is_short_and_trains(pipelines: Callable[[str], Path], photos: Path, tmp_path: Path, repo: Path) -> None:
    example = repo / "examples" / "accelerate_lora.py"
    assert len(example.read_text().splitlines()) < LIMIT
    words = [pipelines("sd"), photos, "toy", tmp_path / "out", "--resolution", 32, "--steps", 3, "--config", "tiny", "--lr", 0.01]
    found = subprocess.run(
        [sys.executable, "-W", "error", str(example), *map(str, words)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    losses = re.findall(r"step (\d): loss (\d+\.\d+)", found.stdout)
    assert [step for step, _ in losses] == ["1", "2", "3"]
    with quiet():
        pipe = StableDiffusionPipeline.from_pretrained(pipelines("sd"), local_files_only=True, safety_checker=None)
        pipe.load_lora_weights(tmp_path / "out")
    trained = [tensor for name, tensor in pipe.unet.named_parameters() if "lora_B" in name]
    assert len(trained) == 4 * 2 * 4, "four projections of self and cross attention in each of four blocks"
    assert all(torch.count_nonzero(tensor) for tensor in trained), "B begins at zero"
