"""Models on torch's meta device, whose tensors have shapes alone: real sizes, and neither weights nor work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loralith.errors import LoralithError
from loralith.formats.unet_config import UNET, Source
from loralith.mapping.planning.transformer_inputs import INPUTS

__all__ = ["meta_model", "meta_unet"]

FAILURES = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What diffusers and PEFT raise for settings that do not fit together."""


@contextmanager
def meta_model(source: Source, *, targets: tuple[str, ...], rank: int, batch: int) -> Iterator[tuple[nn.Module, Callable[[], Tensor]]]:
    """A U-Net or transformer of diffusers with LoRA, frozen, and a function that runs it on a batch and returns the prediction.

    ``batch``: images, or videos. Raises LoralithError for a configuration that diffusers cannot build or run, from within it too.
    """
    if source.kind == UNET:
        with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
            yield unet, lambda: predict(**inputs)
        return
    import diffusers
    from peft import LoraConfig, inject_adapter_in_model

    try:
        with torch.device("meta"):
            model = getattr(diffusers, source.kind)(**source.config)
            model.requires_grad_(False)
            inject_adapter_in_model(LoraConfig(r=rank, target_modules=list(targets)), model)
            positional, named = INPUTS[source.kind](model.config, batch)

            def run() -> Tensor:
                result = model(*positional, **named).sample
                return torch.stack(result) if isinstance(result, list) else result

            yield model, run
    except FAILURES as error:
        raise LoralithError(f"the {source.kind} of {source.name} cannot be built: {error}") from error


@contextmanager
def meta_unet(
    source: Source, *, targets: tuple[str, ...], rank: int, batch: int
) -> Iterator[tuple[nn.Module, dict[str, Tensor], Callable[..., Tensor]]]:
    """A U-Net with LoRA on torch's meta device, a batch by the names of its arguments, and a function from those to the prediction.

    Raises LoralithError for a configuration that diffusers cannot build or run, from within it too.
    """
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model

    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel(**source.config)
            unet.requires_grad_(False)
            inject_adapter_in_model(LoraConfig(r=rank, target_modules=list(targets)), unet)
            config: Any = unet.config
            size = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
            sample = torch.zeros(batch, config.in_channels, size, size)
            text = torch.zeros(batch, source.prompt, _width(config.cross_attention_dim))
            time = torch.zeros(batch, dtype=torch.int64)
            inputs = {"sample": sample, "timestep": time, "encoder_hidden_states": text}
            if config.addition_embed_type == "text_time":
                pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
                inputs |= {"text_embeds": torch.zeros(batch, pooled), "time_ids": torch.zeros(batch, 6)}

            def predict(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **added: Tensor) -> Tensor:
                return unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added or None).sample

            yield unet, inputs, predict
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise LoralithError(f"the U-Net of {source.name} cannot be built: {error}") from error


def _width(value: Any) -> int:
    if not isinstance(value, int):
        raise LoralithError(f"cross_attention_dim must be one width for all blocks, not {value!r}")
    return value
