"""What a whole training step of a model costs on a device, from its compiled list and not run: commands and cycles by kind of operator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loralith.compiler.memories import Memory, Sdr16
from loralith.compiler.step.compile import compile_step
from loralith.compiler.step.estimate import estimate, modelled
from loralith.compiler.step.waits import waits
from loralith.compiler.tokens.sync import synchronize
from loralith.formats.unet_config import Source
from loralith.mapping.planning.meta_models import meta_unet
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config
from loralith.spec.graph import Graph
from loralith.spec.step import StepScheme
from loralith.step.by_block import PieceRunner, rows_of, step_by_block
from loralith.step.capture import capture_step
from loralith.step.lowering import lower
from loralith.step.operators import plain_attention
from loralith.step.optimizer import AdamW, with_adamw

__all__ = ["step_graph", "step_work"]

MEMORY_BYTES = 1 << 30
"""Device memory that a step may take."""


def step_graph(source: Source, *, targets: tuple[str, ...], rank: int, batch: int) -> Graph:
    """The graph of a U-Net's step with AdamW, from shapes alone. Raises LoralithError for an operator that has no program."""
    with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
        target = torch.zeros_like(inputs["sample"])

        def loss(noise: Tensor, **more: Tensor) -> Tensor:
            return functional.mse_loss(predict(**more), noise)

        plain_attention(unet)
        graph = lower(capture_step(unet, loss, {"noise": target, **inputs}), StepScheme()).graph
    return with_adamw(graph, AdamW(1e-3))


def step_work(
    source: Source,
    config: Config,
    *,
    targets: tuple[str, ...],
    rank: int,
    batch: int,
    by_block: bool = False,
    state: Path | None = None,
    sample: int = 0,
    run: PieceRunner | None = None,
    memory: Memory | Sdr16 | None = None,
) -> dict[str, Any]:
    """JSON values: `StepEstimate.figures`, ``modelled_cycles`` of the whole list with its tokens, ``waits``, what each unit does in them
    (`UnitCycles`), the model's settings. ``by_block``: instead, what distinct blocks give together, with ``state``, ``sample``
    and ``run`` as `loralith.step.by_block.step_by_block` has them. ``memory``: that of the cycle model, of a whole list.

    Raises ValueError for a configuration whose bus ``memory`` does not have, LoralithError for a configuration without vector lanes,
    a model that cannot be built, a step that does not fit.
    """
    graph = step_graph(source, targets=targets, rank=rank, batch=batch)
    figures: dict[str, Any] = {"model": source.name, "rank": rank, "batch": batch, "targets": list(targets)}
    if by_block:
        total, blocks = step_by_block(graph, config, figures, state, sample, run)
        return figures | total | {"blocks": rows_of(blocks, config)}
    began = time.monotonic()
    compiled = compile_step(graph, config, 0, MEMORY_BYTES, 0)
    figures |= estimate(compiled).figures()
    figures["list_bytes"] = COMMAND_BYTES * len(compiled.commands.commands)
    figures["memory_bytes"] = compiled.peak
    commands = synchronize(compiled.commands, config, compiled.static)
    figures["compile_seconds"] = time.monotonic() - began
    timeline = modelled(commands, compiled, memory)
    figures["modelled_cycles"] = timeline.cycles
    figures["utilization_modelled"] = figures["macs"] / (timeline.cycles * config.processing_elements)
    figures["waits"] = {unit: vars(idle) for unit, idle in waits(timeline, compiled.works).items()}
    return figures
