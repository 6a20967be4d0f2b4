"""Weights in training with their optimizer and moving average, the loop around them, and the checkpoints that it resumes from.

Every draw is a function of (purpose, seed, step), so a run that is stopped and resumed ends with the same bits on the same machine.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralith.diffusion.determinism import repeatable
from loralith.formats.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CHECKPOINT_SECONDS = 300.0
CLIP = 1.0
"""Largest norm of all gradients together."""


@dataclass(frozen=True)
class StageProgress:
    """What the loop says after a step: losses are means over the steps since the last time."""

    step: int
    loss: float
    steps_per_second: float
    saved: bool


class Weights:
    """Named weights with AdamW and their moving average (decay `average`)."""

    def __init__(self, modules: Mapping[str, nn.Module], *, lr: float, weight_decay: float, average: float) -> None:
        named = {f"{part}.{name}": weight for part, module in modules.items() for name, weight in module.named_parameters()}
        self.named = {name: weight for name, weight in named.items() if weight.requires_grad}
        self.averaged = {name: weight.detach().clone() for name, weight in self.named.items()}
        self.decay = average
        matrices = [weight for weight in self.named.values() if weight.ndim > 1]
        vectors = [weight for weight in self.named.values() if weight.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)

    def update(self, loss: Tensor, step: int, lr: float) -> None:
        """One step of AdamW; step counts from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(self.named.values()), CLIP)
        self.optimizer.step()
        decay = min(self.decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.values()), [weight.detach() for weight in self.named.values()], 1.0 - decay)

    def state(self, step: int, extra: dict[str, Any]) -> Checkpoint:
        tensors = {f"weight/{name}": weight for name, weight in self.named.items()}
        tensors |= {f"average/{name}": weight for name, weight in self.averaged.items()}
        for name, weight in self.named.items():
            tensors |= {f"optimizer/{key}/{name}": value for key, value in self.optimizer.state[weight].items()}
        return Checkpoint(step, tensors, extra)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        for name, weight in self.named.items():
            weight.copy_(checkpoint.tensors[f"weight/{name}"])
            self.averaged[name].copy_(checkpoint.tensors[f"average/{name}"])
            self.optimizer.state[weight] = {
                key: checkpoint.tensors[f"optimizer/{key}/{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
            }

    @torch.no_grad()
    def exchange(self) -> None:
        """Swaps the weights and their moving average."""
        for name, weight in self.named.items():
            kept = weight.clone()
            weight.copy_(self.averaged[name])
            self.averaged[name].copy_(kept)


def train(
    weights: Weights,
    loss: Callable[[int], Tensor],
    lr: Callable[[int], float],
    *,
    steps: int,
    path: Path,
    settings: Mapping[str, Any],
    measure: Callable[[], dict[str, float]] | None = None,
    progress: Callable[[StageProgress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    every: float = CHECKPOINT_SECONDS,
) -> tuple[int, list[dict[str, float]]]:
    """Trains up to step ``steps``, from the checkpoint at ``path`` where there is one, and leaves its own there.

    A checkpoint is written every ``every`` seconds, at the end, and when ``stop`` says so, which ends the loop. With it goes what
    ``measure`` gives for the moving average. Returns the step reached and these measures, each with its step and training loss.
    Raises CheckpointError for a checkpoint of other settings.
    """
    first, history = 0, []
    with repeatable():
        if path.exists():
            checkpoint = load_checkpoint(path, settings)
            weights.restore(checkpoint)
            first, history = checkpoint.step, list(checkpoint.extra["history"])
        start = saved = time.monotonic()
        total, count = 0.0, 0
        for step in range(first, steps):
            value = loss(step)
            weights.update(value, step, lr(step))
            total, count = total + value.item(), count + 1
            now = time.monotonic()
            ends = step + 1 == steps or stop()
            saves = ends or now - saved >= every
            if saves:
                measured = {"step": float(step + 1), "loss": total / count}
                if measure:
                    weights.exchange()
                    measured |= measure()
                    weights.exchange()
                history.append(measured)
                save_checkpoint(weights.state(step + 1, {"history": history}), settings, path)
                saved = time.monotonic()
            if progress and (saves or (step + 1) % 100 == 0):
                progress(StageProgress(step + 1, total / count, (step + 1 - first) / (now - start), saves))
            if saves:
                total, count = 0.0, 0
            if ends:
                return step + 1, history
    return first, history
