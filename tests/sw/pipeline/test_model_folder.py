"""Pipelines that lack a part, or are of something else: named before torch is loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from loralith.cli import main
from loralith.pipeline.load import check_prompts, load_family
from loralith.pipeline.model_folder import ModelFolder, PipelineError

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def change(path: Path, **own: Any) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **own}))


def cut_short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "holds no pipeline: there is no model_index.json"),
    "index is no JSON": (lambda folder: (folder / "model_index.json").write_text("{"), "is not a pipeline's index: it is not JSON"),
    "another family": (
        lambda folder: change(folder / "model_index.json", _class_name="KandinskyPipeline"),
        "is of a KandinskyPipeline, which cannot be trained; StableDiffusionPipeline, .* can",
    ),
    "code of its own": (lambda folder: change(folder / "model_index.json", unet=["own_unet", "UNet"]), "has unet from 'own_unet'"),
    "a part not named": (
        lambda folder: change(folder / "model_index.json", vae=[None, None]),
        "has no vae, which a StableDiffusionPipeline needs",
    ),
    "a folder missing": (lambda folder: shutil.rmtree(folder / "vae"), "lacks the folder vae, a AutoencoderKL of its model_index.json"),
    "no configuration": (
        lambda folder: (folder / "unet" / "config.json").unlink(),
        r"unet/config.json is not the configuration of a UNet2D",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "unet holds no weights: there is no diffusion_pytorch_model.safetensors"),
    "a variant": (
        lambda folder: (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"),
        "diffusion_pytorch_model.fp16.safetensors is not read; save the pipeline without a variant",
    ),
    "weights cut short": (
        cut_short,
        r"diffusion_pytorch_model.safetensors has [\d,]+ bytes and its header speaks of [\d,]+; copy it again",
    ),
    "weights of a pointer": (
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is not a safetensors file, or is cut short",
    ),
    "no vocabulary": (
        lambda folder: [path.unlink() for path in (folder / "tokenizer").glob("*") if path.name != "tokenizer_config.json"],
        "tokenizer holds no vocabulary: none of tokenizer.json",
    ),
    "no scheduler": (lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(), "is not a scheduler's"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_lacks_something_is_named(fault: str, pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pipelines("sd"), folder)
    ModelFolder.read(folder)
    spoil, told = FAULTS[fault]
    spoil(folder)
    with pytest.raises(PipelineError, match=told):
        ModelFolder.read(folder)


def test_weights_of_other_shapes_than_the_configuration_are_named(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    for part, setting, told in (
        ("unet", {"block_out_channels": [16, 32]}, r"unet/diffusion_pytorch_model\.safetensors has \S+ of shape \[16\], and unet.config"),
        (
            "text_encoder",
            {"intermediate_size": 48},
            r"text_encoder/model\.safetensors has \S+fc1.bias of shape \[16\], and text_encoder/conf",
        ),
        ("vae", {"norm_num_groups": 3}, r"vae/config\.json does not make a AutoencoderKL: .num_channels"),
    ):
        folder = tmp_path / part
        shutil.copytree(pipelines("sd"), folder)
        change(folder / part / "config.json", **setting)
        with pytest.raises(PipelineError, match=f"model {folder} cannot be loaded: {told}"):
            load_family(ModelFolder.read(folder))


def _other_text(pipe: Any, **changes: int) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    pipe.text_encoder = CLIPTextModel(CLIPTextConfig(**{**pipe.text_encoder.config.to_dict(), **changes}))


def _other_vae(pipe: Any) -> None:
    from diffusers import AutoencoderKL

    pipe.vae = AutoencoderKL.from_config({**pipe.vae.config, "latent_channels": 8})


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        (
            lambda pipe: _other_text(pipe, hidden_size=32),
            r"text_encoder gives texts of width 32, and unet takes 16 \(cross_attention_dim\)",
        ),
        (lambda pipe: _other_text(pipe, vocab_size=50), r"tokenizer has \d+ words, and text_encoder knows 50"),
        (
            lambda pipe: _other_text(pipe, max_position_embeddings=12),
            "tokenizer gives prompts of up to 24 tokens, and text_encoder reads 12",
        ),
        (_other_vae, "the vae gives latents of 8 channels, and unet takes 4"),
    ],
)
def test_parts_of_two_models_are_named(
    mix: Callable[[Any], None],
    told: str,
    pipelines: Callable[[str], Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(pipelines("sd"))
    mix(pipe)
    pipe.save_pretrained(tmp_path / "mixed")
    words = [
        "finetune",
        "--model",
        tmp_path / "mixed",
        "--data",
        photos,
        "--resolution",
        "32",
        "--output",
        tmp_path / "o",
    ]
    assert main([str(word) for word in words]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "pixart", "sana", "flux"])
def test_every_family_folder_is_read(family: str, pipelines: Callable[[str], Path]) -> None:
    folder = ModelFolder.read(pipelines(family))
    assert folder.entry.denoiser in folder.parts
    assert len(folder.digest()) == 64
    assert folder.digest("vae") != folder.digest()


def test_prompts_beyond_the_tokenizers_are_named(pipelines: Callable[[str], Path]) -> None:
    """Tiny tokenizers have a token for each character; CLIP's read 24 with the two around them."""
    folder = ModelFolder.read(pipelines("sd"))
    family = load_family(folder)
    check_prompts(family, folder, ["x" * 22])
    told = r"a prompt has 25 tokens, and this pipeline reads 24: it would end after '.*'; shorten 'xxx"
    with pytest.raises(PipelineError, match=told):
        check_prompts(family, folder, ["toy", "x" * 23])
    folder = ModelFolder.read(pipelines("flux"))
    family = load_family(folder)
    with pytest.warns(UserWarning, match="the pipeline's CLIP encoder reads only the beginning of 1 prompts: xxx"):
        check_prompts(family, folder, ["x" * 100])
    with pytest.raises(PipelineError, match=r"a prompt has 6\d\d tokens, and this pipeline reads 512"):
        check_prompts(family, folder, ["x" * 600])
