"""Channels of large values: what they cost INT8, and what a rotation of the channels gives back.

A pre-norm transformer block with random frozen weights, in each norm of which eight channels have a gain of 0.2. These gains are multiplied
by 50, and the columns of the layers that read them divided by 50: in exact arithmetic the block computes what it did before, and eight
channels of X have ten times the others' size. Then an adapter is trained to make the block's outputs those of the same block with another,
hidden adapter.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loralith.device import open_device
from loralith.device.device import Device
from loralith.files import write_json
from loralith.lora.frozen import FrozenLinear
from loralith.lora.health import TrainingWarning
from loralith.lora.quantize import quantize_weight
from loralith.mapping.attach_model import attach
from loralith.spec.scheme import FQT
from loralith.state_file import read_state

__all__ = ["GAIN", "OUTLIERS", "Task", "measure"]

GAIN = 50.0
OUTLIERS = 8
OWN_GAIN = 0.2
"""Of the eight channels, before it is multiplied."""
WIDTH, HEADS, BLOCKS, TOKENS, IMAGES = 512, 8, 1, 32, 2
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
RANK = 8
RATE = 2e-3
HIDDEN = 0.055
"""Standard deviation of the hidden adapter's factors: B A has about a third of the size of W."""
HELD_OUT = 4
"""Batches that the loss after training is of."""
BOUND = 0.01
"""The share of FP32's loss by which a scheme's may differ."""


@dataclass
class Task:
    """Blocks, what they are to become, and draws of inputs, of one seed. ``gains``: whether the channels, which have the gain ``own_gain``,
    are scaled."""

    seed: int
    gains: bool
    own_gain: float = OWN_GAIN

    def __post_init__(self) -> None:
        from diffusers.models.attention import BasicTransformerBlock
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(self.seed)
        blocks = [BasicTransformerBlock(WIDTH, HEADS, WIDTH // HEADS) for _ in range(BLOCKS)]
        self.readers: list[tuple[nn.LayerNorm, list[nn.Linear]]] = []
        for block in blocks:
            attention: Any = block.attn1
            feed: Any = block.ff.net[0]
            self.readers += [(block.norm1, [attention.to_q, attention.to_k, attention.to_v]), (block.norm3, [feed.proj])]
        self._scale()
        plain: Any = nn.Sequential(*blocks).requires_grad_(False)
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS)
        self.model: Any = get_peft_model(plain, config)
        generator = torch.Generator().manual_seed(self.seed)
        trained = [own for own in self.model.parameters() if own.requires_grad]
        start = [own.detach().clone() for own in trained]
        self._fill(trained, lambda own: torch.randn(own.shape, generator=generator) * HIDDEN)
        self.batches = [torch.randn(IMAGES, TOKENS, WIDTH, generator=generator) for _ in range(HELD_OUT)]
        with torch.no_grad():
            self.held_out = [(x, self.model(x)) for x in self.batches]
            self.hidden = [own.detach().clone() for own in trained]
        self._fill(trained, lambda own: start.pop(0))
        self.trained = trained

    @staticmethod
    def _fill(tensors: list[nn.Parameter], value: Callable[[Tensor], Tensor]) -> None:
        with torch.no_grad():
            for own in tensors:
                own.copy_(value(own))

    def _scale(self) -> None:
        """Eight channels of each norm have a gain of their own; with ``gains`` the same function with large channels."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for norm, layers in self.readers:
                channels = torch.randperm(WIDTH, generator=generator)[:OUTLIERS]
                norm.weight[channels] = self.own_gain
                if self.gains:
                    norm.weight[channels] *= GAIN
                    norm.bias[channels] *= GAIN
                    for layer in layers:
                        layer.weight[:, channels] /= GAIN

    def inputs(self) -> list[tuple[Tensor, Tensor]]:
        """X [T, I] and W [O, I] of every layer that reads a norm."""
        found: list[tuple[Tensor, Tensor]] = []
        hooks = []
        for norm, layers in self.readers:
            weights = [layer.weight.detach() for layer in layers]

            def seen(_module: torch.nn.Module, _inputs: object, y: Tensor, weights: list[Tensor] = weights) -> None:
                found.extend((y.detach().reshape(-1, WIDTH), w) for w in weights)

            hooks.append(norm.register_forward_hook(seen))
        with torch.no_grad():
            self.model(self.batches[0])
        for hook in hooks:
            hook.remove()
        return found

    def mean_held_out_loss(self) -> float:
        """The mean held-out loss."""
        with torch.no_grad():
            return statistics.fmean((self.model(x) - y).square().mean().item() for x, y in self.held_out)

    def steps(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """Inputs of the training steps and the outputs that are wanted, in FP32."""
        generator = torch.Generator().manual_seed(self.seed + 1_000_003)
        start = [own.detach().clone() for own in self.trained]
        hidden = list(self.hidden)
        self._fill(self.trained, lambda own: hidden.pop(0))
        with torch.no_grad():
            found = [(x, self.model(x)) for x in (torch.randn(IMAGES, TOKENS, WIDTH, generator=generator) for _ in range(number))]
        self._fill(self.trained, lambda own: start.pop(0))
        return found


def product_error(device: Device, scheme: FQT, pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The median over layers of |Y - X W^T| / |X W^T| (Frobenius), Y on ``device``."""
    errors = []
    for x, w in pairs:
        layer = FrozenLinear(device, quantize_weight(w.numpy(), scheme), scheme, 0)
        exact = x.double().numpy() @ w.double().numpy().T
        errors.append(float(np.linalg.norm(layer.forward(x.numpy(), 0).y - exact) / np.linalg.norm(exact)))
        layer.close()
    return statistics.median(errors)


def _train(task: Task, steps: int, device: Device | None, scheme: FQT) -> tuple[float, float]:
    """The mean held-out loss after ``steps`` of Adam: in the arithmetic that trained, and in FP32. ``device`` None: FP32 in torch."""
    draws = task.steps(steps)
    attachment = None if device is None else attach(task.model, device, scheme)
    optimizer = torch.optim.Adam(task.trained, lr=RATE)
    for step, (x, y) in enumerate(draws):
        if attachment is not None:
            attachment.step_begin(step)
        optimizer.zero_grad()
        (task.model(x) - y).square().mean().backward()
        optimizer.step()
    own = task.mean_held_out_loss()
    if attachment is not None:
        attachment.detach()
    return own, task.mean_held_out_loss()


SCHEMES: Mapping[str, Callable[[int, int], FQT]] = {
    "int8": lambda seed, rotation: FQT(seed=seed),
    "rotated": lambda seed, rotation: FQT(seed=seed, rotation=rotation),
}


def measure(
    seeds: int, steps: int, rotation: int, say: Callable[[str], None], state: Path | None = None, own_gain: float = OWN_GAIN
) -> dict[str, Any]:
    """Figures by seed and their worst: the error of X W^T without gains, with them, and rotated; FP32's loss before and after training,
    and by which share INT8's differs, plain and rotated, in its own arithmetic (``off``) and with its adapter in FP32 (``off_fp32``).
    ``passes``: rotated is within `BOUND` in both for every seed, and plain INT8 is not for any. ``state``: a file with the seeds that are
    measured, which are not measured again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = {"steps": steps, "rotation": rotation, "own_gain": own_gain, "width": WIDTH, "hidden": HIDDEN, "rate": RATE}
    kept = read_state(state, "`bench outliers`", settings, {"rows": list})
    rows = kept["rows"][:seeds] if kept else []
    try:
        with open_device("direct", "base") as device, warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)  # of outliers, which are there on purpose
            for seed in range(len(rows), seeds):
                row = _row(device, seed, steps, rotation, own_gain)
                rows.append(row)
                if state:
                    write_json({**settings, "rows": rows}, state)
                say(
                    f"seed {seed}: error {row['error_without']:.4f}, with outliers {row['error_int8']:.4f}, rotated "
                    f"{row['error_rotated']:.4f}; loss {row['loss_before']:.4f} to {row['loss_fp32']:.5f}, INT8 {row['off_int8']:+.2%}, "
                    f"rotated {row['off_rotated']:+.2%}"
                )
    finally:
        torch.set_num_threads(threads)
    worst = {
        "worst_rotated": max(abs(row[name]) for row in rows for name in ("off_rotated", "off_fp32_rotated")),
        "least_int8": min(abs(row["off_int8"]) for row in rows),
        "passes": all(row["passes"] for row in rows),
    }
    return {
        "seeds": seeds,
        "steps": steps,
        "rotation": rotation,
        "own_gain": own_gain,
        "gain": GAIN,
        "channels": OUTLIERS,
        "bound": BOUND,
        **worst,
        "rows": rows,
    }


def _row(device: Device, seed: int, steps: int, rotation: int, own_gain: float) -> dict[str, Any]:
    """The figures of one seed."""
    row: dict[str, Any] = {"seed": seed, "error_without": product_error(device, FQT(), Task(seed, False, own_gain).inputs())}
    task = Task(seed, True, own_gain)
    pairs, row["loss_before"] = task.inputs(), task.mean_held_out_loss()
    row["loss_fp32"] = _train(task, steps, None, FQT())[1]
    for name, scheme in SCHEMES.items():
        row[f"error_{name}"] = product_error(device, scheme(seed, rotation), pairs)
        own, plain = _train(Task(seed, True, own_gain), steps, device, scheme(seed, rotation))
        row[f"off_{name}"], row[f"off_fp32_{name}"] = own / row["loss_fp32"] - 1, plain / row["loss_fp32"] - 1
    rotated = abs(row["off_rotated"]) <= BOUND and abs(row["off_fp32_rotated"]) <= BOUND
    return row | {"passes": rotated and abs(row["off_int8"]) > BOUND}
