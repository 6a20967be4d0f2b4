"""`loralith bench attach`: what a training step of an attached model costs on the host, beside the same step in torch."""

from __future__ import annotations

import argparse
import math
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError

HELP = "CPU time of a training step of an attached transformer or resnet block, as multiples of torch's"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="direct,reference", help="devices, separated by commas (default: direct,reference)")
    parser.add_argument("--config", default="base", help="preset or JSON file of the devices (default: base)")
    parser.add_argument("--block", choices=("transformer", "resnet"), default="transformer", help="what is trained (default: transformer)")
    parser.add_argument("--tokens", type=int, default=1024, help="image tokens T, for a resnet block those of a square (default: 1024)")
    parser.add_argument("--width", type=int, default=320, help="channels C, a multiple of 8 (default: 320, that of SD-1.5's first blocks)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank of to_q, to_k, to_v and to_out (default: 4)")
    parser.add_argument("--steps", type=int, default=3, help="steps after the first one, of which the fastest counts (default: 3)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `loralith.mapping.host_time`, and the settings that they are of. Raises LoralithError for sizes that make no block."""
    for name in ("tokens", "width", "rank", "steps"):
        if getattr(args, name) < 1:
            raise LoralithError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.width % 8:
        raise LoralithError(f"--width must be a multiple of 8, the number of heads, not {args.width}")
    if args.block == "resnet" and math.isqrt(args.tokens) ** 2 != args.tokens:
        raise LoralithError(f"--tokens of a resnet block must be a square, not {args.tokens}")
    from loralith.mapping.host_time import attached_step_times

    devices = [name.strip() for name in args.device.split(",")]
    settings = {name: getattr(args, name) for name in ("config", "block", "tokens", "width", "rank")}
    return settings | attached_step_times(devices, **settings, steps=args.steps, say=output.log)
