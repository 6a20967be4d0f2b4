"""`loralith bench methods`: what the training methods learn, over seeds, beside their controls."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.files import check_output_folder
from loralith.places import data
from loralith.reports.result_files import write

if TYPE_CHECKING:
    from loralith.study.methods import Backend

HELP = "held-out losses of the training methods beside their controls, over seeds; resumable"
RESULTS = data("docs/results/methods")
TITLE = "What the training methods learn"
DEVICE = "direct"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("build/methods"), help="folder of points (default: build/methods)")
    parser.add_argument(
        "--device",
        default=DEVICE,
        help="reference, direct, verilator, serial:<port> or pynq:<bitfile>, or fp32 for plain torch (default: direct)",
    )
    parser.add_argument("--config", default="paper", help="preset or JSON file of the device; changes time, no bit (default: paper)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (default: 3)")
    parser.add_argument("--only", help="names of studies, separated by semicolons (default: all)")
    parser.add_argument("--finished", action="store_true", help="take the points that are finished and compute none")
    parser.add_argument("--publish", action="store_true", help="also write the figures to docs/results/methods, FP32's to methods-fp32")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Computes the missing points; the summary of all. Raises LoralithError for a study that does not exist."""
    from loralith.progress import stop_on_interrupt
    from loralith.study.method_report import plot, summarize
    from loralith.study.methods import STUDIES, load_point, pending, run

    names = tuple(STUDIES) if args.only is None else tuple(name.strip() for name in args.only.split(";"))
    for name in names:
        if name not in STUDIES:
            raise LoralithError(f"there is no study {name!r}; there are {'; '.join(STUDIES)}")
    if args.seeds < 1:
        raise LoralithError(f"seeds must be at least 1, not {args.seeds}")
    check_output_folder(args.output)

    def progress(name: str, variant: str, seed: int, step: int) -> None:
        if step % 100 == 0:
            output.log(f"{name}: {variant}, seed {seed}, step {step}/{STUDIES[name].settings['steps']}")

    with opened_backend(args.device, args.config) as backend, stop_on_interrupt() as stop:  # Ctrl-C ends the device's build at once
        total = len(pending(args.output, names, args.seeds, backend))
        missing = () if args.finished else run(args.output, names, args.seeds, backend, progress, stop)
        for done, point in enumerate(missing, 1):
            output.log(f"{done}/{total}  {point['study']}: {point['variant']}, seed {point['seed']}: held-out loss {point['after']:.5f}")
        keys = [(name, variant, seed) for name in names for variant in STUDIES[name].variants for seed in range(args.seeds)]
        points = [point for key in keys if (point := load_point(args.output, *key, backend)) is not None]
    figures = summarize(points)
    if args.publish:
        told = {"--device": (args.device, DEVICE), "--seeds": (args.seeds, 3), "--only": (args.only and f"'{args.only}'", None)}
        words = [f"{name} {value}" for name, (value, usual) in told.items() if value != usual]
        stem = RESULTS / ("methods" if args.device == DEVICE else f"methods-{args.device}")
        lines = [*page(figures), "", f"![held-out losses]({stem.name}.png)"]
        write(stem, TITLE, " ".join(["loralith bench methods", *words]), figures, lines, on_rtl=args.device == "verilator")
        plot(figures, stem.with_suffix(".png"))
        output.wrote(stem.with_suffix(".png"))
    return figures


@contextmanager
def opened_backend(name: str, config: str) -> Iterator[Backend]:
    """The device of this name, open inside; FP32 in plain torch for `fp32`. Raises LoralithError for one that does not exist."""
    from loralith.device import open_device
    from loralith.methods.settings import FP32
    from loralith.study.methods import Backend
    from loralith.training.attaching import attacher

    if name == FP32:
        yield Backend()
        return
    with open_device(name, config) as device:
        yield Backend(name, config, attacher(device, verify=False))


def page(figures: dict[str, Any]) -> list[str]:
    """The figures as Markdown."""
    from loralith.study.method_report import tables

    return tables(figures)


def show(figures: dict[str, Any]) -> None:
    print("\n".join(page(figures)))
