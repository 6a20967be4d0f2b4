"""`loralith capture`: real tensors of every LoRA layer, taken while the small diffusion model trains, as golden vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from loralith.cli import output
from loralith.files import check_output


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("capture", help="take the LoRA layers' tensors from a training step, as golden vectors")
    parser.add_argument(
        "--output", type=Path, default=Path("build/captured.safetensors"), help="file (default: build/captured.safetensors)"
    )
    parser.add_argument("--steps", type=int, default=60, help="training steps before the one that is taken (default: 60)")
    parser.add_argument("--batch", type=int, default=8, help="images, each at a diffusion step of its own (default: 8)")
    parser.add_argument("--rows", type=int, default=16, help="rows kept of each layer's X and dY (default: 16)")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from loralith.errors import LoralithError
    from loralith.methods.settings import FinetuneSettings
    from loralith.spec.scheme import FQT
    from loralith.study.layer_tensors import take
    from loralith.verif.captured import CapturedLayer, write_captured
    from loralith.verif.golden import LayerCase

    if args.rows < 2:
        raise LoralithError(f"rows must be at least 2, not {args.rows}")
    check_output(args.output)
    settings = FinetuneSettings(Path("."), steps=args.steps, batch=args.batch, rank=args.rank, seed=args.seed)
    layers = []
    for index, taken in enumerate(take(settings, args.rows)):
        (T, I), O = taken.x.shape, len(taken.w)
        case = LayerCase(taken.name, T, I, O, args.rank, settings.alpha, FQT(seed=args.seed), layer=index, step=args.steps)
        inputs = {name: getattr(taken, name) for name in ("x", "w", "a", "b", "dy")}
        layers.append(CapturedLayer(case, inputs, taken.timesteps))
    write_captured(args.output, layers)
    output.wrote(args.output)
    timesteps = sorted({step for layer in layers for step in layer.timesteps})
    size = args.output.stat().st_size
    if args.json:
        output.emit_json({"layers": len(layers), "timesteps": timesteps, "bytes": size, "file": str(args.output)})
    else:
        print(f"{len(layers)} layers at diffusion steps {', '.join(map(str, timesteps))}: {args.output}, {size:,} bytes")
    return 0
