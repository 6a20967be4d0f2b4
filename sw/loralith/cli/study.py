"""`loralith study`: training schemes beside FP32 over paired seeds; what was measured last; one point of it again."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.spec.config import PRESETS

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


def show_results(args: argparse.Namespace) -> int:
    from loralith.study.study_results import read_results, results_folder

    content = read_results(results_folder(args.targets))
    if args.json:
        for own in content["schemes"].values():
            del own["layers"]
        output.emit_json({key: value for key, value in content.items() if key != "points"})
    else:
        print_summary(content)
    return 0


def print_summary(content: dict[str, Any]) -> None:
    from loralith.study.schemes import FP32
    from loralith.study.study_report import percent, signed, verdict

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


def study(args: argparse.Namespace) -> int:
    from loralith.methods.settings import EvaluationSettings, choose_targets
    from loralith.progress import stop_on_interrupt
    from loralith.study.point import pending, run_study
    from loralith.study.point_store import Store
    from loralith.study.reference_schemes import attacher
    from loralith.study.schemes import FP32, SCHEMES, scheme_named
    from loralith.study.study_results import publish, results_folder
    from loralith.study.study_settings import StudySettings
    from loralith.training.sizes import check_sizes

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
    folder = results_folder(args.targets) if args.publish else None
    summary = publish(store, names, list(seeds), args.output, folder, _command(args))
    if args.json:
        output.emit_json({**{key: summary[key] for key in ("seeds", "schemes", "bar") if key in summary}, "files": summary["files"]})
    else:
        print_summary(summary)
        print(", ".join(summary["files"]))
    return 0


def _command(args: argparse.Namespace) -> str:
    """What repeats the study."""
    words = ["loralith", "study", *(["--schemes", args.schemes] if args.schemes else [])]
    words += [f"--targets={args.targets}"] if args.targets != "all" else []
    words += [f"--{name}={value}" for name, value, usual in (("seeds", args.seeds, SEEDS), ("samples", args.samples, 64)) if value != usual]
    words += [] if args.steps is None else [f"--steps={args.steps}"]
    return shlex.join(words)


def rerun(args: argparse.Namespace) -> int:
    from loralith.progress import stop_on_interrupt
    from loralith.study.point import run_point
    from loralith.study.reference_schemes import attacher
    from loralith.study.schemes import scheme_named
    from loralith.study.study_results import compare_point, machine, read_results, results_folder, stored_point
    from loralith.study.study_settings import StudySettings

    scheme_named(args.rerun)
    content = read_results(results_folder(args.targets))
    stored_point(content, args.rerun, args.seed)
    settings = StudySettings.from_identity(content["settings"])
    whole = args.steps in (None, settings.steps)
    settings = settings if whole else settings.shortened(int(args.steps))
    with attacher(args.device, args.config) as attach, stop_on_interrupt() as stop, Bars(1, 0, settings.steps) as bars:
        point = run_point(
            settings, args.rerun, args.seed, attach, lambda n: bars.step(args.rerun, args.seed, n), stop, in_scheme=args.device is None
        )
        bars.point(point)
    result = compare_point(content, point, settings.steps, args.device, whole=whole)
    differing = result["differing"]
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
