"""`loralith bench attach`: what a training step of an attached model costs on the host, beside the same step in torch."""

from __future__ import annotations

import argparse
import math
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError

HELP = "CPU time of a training step of an attached transformer or resnet block, as multiples of torch's"
TEXT_TOKENS, TEXT_WIDTH = 77, 768
"""Of SD-1.5's text encoder."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="direct,reference", help="devices, separated by commas (default: direct,reference)")
    parser.add_argument("--config", default="base", help="preset or JSON file of the devices (default: base)")
    parser.add_argument("--block", choices=("transformer", "resnet"), default="transformer", help="what is trained (default: transformer)")
    parser.add_argument("--tokens", type=int, default=1024, help="image tokens T, for a resnet block those of a square (default: 1024)")
    parser.add_argument("--width", type=int, default=320, help="channels C, a multiple of 8 (default: 320, that of SD-1.5's first blocks)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank of to_q, to_k, to_v and to_out (default: 4)")
    parser.add_argument("--steps", type=int, default=3, help="steps after the first one, of which the fastest counts (default: 3)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the process's CPU time by device and modules, of the first step (which compiles lists) and of a later one.

    The model is a diffusers BasicTransformerBlock with self-attention, cross-attention and a GEGLU feed-forward network, or a
    ResnetBlock2D, which has no LoRA layers; a step is forward and backward passes of one image. Torch and numpy's BLAS run in one thread.
    """
    for name in ("tokens", "width", "rank", "steps"):
        if getattr(args, name) < 1:
            raise LoralithError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.width % 8:
        raise LoralithError(f"--width must be a multiple of 8, the number of heads, not {args.width}")
    if args.block == "resnet" and math.isqrt(args.tokens) ** 2 != args.tokens:
        raise LoralithError(f"--tokens of a resnet block must be a square, not {args.tokens}")

    import torch
    from threadpoolctl import threadpool_limits

    import loralith

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    limit = threadpool_limits(1)  # numpy's BLAS
    try:
        block, inputs = (_block if args.block == "transformer" else _resnet)(args)
        figures: dict[str, Any] = {name: getattr(args, name) for name in ("config", "block", "tokens", "width", "rank")}
        _, plain = _time(lambda step: _step(block, inputs), args.steps)
        figures["torch_seconds"] = round(plain, 3)
        for name in args.device.split(","):
            for modules in ("lora", "all") if args.block == "transformer" else ("all",):
                with loralith.open_device(name.strip(), config=args.config) as device:
                    attachment = loralith.attach(block, device, modules=modules)

                    def run(step: int, attachment: Any = attachment) -> None:
                        attachment.step_begin(step)
                        _step(block, inputs)

                    first, later = _time(run, args.steps)
                    attachment.detach()
                stem = f"{name.strip()}_{modules}"
                figures |= {f"{stem}_first_seconds": round(first, 3), f"{stem}_seconds": round(later, 3)}
                figures[f"{stem}_over_torch"] = round(later / plain, 2)
                output.log(f"{name.strip()}, modules={modules!r}: {later:.3f} CPU seconds a step, {later / plain:.2f} times torch's")
    finally:
        limit.restore_original_limits()
        torch.set_num_threads(threads)
    return figures


def _block(args: argparse.Namespace) -> tuple[Any, tuple[Any, Any]]:
    """A transformer block with an adapter whose B is not zero, and its inputs [1, T, C] and text [1, 77, 768]."""
    import torch
    from diffusers.models.attention import BasicTransformerBlock
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    block: Any = BasicTransformerBlock(args.width, 8, args.width // 8, cross_attention_dim=TEXT_WIDTH)
    block.requires_grad_(False)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    block = get_peft_model(block, LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=names, init_lora_weights=False))
    return block, (torch.randn(1, args.tokens, args.width, requires_grad=True), torch.randn(1, TEXT_TOKENS, TEXT_WIDTH))


def _resnet(args: argparse.Namespace) -> tuple[Any, tuple[Any, Any]]:
    """A frozen resnet block and its inputs: [1, C, H, W] of T places, and the embedding of the diffusion step [1, 4 C]."""
    import torch
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(0)
    groups = min(32, args.width)
    block: Any = ResnetBlock2D(in_channels=args.width, temb_channels=4 * args.width, groups=math.gcd(groups, args.width))
    side = math.isqrt(args.tokens)
    return block.requires_grad_(False), (torch.randn(1, args.width, side, side, requires_grad=True), torch.randn(1, 4 * args.width))


def _step(block: Any, inputs: tuple[Any, Any]) -> None:
    x, other = inputs  # the text, or the step's embedding
    name = "temb" if x.dim() == 4 else "encoder_hidden_states"
    block(x, **{name: other}).square().mean().backward()
    block.zero_grad()
    x.grad = None


def _time(step: Any, steps: int) -> tuple[float, float]:
    """CPU seconds of the first step, and of the fastest of ``steps`` after it."""
    import time

    seconds = []
    for number in range(steps + 1):
        start = time.process_time()
        step(number)
        seconds.append(time.process_time() - start)
    return seconds[0], min(seconds[1:])
