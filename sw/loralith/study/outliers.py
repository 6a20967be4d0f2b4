"""Channels of large values: what they cost INT8, and what a rotation of the channels gives back.

A pre-norm transformer block of SD3's width with random frozen weights. In each norm the gains of eight channels are multiplied by 50, and
the columns of the layers that read them are divided by 50: in exact arithmetic the block computes what it did before. Then an adapter is
trained to make the block's outputs those of the same block with another, hidden adapter.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loralith.device import open_device
from loralith.device.device import Device
from loralith.lora.frozen import FrozenLinear
from loralith.lora.quantize import quantize_weight
from loralith.mapping.attach_model import attach
from loralith.spec.scheme import FQT

__all__ = ["GAIN", "OUTLIERS", "Task", "measure"]

GAIN = 50.0
OUTLIERS = 8
WIDTH, HEADS, BLOCKS, TOKENS, IMAGES = 1536, 24, 1, 32, 2
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
RANK = 8
RATE = 2e-3
HIDDEN = 0.05
"""Standard deviation of the hidden adapter's factors: B A has about half the size of W."""
HELD_OUT = 4
"""Batches that the loss after training is of."""
BOUND = 0.01
"""The share of FP32's loss by which a scheme's may differ."""


@dataclass
class Task:
    """Blocks, what they are to become, and draws of inputs, of one seed. ``gains``: whether the channels are scaled."""

    seed: int
    gains: bool

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
        if self.gains:
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
        """The same function with large channels."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for norm, layers in self.readers:
                channels = torch.randperm(WIDTH, generator=generator)[:OUTLIERS]
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
            hooks.append(
                norm.register_forward_hook(
                    lambda _m, _i, y, weights=weights: found.extend((y.detach().reshape(-1, WIDTH), w) for w in weights)
                )
            )
        with torch.no_grad():
            self.model(self.batches[0])
        for hook in hooks:
            hook.remove()
        return found

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
    """The mean held-out loss before and after ``steps`` of Adam, in the arithmetic that trains; ``device`` None: FP32 in torch."""
    draws = task.steps(steps)
    attachment = None if device is None else attach(task.model, device, scheme)
    optimizer = torch.optim.Adam(task.trained, lr=RATE)

    def judged() -> float:
        with torch.no_grad():
            return statistics.fmean((task.model(x) - y).square().mean().item() for x, y in task.held_out)

    before = judged()
    for step, (x, y) in enumerate(draws):
        if attachment is not None:
            attachment.step_begin(step)
        optimizer.zero_grad()
        (task.model(x) - y).square().mean().backward()
        optimizer.step()
    own = judged()
    if attachment is not None:
        attachment.detach()
    return before, judged(), own


SCHEMES: Mapping[str, Callable[[int, int], FQT]] = {
    "int8": lambda seed, rotation: FQT(seed=seed),
    "rotated": lambda seed, rotation: FQT(seed=seed, rotation=rotation),
}


def measure(seeds: int, steps: int, rotation: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Figures by seed and their worst: the error of X W^T without gains, with them, and rotated; FP32's loss after training, and by how
    much INT8's differs, plain and rotated. ``passes``: rotated differs by at most `BOUND` for every seed, and plain by more for every
    seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        with open_device("direct", "base") as device:
            for seed in range(seeds):
                row: dict[str, Any] = {"seed": seed}
                row["error_without"] = product_error(device, FQT(), Task(seed, False).inputs())
                pairs = Task(seed, True).inputs()
                for name, scheme in SCHEMES.items():
                    row[f"error_{name}"] = product_error(device, scheme(seed, rotation), pairs)
                row["loss_before"], row["loss_fp32"] = _train(Task(seed, True), steps, None, FQT())
                for name, scheme in SCHEMES.items():
                    loss = _train(Task(seed, True), steps, device, scheme(seed, rotation))[1]
                    row[f"loss_{name}"], row[f"off_{name}"] = loss, loss / row["loss_fp32"] - 1
                rows.append(row)
                say(
                    f"seed {seed}: error {row['error_without']:.4f}, with outliers {row['error_int8']:.4f}, "
                    f"rotated {row['error_rotated']:.4f}; "
                    f"loss {row['loss_fp32']:.5f}, INT8 {row['off_int8']:+.2%}, rotated {row['off_rotated']:+.2%}"
                )
    finally:
        torch.set_num_threads(threads)
    worst = {f"worst_{name}": max(abs(row[f"off_{name}"]) for row in rows) for name in SCHEMES}
    passes = worst["worst_rotated"] <= BOUND and all(abs(row["off_int8"]) > BOUND for row in rows)
    return (
        {"seeds": seeds, "steps": steps, "rotation": rotation, "gain": GAIN, "channels": OUTLIERS, "bound": BOUND}
        | worst
        | {
            "passes": passes,
            "rows": rows,
        }
    )
