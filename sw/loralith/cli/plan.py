"""`loralith plan`: what a training step of a whole model costs, and which of its layers run on the device."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output
from loralith.files import check_output, write_json
from loralith.spec.config import PRESETS

if TYPE_CHECKING:
    from loralith.formats.unet_config import Source
    from loralith.spec.config import Config

MODEL = (
    "small (the project's own), sd15, sdxl, flux, flux2, sd3, sana, qwen-image, wan, ltx, z-image, pixart, or a folder with the "
    "config.json of a U-Net or a transformer of diffusers"
)
MAPS = "what runs on the device: LoRA layers, all that multiplies, or by a model the whole step (default: all)"


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("plan", help="which layers of a model run on the device, and what a training step costs")
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--map", choices=("lora", "all", "step"), default="all", help=MAPS)
    parser.add_argument("--config", default="base", help=f"{', '.join(PRESETS)} or a JSON file (default: base)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank (default: 4)")
    parser.add_argument("--targets", default="all", help="projections with an adapter: all, kv, or names with commas (default: all)")
    parser.add_argument("--batch", type=int, default=1, help="images per step (default: 1)")
    parser.add_argument("--weight-bits", type=int, choices=(8, 4), default=8, help="bits of frozen W on the device (default: 8)")
    parser.add_argument("--layers", action="store_true", help="a line for each layer")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.output:  # before torch is loaded
        model = Path(args.model)
        places = (model, *(model / folder / "config.json" for folder in ("", "unet", "transformer")))
        check_output(args.output, [*output.config_files(args), *(place for place in places if place.is_file())])
    from loralith.diffusion.published import find_model
    from loralith.errors import LoralithError
    from loralith.mapping.planning.step_plan import plan
    from loralith.mapping.planning.trace import trace_model
    from loralith.methods.settings import choose_targets
    from loralith.spec.config import load_config

    for name in ("rank", "batch"):
        if getattr(args, name) < 1:
            raise LoralithError(f"{name} must be at least 1, not {getattr(args, name)}")
    config, source = load_config(args.config), find_model(args.model, transformers=args.map != "step")
    if args.map == "step":
        return whole_step(args, config, source)
    with output.plain_warnings():
        traced = trace_model(source, targets=choose_targets(args.targets), rank=args.rank, batch=args.batch, modules=args.map)
    settings = {"model": source.name, "map": args.map, "rank": args.rank, "targets": args.targets, "batch": args.batch}
    settings |= {"weight_bits": args.weight_bits}
    figures = {**settings, **plan(traced, config, args.weight_bits)}
    if args.output:
        write_json(figures, args.output)
        output.wrote(args.output)
    if args.json:
        output.emit_json(figures)
    else:
        show(figures, layers=args.layers)
    return 0


def whole_step(args: argparse.Namespace, config: Config, source: Source) -> int:
    """The step on the device, which has no hardware yet: array, vector unit and bus by the model of docs/step.md."""
    from loralith.errors import LoralithError
    from loralith.files import write_json
    from loralith.methods.settings import choose_targets
    from loralith.step.cost_model import model_step
    from loralith.step.operators import trace_unet

    if args.weight_bits != 8 or args.layers:
        raise LoralithError("--map step has neither --weight-bits 4 nor --layers")
    with output.plain_warnings():
        graph = trace_unet(source, targets=choose_targets(args.targets), rank=args.rank, batch=args.batch)
    step = model_step(graph, config, args.rank)
    figures = {"model": source.name, "map": "step", "rank": args.rank, "targets": args.targets, "batch": args.batch, **step.figures()}
    if args.output:
        write_json(figures, args.output)
    if args.json:
        output.emit_json(figures)
        return 0
    columns = ("kind", "operators", "MACs", "array", "vector unit", "bus", "together", "share")
    rows = [
        (name, k.operators, size(k.macs), size(k.array), size(k.vector), size(k.bus), size(k.cycles), f"{k.cycles / step.cycles:.1%}")
        for name, k in sorted(step.kinds.items(), key=lambda pair: -pair[1].cycles)
    ]
    title = f"A whole step of {source.name}, batch {args.batch}, on {config.name} with {step.lanes} lanes, by a model: cycles"
    output.table(title, columns, rows)
    print(f"{step.macs:,} MACs in {step.cycles:,} cycles: {step.utilization:.1%} of the array. There is no hardware for this yet.")
    return 0


def size(count: int) -> str:
    """Bytes, or anything counted, with a prefix."""
    value, prefixes = float(count), iter(("", " k", " M", " G", " T"))
    prefix = next(prefixes)
    while value >= 1000 and prefix != " T":
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.4g}{prefix}"


def show(figures: dict[str, Any], *, layers: bool) -> None:
    columns = ("MACs", "weights", "saved", "saved in FP32", "read", "written")
    keys = ("macs", "weight_bytes", "saved_bytes", "saved_bytes_fp32", "bytes_read", "bytes_written")
    if layers:
        rows = [
            (layer["name"], layer["where"], layer["why"], layer["shape"], *(size(layer[key]) for key in keys))
            for layer in figures["layers"]
        ]
        output.table("Layers, in the order of the forward pass", ("layer", "where", "why", "shape", *columns), rows)
    rows = [(name, sums["modules"], *(size(sums[key]) for key in keys)) for name, sums in figures["totals"].items()]
    title = f"A training step of {figures['model']}, batch {figures['batch']}, on {figures['config']}: bytes and multiply-accumulates"
    output.table(title, ("", "layers", *columns), rows)
    reasons: dict[str, list[dict[str, Any]]] = {}
    for layer in figures["layers"]:
        if layer["where"] == "torch":
            reasons.setdefault(layer["why"], []).append(layer)
    for reason, stay in reasons.items():
        names = list(dict.fromkeys(layer["name"] or "the model itself" for layer in stay))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"in torch, {sum(layer['share'] for layer in stay):.2%}, since {reason}: {', '.join(names[:3])}{more}")
    print(f"{figures['macs_on_device']:,} of {figures['macs']:,} multiply-accumulates on the device: {figures['share']:.2%}")
