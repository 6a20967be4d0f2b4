"""Pipelines as stock diffusers writes them, tiny and with random weights, and pictures to learn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLIP_TOKENS = 24
VAE = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 32,
}
UNET = {
    "block_out_channels": (16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 16,
}


def _characters() -> list[str]:
    return [chr(code) for code in range(ord("!"), ord("~") + 1)]


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    words = [*_characters(), *(f"{character}</w>" for character in _characters()), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=CLIP_TOKENS)


def _clip(projection: int = 0) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    size = len(_clip_tokenizer())
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=projection or 16,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def _t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((character, -2.0) for character in ["▁", *_characters()])]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(vocab), d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=1)
    return tokenizer, T5EncoderModel(config)


def _gemma() -> tuple[Any, Any]:
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *_characters()]
    tokenizer = GemmaTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    config = Gemma2Config(
        vocab_size=len(words) + 8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return tokenizer, Gemma2Model(config)


def _stable_diffusion(prediction: str = "epsilon") -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    return StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        unet=UNet2DConditionModel(**UNET, cross_attention_dim=16, attention_head_dim=2),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        **UNET,
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=4 * 6 + 16,
    )
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=_clip(),
        text_encoder_2=_clip(projection=16),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _sd3(t5_too: bool = True) -> Any:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer, t5 = _t5()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=32,
    )
    encoder = _clip(projection=16)
    return StableDiffusion3Pipeline(
        vae=AutoencoderKL(**VAE, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=encoder,
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(projection=16),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_wide_t5(t5) if t5_too else None,
        tokenizer_3=tokenizer if t5_too else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _wide_t5(narrow: Any) -> Any:
    """As wide as the two CLIP encoders together, which SD3 pads to it."""
    from transformers import T5Config, T5EncoderModel

    config = narrow.config.to_dict()
    return T5EncoderModel(T5Config(**{**config, "d_model": 32}))


def _pixart(alpha: bool = False) -> Any:
    """Alpha with the sizes of a 1024-pixel model, which are told the resolution."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer, t5 = _t5()
    transformer = PixArtTransformer2DModel(
        sample_size=128 if alpha else 16,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        cross_attention_dim=24,
        caption_channels=16,
    )
    kind = PixArtAlphaPipeline if alpha else PixArtSigmaPipeline
    return kind(
        vae=AutoencoderKL(**VAE), text_encoder=t5, tokenizer=tokenizer, transformer=transformer, scheduler=DPMSolverMultistepScheduler()
    )


def _sana() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    tokenizer, gemma = _gemma()
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "ResBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
        patch_size=1,
    )
    scheduler = DPMSolverMultistepScheduler(flow_shift=3.0, prediction_type="flow_prediction", use_flow_sigmas=True)
    return SanaPipeline(tokenizer=tokenizer, text_encoder=gemma, vae=vae, transformer=transformer, scheduler=scheduler)


def _flux() -> Any:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, t5 = _t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=AutoencoderKL(**VAE, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=t5,
        tokenizer_2=tokenizer,
        transformer=transformer,
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "sd": _stable_diffusion,
    "sd-v": lambda: _stable_diffusion("v_prediction"),
    "sdxl": _sdxl,
    "sd3": _sd3,
    "sd3-without-t5": lambda: _sd3(t5_too=False),
    "pixart": _pixart,
    "pixart-alpha": lambda: _pixart(alpha=True),
    "sana": _sana,
    "flux": _flux,
}


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's pipeline, as `save_pretrained` writes it."""
    import torch

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                pipe = MAKERS[family]()
            made[family] = tmp_path_factory.mktemp("pipelines") / family
            pipe.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of 40 x 40 with captions."""
    return write_photos(tmp_path / "photos", [(40, 40)] * 3)


@pytest.fixture
def photos_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of pictures of the sizes (width, height)."""
    return lambda sizes, captions=True: write_photos(tmp_path / "photos-of", sizes, captions)


def write_photos(folder: Path, sizes: list[tuple[int, int]], captions: bool = True) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, (width, height) in enumerate(sizes):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).save(folder / f"{index}.png")
        if captions:
            (folder / f"{index}.txt").write_text(f"toy {index}\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    return one_thread


@pytest.fixture
def settings_for(pipelines: Callable[[str], Path], photos: Path, tmp_path: Path) -> Callable[..., Any]:
    """Settings of a short run of a family's tiny pipeline on the pictures, with others in place of them."""
    from loralith.pipeline.settings import PipelineSettings

    def settings(family: str = "sd", output: str = "out", **others: Any) -> PipelineSettings:
        usual: dict[str, Any] = {"resolution": 32, "steps": 2, "lr": 1e-2, "sample_steps": 2, "cache": tmp_path / "cache"}
        return PipelineSettings(**{"output": tmp_path / output, "model": pipelines(family), "data": photos, **usual, **others})

    return settings


@pytest.fixture
def run() -> Callable[..., Any]:
    """Runs settings, on their device."""
    from loralith.device import open_device
    from loralith.pipeline.finetune import attacher, finetune_pipeline

    def on_device(settings: Any, **others: Any) -> Any:
        if settings.device == "fp32":
            return finetune_pipeline(settings, **others)
        with open_device(settings.device, settings.config) as device:
            return finetune_pipeline(settings, attacher(device), **others)

    return on_device
