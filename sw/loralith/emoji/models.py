"""The stock diffusers and transformers modules that the emoji pipeline consists of, untrained."""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from loralith.emoji.settings import Sizes

TRAIN_TIMESTEPS = 1000
START, END = "<|startoftext|>", "<|endoftext|>"


def new_vae(sizes: Sizes) -> AutoencoderKL:
    """A VAE of `sizes.latents` channels whose latents need no scaling once `vae_stage.standardize` has been applied."""
    levels = len(sizes.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
        block_out_channels=sizes.vae_channels,  # type: ignore[arg-type]
        layers_per_block=1,
        latent_channels=sizes.latents,
        norm_num_groups=sizes.groups,
        sample_size=sizes.image,
        scaling_factor=1.0,
    )


def new_unet(sizes: Sizes) -> UNet2DConditionModel:
    """A U-Net with cross attention on each level."""
    levels = len(sizes.unet_channels)
    heads = tuple(channels // sizes.head for channels in sizes.unet_channels)  # which diffusers takes by the name of their size
    return UNet2DConditionModel(
        sample_size=sizes.latent_size,
        in_channels=sizes.latents,
        out_channels=sizes.latents,
        down_block_types=("CrossAttnDownBlock2D",) * levels,  # type: ignore[arg-type]
        up_block_types=("CrossAttnUpBlock2D",) * levels,  # type: ignore[arg-type]
        block_out_channels=sizes.unet_channels,  # type: ignore[arg-type]
        layers_per_block=sizes.unet_layers,
        cross_attention_dim=sizes.text_width,
        attention_head_dim=heads,  # type: ignore[arg-type]
        norm_num_groups=sizes.unet_groups,
        use_linear_projection=True,
    )


def new_text_encoder(sizes: Sizes, vocabulary: Mapping[str, int]) -> CLIPTextModel:
    """A CLIP text encoder for a vocabulary of `vocabulary.new_tokenizer`; the end token pads."""
    start, end = vocabulary[START], vocabulary[END]
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        projection_dim=sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        max_position_embeddings=sizes.length,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModel(config)


def new_scheduler() -> DDIMScheduler:
    """DDIM with v-prediction and no signal in the last step, so that a plain background's brightness is learned as well."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # stock pipelines warn of another; trailing time steps do not look at it
    )


RESIDUAL_ENDS = ("conv2", "proj_out", "to_out.0")
"""Ends of the names of the layers that residual branches end in."""


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Convolutions orthogonal, from torch's global generator, and residual branches zero: the model begins as a chain of plain filters,
    which learns colours and shapes several times as soon as from torch's own first values."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                module.bias.zero_()
        if name.endswith(RESIDUAL_ENDS) and isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.zero_()


def parameters_of(*modules: nn.Module) -> int:
    """Their parameters together."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
