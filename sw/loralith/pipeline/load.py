"""A pipeline as it is loaded, and the lengths of its prompts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from loralith.pipeline.families import FAMILIES
from loralith.pipeline.families.base import Family
from loralith.pipeline.model_folder import UNUSED, ModelFolder, PipelineError
from loralith.pipeline.part_shapes import mismatch
from loralith.pipeline.parts_fit import check_parts

__all__ = ["check_prompts", "load_family", "quiet"]

BROKEN = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)
"""What loaders raise for parts that are not what their configurations say."""


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, diffusers and transformers say errors alone, and draw no progress bars.

    Schedulers of diffusers give numpy tensors of torch, whose `__array__` has no argument `copy`: a warning that nobody here can mend.
    """
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        diffusers_logging.enable_progress_bar()
        if bars:
            transformers_logging.enable_progress_bar()


def load_family(folder: ModelFolder) -> Family:
    """The pipeline in FP32 on the CPU, every part frozen and in evaluation mode. Raises PipelineError where diffusers cannot load it,
    and where its parts are not of one model."""
    import diffusers

    with quiet():  # the class is imported here
        kind = getattr(diffusers, folder.kind)
    known = inspect.signature(kind.__init__).parameters
    without: dict[str, Any] = {name: None for name in UNUSED if name in known}
    without |= {name: None for name in folder.entry.optional if name not in folder.parts}
    if "requires_safety_checker" in known:
        without["requires_safety_checker"] = False
    try:
        with quiet():
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                folder.path, local_files_only=True, use_safetensors=True, dtype=torch.float32, **without
            )
    except BROKEN as error:
        with quiet():
            why = mismatch(folder) or (str(error).strip().splitlines()[0] if str(error) else repr(error))
        raise PipelineError(f"model {folder.path} cannot be loaded: {why}") from error
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    entry = FAMILIES[folder.kind]
    family = entry.load()(pipe, entry.denoiser)
    check_parts(family, folder)
    return family


def check_prompts(family: Family, folder: ModelFolder, prompts: Sequence[str]) -> None:
    """Raises PipelineError for a prompt that is longer than every text encoder reads; warns where only some cut it.

    A CLIP tokenizer has a length of its own; T5 and Gemma read as far as the pipeline's call lets them.
    """
    cut: dict[str, str] = {}
    for prompt in prompts:
        reads = []
        for name, _ in folder.encoders:
            tokenizer = getattr(family.pipe, name)
            most = int(tokenizer.model_max_length) if "CLIP" in type(tokenizer).__name__ else int(family.text_length or 0)
            count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
            reads.append((count <= most, count, most, tokenizer))
        if all(fits for fits, *_ in reads):
            continue
        _, count, most, tokenizer = max(reads, key=lambda read: read[2])
        if not any(fits for fits, *_ in reads):
            kept = tokenizer.decode(tokenizer(prompt, truncation=True, max_length=most).input_ids, skip_special_tokens=True)
            raise PipelineError(
                f"a prompt has {count} tokens, and this pipeline reads {most}: it would end after {kept[-40:]!r}; shorten {prompt[:60]!r}"
            )
        cut[prompt] = prompt[:40]
    if cut:
        shown = "; ".join(cut.values())
        warnings.warn(f"the pipeline's CLIP encoder reads only the beginning of {len(cut)} prompts: {shown}", stacklevel=2)
