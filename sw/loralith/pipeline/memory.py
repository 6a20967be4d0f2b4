"""Sizes that cannot fit, named before anything is computed: the least that they need is held against what is free now."""

from __future__ import annotations

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loralith.methods.options import SettingsError
from loralith.methods.settings import FP32
from loralith.pipeline.families.base import Family
from loralith.pipeline.model_folder import ModelFolder
from loralith.pipeline.settings import ADAPTERS, PipelineSettings
from loralith.spec.numerics import K_LIMIT
from loralith.training.sizes import COPIES, check_memory

__all__ = ["check_activations", "check_adapter", "check_weights"]

FLOAT = 4
SMALL_PIXELS = 1 << 20
"""Pixels of a batch whose activations need no look."""
SMALL_RANK = 256


def check_weights(folder: ModelFolder) -> None:
    """Raises SettingsError where the pipeline's weights alone do not fit in FP32."""
    needed = FLOAT * folder.elements()
    check_memory(f"model {folder.path}", needed, "a machine with more, or a smaller pipeline, would do")


def check_adapter(settings: PipelineSettings, family: Family, names: list[str]) -> None:
    """Raises SettingsError for ranks whose adapter does not fit, or whose sums a device cannot hold."""
    layers = dict(family.denoiser.named_modules())
    parameters, most = 0, 0
    for name in names:
        layer = layers[name]
        if not isinstance(layer, nn.Linear):
            continue
        I, O = layer.in_features, layer.out_features
        rank = settings.rank_pattern.get(get_pattern_key(list(settings.rank_pattern), name), settings.rank)
        parameters, most = parameters + rank * (I + O), max(most, rank)
        if settings.device != FP32 and max(I, O) + rank > K_LIMIT:
            raise SettingsError(f"the rank of {name} must be at most {K_LIMIT - max(I, O)} on a device, whose sums are exact, not {rank}")
    if most > SMALL_RANK:
        check_memory(f"rank {most}", FLOAT * COPIES * parameters, "a smaller --rank needs less")


def check_activations(settings: PipelineSettings, family: Family, resolution: int) -> None:
    """Raises SettingsError for pictures whose encoding, or whose training pass, does not fit."""
    pixels = resolution * resolution
    if settings.batch * pixels <= SMALL_PIXELS:
        return
    config = family.pipe.vae.config
    channels = int((getattr(config, "block_out_channels", None) or config.encoder_block_out_channels)[0])
    check_memory(f"resolution {resolution}", 2 * FLOAT * channels * pixels, "a smaller --resolution needs less")
    if settings.method in ADAPTERS and not settings.checkpointing:
        what = f"a batch of {settings.batch} pictures at {resolution} pixels"
        advice = "a smaller --batch or --resolution, or --gradient-checkpointing, needs less"
        check_memory(what, settings.batch * saved_bytes(family, resolution), advice)


def saved_bytes(family: Family, resolution: int) -> int:
    """What a training pass of one picture saves in the denoiser, found by a pass over shapes alone.

    Fake tensors, not torch's meta device: there attention saves its scores, which no kernel of the CPU does.
    """
    denoiser = family.denoiser
    with torch.no_grad():
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in family.encode_prompts([""]).items()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    edge = resolution // family.vae_scale
    with FakeTensorMode(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model = type(denoiser).from_config(denoiser.config).requires_grad_(False)  # type: ignore[attr-defined]
        text = {name: torch.ones(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        latents = torch.zeros(1, family.latent_channels, edge, edge, requires_grad=True)
        family.predict(model, latents, torch.zeros(1), text)
    return sum(tensor.numel() * tensor.element_size() for tensor in saved.values())
