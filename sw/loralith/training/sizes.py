"""Whether a run's sizes fit the model, the device's sums and this machine's memory: asked before anything is allocated."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from loralith.diffusion.data import IMAGE_SIZE
from loralith.diffusion.prompt import PROMPT_TOKENS, TOKEN_DIM
from loralith.diffusion.unet import CONFIG_FILE, UNET_CONFIG
from loralith.formats.unet_config import build_unet, read_unet_config
from loralith.methods.options import SettingsError, ZoodipOptions
from loralith.methods.settings import FP32, FinetuneSettings
from loralith.spec.numerics import K_LIMIT

__all__ = ["available_bytes", "check_memory", "check_sizes"]

SMALL = {"rank": 256, "batch": 64, "samples": 1024, "perturbations": 64}
"""Sizes that need no look: together they stay below a gigabyte."""

COPIES = 6
"""Of an adapter in FP32 at least: values, gradients, two moments of AdamW, the model that is judged, a checkpoint."""


@dataclass(frozen=True)
class Footprint:
    """Of one image in a U-Net, in bytes: what a training pass saves, and the largest tensor. Linears: (inputs, outputs, tokens) by name."""

    saved: int
    largest: int
    linears: dict[str, tuple[int, int, int]]


def check_sizes(settings: FinetuneSettings) -> None:
    """Raises SettingsError for sizes that cannot fit: the least that they need is held against what is free now."""
    perturbations = settings.options.perturbations if isinstance(settings.options, ZoodipOptions) else 1
    rank = max([settings.rank, *settings.rank_pattern.values()])
    asked = {"rank": rank, "batch": settings.batch, "samples": settings.evaluation.samples, "perturbations": perturbations}
    if all(value <= SMALL[name] for name, value in asked.items()):
        return
    one = footprint(settings.model)
    targets = tuple(f".{target}" for target in settings.targets)
    linears = {name: shape for name, shape in one.linears.items() if name.endswith(targets)}
    if settings.options is not None and settings.options.adapter:
        if settings.device != FP32:
            _check_sums(settings, linears)
        parameters = sum(_rank(settings, name) * (I + O) for name, (I, O, _) in linears.items())
        check_memory(f"rank {rank}", 4 * COPIES * parameters, "a smaller --rank needs less")
    check_memory(f"batch {settings.batch}", settings.batch * one.saved, "a smaller --batch needs less")
    samples = settings.evaluation.samples
    # With guidance each is drawn with and without its prompt; a layer's input and output are there at a time.
    check_memory(f"samples {samples}", samples * 2 * 2 * one.largest, "fewer --samples need less")
    check_memory(
        f"perturbations {perturbations} of {settings.batch} images",
        settings.batch * perturbations * 2 * one.largest,
        "fewer --perturbations need less",
    )


def _rank(settings: FinetuneSettings, name: str) -> int:
    return settings.rank_pattern.get(get_pattern_key(list(settings.rank_pattern), name), settings.rank)


def _check_sums(settings: FinetuneSettings, linears: dict[str, tuple[int, int, int]]) -> None:
    """An accumulator of the device holds sums of at most K_LIMIT products."""
    for name, (I, O, tokens) in linears.items():
        if settings.batch * tokens > K_LIMIT:
            raise SettingsError(f"batch must be at most {K_LIMIT // tokens} on a device, whose sums over {name}'s tokens are exact")
        rank = _rank(settings, name)
        if max(I, O) + rank > K_LIMIT:
            raise SettingsError(f"the rank of {name} must be at most {K_LIMIT - max(I, O)} on a device, whose sums are exact, not {rank}")


def check_memory(what: str, needed: int, advice: str) -> None:
    free = available_bytes()
    if free is not None and needed > free:
        raise SettingsError(f"{what} needs at least {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free; {advice}")


def available_bytes() -> int | None:
    """Memory that can be had now: the machine's, or what is left of this process's limit; None where the system does not say."""
    found: list[int] = []
    with suppress(OSError, ValueError, StopIteration, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        found.append(max(limit - used, 0))
    return min(found, default=None)


@lru_cache(maxsize=4)
def footprint(model: Path | None) -> Footprint:
    """Of the U-Net in a folder, or the package's, found by a pass over shapes alone (torch's meta device)."""
    file = None if model is None else model / CONFIG_FILE
    config = UNET_CONFIG if file is None else read_unet_config(file)
    saved: dict[int, Tensor] = {}
    linears: dict[str, tuple[int, int, int]] = {}
    largest = 0

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())
        if isinstance(module, nn.Linear):
            linears[name] = (module.in_features, module.out_features, inputs[0].numel() // module.in_features)

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet = build_unet(config, file or "the package's model").requires_grad_(False)
        for name, module in unet.named_modules():
            module.register_forward_hook(lambda module, inputs, output, name=name: record(name, module, inputs, output))
        image = torch.zeros(1, config["in_channels"], IMAGE_SIZE, IMAGE_SIZE, requires_grad=True)
        unet(image, torch.zeros(1, dtype=torch.int64), torch.zeros(1, PROMPT_TOKENS, TOKEN_DIM))
    return Footprint(sum(tensor.numel() * tensor.element_size() for tensor in saved.values()), largest, linears)
