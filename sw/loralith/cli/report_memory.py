"""`loralith report memory`: bytes of a training step by part, on device and host, measured on this machine, beside FP32 LoRA in torch."""

import argparse
import io
from pathlib import Path
from typing import Any

from loralith.cli import output, results
from loralith.errors import LoralithError
from loralith.files import check_output, write_bytes
from loralith.spec.config import PRESETS

HELP = "memory of a training step by part, measured: weights, saved tensors, gradients, optimizer, scratch"
ON_RTL = False
BASELINE = "fp32-lora"
PICTURES = (".png", ".svg", ".pdf")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help=f"{', '.join(PRESETS)} or a JSON file (default: base)")
    parser.add_argument("--batch", type=int, help="images per step (default: 4, with --model 1)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank (default: 4)")
    parser.add_argument("--targets", default="all", help="projections with an adapter: all, kv, or names with commas (default: all)")
    parser.add_argument("--methods", help="names with commas; FP32 LoRA is always among them (default: all)")
    parser.add_argument(
        "--model", help="plan a step of sd15, sdxl or a U-Net's config.json that never leaves the device, in place of measuring"
    )
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
        check_output(args.plot, results.config_files(args))


def command(args: argparse.Namespace) -> str:
    usual = (("config", "base"), ("batch", 1 if args.model else 4), ("rank", 4), ("targets", "all"), ("methods", None), ("model", None))
    more = [f"--{name}={getattr(args, name)}" for name, value in usual if getattr(args, name) != value]
    return " ".join(["loralith report memory", *more])


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Raises LoralithError for a method that does not exist, SettingsError for settings out of range."""
    if args.model:
        return planned(args)
    from loralith.diffusion.memory import METHODS, measure_method
    from loralith.diffusion.settings import FinetuneSettings, choose_targets
    from loralith.diffusion.sizes import check_sizes
    from loralith.mapping.memory import PARTS
    from loralith.spec.config import load_config

    names = list(METHODS) if args.methods is None else list(dict.fromkeys([BASELINE, *args.methods.split(",")]))
    for name in names:
        if name not in METHODS:
            raise LoralithError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    settings = FinetuneSettings(Path("."), batch=args.batch, rank=args.rank, targets=choose_targets(args.targets))
    config = load_config(args.config)
    check_sizes(settings)
    methods = {name: measure_method(name, settings, config) for name in names}
    for name, method in methods.items():
        method["saved_ratio"] = saved_ratio(method, methods[BASELINE])
        method["saved_ratio_model"] = _sum(method["parts"]["saved"]) / _sum(methods[BASELINE]["parts"]["saved"])
        method["name"] = name
    result = {"config": config.name, "batch": args.batch, "rank": args.rank, "targets": list(settings.targets)}
    result |= {"parts": PARTS, "methods": methods}
    if args.plot:
        plot(result, args.plot)
    return result


def planned(args: argparse.Namespace) -> dict[str, Any]:
    """Raises LoralithError for a model that is unknown or has an operator without a program."""
    from loralith.diffusion.settings import choose_targets
    from loralith.mapping.configs import find_model
    from loralith.step.memory import memory_figures

    with output.plain_warnings():
        return memory_figures(find_model(args.model), targets=choose_targets(args.targets), rank=args.rank, batch=args.batch)


def _sum(pair: dict[str, int]) -> int:
    return pair["device"] + pair["host"]


def saved_ratio(method: dict[str, Any], baseline: dict[str, Any]) -> float:
    """Bytes that the mapped modules save over those that the same modules save in FP32."""
    kinds = mapped_kinds(method)
    own = sum(_sum(method["saved"][kind]) for kind in kinds if kind in method["saved"])
    return own / sum(_sum(baseline["saved"][kind]) for kind in kinds if kind in baseline["saved"])


def mapped_kinds(method: dict[str, Any]) -> tuple[str, ...]:
    """The kinds of modules that a method maps; of the baseline, all that could be mapped."""
    return tuple(method["maps"])


def title(figures: dict[str, Any]) -> str:
    return f"Memory of a training step of {figures['model']}, planned" if "baselines" in figures else "Memory of a training step"


def _kilo(count: int) -> str:
    return f"{count / 1000:,.1f}"


def page(figures: dict[str, Any]) -> list[str]:
    if "baselines" in figures:
        from loralith.step.memory import memory_page

        return memory_page(figures)
    methods, parts = figures["methods"], figures["parts"]
    lines = [
        f"The small U-Net, {figures['batch']} images, LoRA of rank {figures['rank']} on {', '.join(figures['targets'])}; device "
        f"`{figures['config']}`. Kilobytes (1,000 bytes), device + host, as allocated.",
        "",
        f"| | {' | '.join(methods)} |",
        f"|---|{'---|' * len(methods)}",
    ]
    for part in parts:
        cells = [f"{_kilo(method['parts'][part]['device'])} + {_kilo(method['parts'][part]['host'])}" for method in methods.values()]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    totals = [_kilo(method["total"]) for method in methods.values()]
    lines += [f"| **all but originals** | {' | '.join(totals)} |", "", "Saved for the backward pass, by who saves it:", ""]
    kinds = sorted({kind for method in methods.values() for kind in method["saved"]})
    lines += [f"| | {' | '.join(methods)} |", f"|---|{'---|' * len(methods)}"]
    for kind in kinds:
        cells = [_kilo(_sum(method["saved"].get(kind, {"device": 0, "host": 0}))) for method in methods.values()]
        lines.append(f"| {kind if kind != 'rest' else 'everything else'} | {' | '.join(cells)} |")
    for label, key in (("mapped modules, against the same in FP32", "saved_ratio"), ("whole model, against FP32", "saved_ratio_model")):
        lines.append(f"| {label} | {' | '.join(f'{method[key]:.3f}' for method in methods.values())} |")
    lines += ["", "Parts:", "", *(f"- *{part}*: {text}." for part, text in parts.items())]
    lines += ["", "Methods:", "", *(f"- *{name}*: {method['text']}." for name, method in methods.items())]
    return lines


def plot(figures: dict[str, Any], path: Path) -> None:
    """Stacked bars, a method each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = figures["methods"]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    bottom = [0.0] * len(methods)
    for part in (part for part in figures["parts"] if part != "originals"):
        heights = [_sum(method["parts"][part]) / 1e6 for method in methods.values()]
        axes.bar(list(methods), heights, bottom=bottom, label=part, width=0.6)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_ylabel("MB, device and host")
    axes.set_title("Memory of a training step, measured")
    axes.legend()
    form, buffer = path.suffix.lower().removeprefix("."), io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"Date" if form == "svg" else "CreationDate": None} if form in ("svg", "pdf") else None)
    pyplot.close(figure)
    write_bytes(buffer.getvalue(), path)
    output.wrote(path)
