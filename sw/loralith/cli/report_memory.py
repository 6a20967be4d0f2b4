"""`loralith report memory`: bytes of a training step by part, on device and host, measured on this machine, beside FP32 LoRA in torch."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.files import check_output
from loralith.spec.config import PRESETS

HELP = "memory of a training step by part, measured: weights, saved tensors, gradients, optimizer, scratch"
ON_RTL = False
SUBJECT = "loralith.training.memory_report"
PICTURES = (".png", ".svg", ".pdf")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help=f"{', '.join(PRESETS)} or a JSON file (default: base)")
    parser.add_argument("--batch", type=int, help="images per step (default: 4, with --model 1)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank (default: 4)")
    parser.add_argument("--targets", default="all", help="projections with an adapter: all, kv, or names with commas (default: all)")
    parser.add_argument("--methods", help="names with commas; FP32 LoRA is always among them (default: all)")
    parser.add_argument("--model", help="plan a step on the device of sd15, sdxl or a U-Net's config.json, and measure nothing")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as PNG, SVG or PDF")


def check(args: argparse.Namespace) -> None:
    """Raises FileError and LoralithError for a picture that cannot be drawn or written."""
    if args.batch is None:
        args.batch = 1 if args.model else 4
    if args.model and (args.plot or args.methods):
        raise LoralithError("--model plans a step; it has neither --plot nor --methods")
    if args.plot:
        if args.plot.suffix.lower() not in PICTURES:
            raise LoralithError(f"--plot takes a name that ends in {', '.join(PICTURES)}, not {args.plot}")
        check_output(args.plot, output.config_files(args))


def command(args: argparse.Namespace) -> str:
    usual = (("config", "base"), ("batch", 1 if args.model else 4), ("rank", 4), ("targets", "all"), ("methods", None), ("model", None))
    more = [f"--{name}={getattr(args, name)}" for name, value in usual if getattr(args, name) != value]
    return " ".join(["loralith report memory", *more])


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Raises LoralithError for a method or model that does not exist, SettingsError for settings out of range."""
    if args.model:
        from loralith.diffusion.published import find_model
        from loralith.methods.settings import choose_targets
        from loralith.training.planned_memory.figures import memory_figures

        with output.plain_warnings():
            return memory_figures(find_model(args.model), targets=choose_targets(args.targets), rank=args.rank, batch=args.batch)
    from loralith.methods.settings import FinetuneSettings, choose_targets
    from loralith.spec.config import load_config
    from loralith.training import memory_report

    settings = FinetuneSettings(Path("."), batch=args.batch, rank=args.rank, targets=choose_targets(args.targets))
    names = None if args.methods is None else args.methods.split(",")
    return memory_report.figures(settings, load_config(args.config), names, args.plot)
