"""`loralith study`: training schemes beside FP32 over paired seeds; what was measured last; one point of it again."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output
from loralith.cli.results import commit
from loralith.errors import LoralithError
from loralith.places import data
from loralith.spec.config import PRESETS

if TYPE_CHECKING:
    from loralith.study.store import Store

RESULTS = data("docs/results/study.json")
SEEDS = 5


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("study", help="compare training schemes with FP32 over paired seeds")
    parser.add_argument("--output", type=Path, default=Path("build/study"), help="folder of points and reports (default: build/study)")
    parser.add_argument("--schemes", help="names, separated by commas; fp32 is always among them (default: all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"number of paired seeds, from 0 (default: {SEEDS})")
    parser.add_argument("--steps", type=int, help="optimizer steps of each point (default: 200, or those of the point that is run again)")
    parser.add_argument("--targets", default="all", help="projections with an adapter: all, kv, or names with commas (default: all)")
    parser.add_argument("--samples", type=int, default=64, help="images drawn to judge a point (default: 64)")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="also write the reports to docs/results, or docs/results/study-TARGETS, beside what is there of other schemes",
    )
    parser.add_argument("--finished", action="store_true", help="take the points that are finished and compute none")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--results", action="store_true", help="print the results in docs/results and compute nothing")
    what.add_argument("--rerun", metavar="SCHEME", help="compute one point of docs/results again and compare every number")
    parser.add_argument("--seed", type=int, default=0, help="seed of the point that is run again (default: 0)")
    parser.add_argument(
        "--device",
        help="reference, direct, verilator, serial:<port> or pynq:<bitfile> (default: none: the torch reference has the same bits)",
    )
    parser.add_argument("--config", default="base", help=f"of the device: {', '.join(PRESETS)} or a JSON file (default: base)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0; 1 where a point that was run again differs."""
    if args.results:
        return show_results(args)
    if args.rerun:
        return rerun(args)
    return study(args)


def results_folder(targets: str) -> Path:
    """Where results of a choice of projections are published."""
    return RESULTS.parent if targets == "all" else RESULTS.parent / f"study-{targets}"


def read_results(targets: str) -> dict[str, Any]:
    from loralith.study.report import FORMAT

    path = results_folder(targets) / RESULTS.name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoralithError(f"{path} cannot be read: {error}; 'loralith study --publish' writes it") from error
    if content.get("format") != FORMAT:
        raise LoralithError(f"{path} has the format {content.get('format')!r}, this version reads {FORMAT!r}")
    return content


def show_results(args: argparse.Namespace) -> int:
    content = read_results(args.targets)
    if args.json:
        for own in content["schemes"].values():
            del own["layers"]
        output.emit_json({key: value for key, value in content.items() if key != "points"})
    else:
        print_summary(content)
    return 0


def print_summary(content: dict[str, Any]) -> None:
    from loralith.study.report import percent, signed, verdict
    from loralith.study.schemes import FP32

    rows = []
    for name, own in content["schemes"].items():
        itself = name == FP32  # against itself there is neither difference nor error
        rows.append(
            (
                name,
                f"n = {len(own['seeds'])}",
                f"{own['heldout_loss']:.5f}",
                "" if itself else signed(own["heldout_loss_ratio_to_fp32"] - 1, own["heldout_loss_ratio_to_fp32_se"]),
                "" if itself else f"{own['improvement_recovered']:.1%}",
                percent(own["accuracy"], own["accuracy_se"], 0),
                f"{own['gradient_cosine']:.4f}",
            )
        )
    columns = ("scheme", "seeds", "held-out loss", "against FP32", "recovered", "accuracy", "gradient cosine")
    output.table("Training schemes against FP32, mean ± standard error over n seeds; none for one seed", columns, rows)
    for line in verdict(content) if "bar" in content else []:
        print(line)


@contextmanager
def attacher(device: str | None, config: str) -> Iterator[Callable[..., Any]]:
    """What puts a scheme on the torch reference, or on a device."""
    from loralith.spec.step import StepScheme
    from loralith.verif.attachment import ReferenceAttachment
    from loralith.verif.step.attachment import StepAttachment

    if device is None:
        yield (
            lambda model, scheme, tally: (
                StepAttachment(model, scheme) if isinstance(scheme, StepScheme) else ReferenceAttachment(model, scheme, tally)
            )
        )
        return
    from loralith.device import open_device
    from loralith.mapping.attach_model import attach

    with open_device(device, config) as opened:
        yield lambda model, scheme, tally: attach(model, opened, scheme)


def weight_errors() -> dict[str, list[float]]:
    """Relative error of quantized W, mean over the layers that a study trains, for 8 and 4 bits."""
    import torch

    from loralith.diffusion.settings import PROJECTIONS
    from loralith.diffusion.unet import load_model
    from loralith.spec.scheme import FQT
    from loralith.verif.quantize import quantize_weight

    named = load_model()[0].named_parameters()
    weights = [w.detach() for name, w in named if name.endswith(tuple(f"{target}.weight" for target in PROJECTIONS))]

    def error(scheme: FQT) -> float:
        total = 0.0
        for weight in weights:
            q = quantize_weight(weight, scheme)
            total += float((q.integers() * q.scale.double()[:, None] - weight).norm() / weight.norm())
        return total / len(weights)

    torch.set_num_threads(1)
    kinds: dict[str, dict[str, Any]] = {"row": {}, "row, powers of two": {"power_of_two": True}, "tensor": {"weight_scales": "tensor"}}
    kinds |= {f"{side} x {side} square": {"weight_scales": "block", "weight_block": side} for side in (16, 8, 4, 2)}
    return {name: [error(FQT(weight_bits=bits, **fields)) for bits in (8, 4)] for name, fields in kinds.items()}


def study(args: argparse.Namespace) -> int:
    from loralith.diffusion.interrupt import stop_on_interrupt
    from loralith.diffusion.settings import EvaluationSettings, choose_targets
    from loralith.diffusion.sizes import check_sizes
    from loralith.study.run import pending, run_study
    from loralith.study.schemes import FP32, SCHEMES, scheme_named
    from loralith.study.settings import StudySettings
    from loralith.study.store import Store

    names = list(SCHEMES) if args.schemes is None else list(dict.fromkeys([FP32, *args.schemes.split(",")]))
    for name in names:
        scheme_named(name)
    if args.seeds < 1:
        raise LoralithError(f"seeds must be at least 1, not {args.seeds}")
    settings = StudySettings(targets=choose_targets(args.targets), evaluation=EvaluationSettings(samples=args.samples))
    settings = settings if args.steps is None else settings.shortened(args.steps)
    check_sizes(settings.run(0))
    store, seeds = Store(args.output, settings), range(args.seeds)
    left = pending(store, names, seeds)
    if args.finished:
        names = [name for name in names if any(store.point(name, seed) for seed in seeds)]
        if store.baseline is None or FP32 not in names:
            raise LoralithError(f"{args.output} has no finished point of fp32, which all others are held against; leave out --finished")
    else:
        with attacher(args.device, args.config) as attach, stop_on_interrupt() as stop:  # Ctrl-C ends the device's build at once
            with Bars(len(names) * args.seeds, len(names) * args.seeds - len(left), settings.steps) as bars:
                for point in run_study(store, names, seeds, attach, bars.step, stop):
                    bars.point(point)
    summary = publish(args, store, names, list(seeds))
    if args.json:
        output.emit_json({**{key: summary[key] for key in ("seeds", "schemes", "bar") if key in summary}, "files": summary["files"]})
    else:
        print_summary(summary)
        print(", ".join(summary["files"]))
    return 0


def publish(args: argparse.Namespace, store: Store, names: list[str], seeds: list[int]) -> dict[str, Any]:
    """Writes the reports; what study.json holds, and `files`."""
    from loralith.study.figures import summarize
    from loralith.study.merge import add_published
    from loralith.study.report import write_reports

    found = {(name, seed): store.point(name, seed) for name in names for seed in seeds}
    points = {key: point for key, point in found.items() if point is not None}
    assert store.baseline is not None
    summary = summarize(points, store.baseline)
    words = ["loralith", "study", *(["--schemes", args.schemes] if args.schemes else [])]
    words += [f"--targets={args.targets}"] if args.targets != "all" else []
    words += [f"--{name}={value}" for name, value, usual in (("seeds", args.seeds, SEEDS), ("samples", args.samples, 64)) if value != usual]
    words += [] if args.steps is None else [f"--steps={args.steps}"]
    context = {
        "command": shlex.join(words),
        "date": date.today().isoformat(),
        "commit": commit("gen", "sw", "verif") or "unknown",
        "settings": json.loads(json.dumps(dict(store.settings.identity()))),
        "machine": machine(),
        "weight_error": weight_errors(),
    }
    files = [str(path) for path in write_reports(args.output, context, summary, points).values()]
    if args.publish:
        folder = results_folder(args.targets)
        if (folder / RESULTS.name).exists():
            summary, points = add_published(read_results(args.targets), context, summary, points)
        files += [str(path) for path in write_reports(folder, context, summary, points).values()]
    return {**context, **summary, "files": files}


def machine() -> dict[str, Any]:
    """What decides FP32's last bits: versions, and torch's kernels."""
    import platform
    from importlib.metadata import version

    import torch

    versions = {name: version(name) for name in ("torch", "diffusers", "peft", "scikit-learn")}
    return {**versions, "architecture": platform.machine(), "kernels": torch.backends.cpu.get_cpu_capability(), "threads": 1}


def rerun(args: argparse.Namespace) -> int:
    from loralith.diffusion.interrupt import stop_on_interrupt
    from loralith.study.figures import compact, unpack_losses
    from loralith.study.point import run_point
    from loralith.study.schemes import scheme_named
    from loralith.study.settings import StudySettings

    scheme_named(args.rerun)
    content = read_results(args.targets)
    stored = next((p for p in content["points"] if (p["scheme"], p["seed"]) == (args.rerun, args.seed)), None)
    if stored is None:
        have = sorted({point["seed"] for point in content["points"] if point["scheme"] == args.rerun})
        raise LoralithError(f"the results have no point of {args.rerun} with seed {args.seed}; its seeds are {have or 'none'}")
    settings = StudySettings.from_identity(content["settings"])
    whole = args.steps in (None, settings.steps)
    settings = settings if whole else settings.shortened(int(args.steps))
    with attacher(args.device, args.config) as attach, stop_on_interrupt() as stop, Bars(1, 0, settings.steps) as bars:
        point = run_point(
            settings, args.rerun, args.seed, attach, lambda n: bars.step(args.rerun, args.seed, n), stop, in_scheme=args.device is None
        )
        bars.point(point)
    again = compact(point)
    if whole:
        names = list(stored) if args.device is None else ["heldout_loss", "accuracy", "curve", "adapter", "losses_fp32"]
        differing = [name for name in names if json.loads(json.dumps(again[name])) != stored[name]]
        compared = len(names)
    else:
        first = stored["losses_fp32"][: len(again["losses_fp32"])]
        differing, compared = ([] if again["losses_fp32"] == first else ["losses_fp32"]), 1
    result = {
        "scheme": args.rerun,
        "seed": args.seed,
        "device": args.device or "torch reference",
        "steps": settings.steps,
        "identical": not differing,
        "compared": compared,
        "differing": differing,
        "heldout_loss": again["heldout_loss"],
        "accuracy": again["accuracy"],
        "adapter": again["adapter"],
        "stored": {key: stored[key] for key in ("heldout_loss", "accuracy", "adapter")} if whole else None,
        "first_differing_loss": _first_difference(unpack_losses(again["losses_fp32"]), unpack_losses(stored["losses_fp32"])),
        "machine": {"stored": content["machine"], "here": machine()},
    }
    if args.json:
        output.emit_json(result)
    else:
        rows = [
            (name, str(result[name])) for name in ("scheme", "seed", "device", "steps", "identical", "heldout_loss", "accuracy", "adapter")
        ]
        if differing:
            rows += [("differs in", ", ".join(differing)), ("stored", str(result["stored"]))]
        output.table("One point again", ("", ""), rows)
    if differing and content["machine"] != machine():
        output.log(
            "note: other versions or another kind of processor than the results'; torch's FP32 kernels differ in last bits between them"
        )
    return 0 if not differing else 1


def _first_difference(own: list[float], stored: list[float]) -> int | None:
    """The first step whose losses differ, None where all agree."""
    return next((step for step, (a, b) in enumerate(zip(own, stored, strict=False)) if a != b), None)


class Bars:
    """Progress on stderr: points and steps as rich bars where it is a terminal, a line for each point where it is not."""

    def __init__(self, points: int, done: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.terminal, self.points, self.done = console.is_terminal, points, done
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not self.terminal)
        self.all = self.progress.add_task("points", total=points, completed=done)
        self.one = self.progress.add_task("steps", total=steps)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def step(self, scheme: str, seed: int, done: int) -> None:
        self.progress.update(self.one, completed=done, description=f"{scheme}, seed {seed}")

    def point(self, point: dict[str, Any]) -> None:
        self.done += 1
        self.progress.update(self.all, completed=self.done)
        text = f"{point['scheme']}, seed {point['seed']}: held-out loss {point['heldout_loss']:.5f}, accuracy {point['accuracy']:.0%}"
        if self.terminal:
            self.progress.console.print(text)
        else:
            output.log(f"{self.done}/{self.points}  {text}, {point['seconds']:.0f} s")
        for message in point["warnings"][:3]:
            output.log(f"warning: {message}")
