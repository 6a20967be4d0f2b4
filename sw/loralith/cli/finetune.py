"""`loralith finetune`: teach a pipeline of diffusers, or the small diffusion model, what it has never seen, on a device."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output
from loralith.cli.finetune_options import method_arguments, options_of, record_given, run_command, usual_config, usual_text
from loralith.cli.patterns import pattern
from loralith.cli.pipeline_options import pipeline_arguments
from loralith.cli.resumed_settings import resumed
from loralith.emoji.shipped import shipped_or_folder
from loralith.methods.options import OPTIONS
from loralith.reports.result_files import provenance
from loralith.spec.config import PRESETS

if TYPE_CHECKING:
    from loralith.methods.settings import FinetuneSettings
    from loralith.training.loop import Progress


STEP_FIGURES = (
    "host_bytes_written_per_step",
    "host_bytes_read_per_step",
    "list_bytes",
    "step_memory_bytes",
    "table_bytes",
    "compile_seconds",
)
UTILIZATION = {"cycles": "array utilization", "array steps": "useful share of the steps; no stalls are counted"}


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("finetune", help="personalize a pipeline of diffusers, or the small diffusion model, on a device")
    record_given(parser)
    parser.add_argument("--method", choices=tuple(OPTIONS), default="lora", help="training method (default: lora)")
    parser.add_argument("--output", type=Path, default=Path("build/finetune"), help="folder of the results (default: build/finetune)")
    parser.add_argument("--digit", type=int, default=8, help="held-out class to learn, 8 or 9 (default: 8)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="learn from a folder: PNG or JPEG images, each with a caption .txt")
    parser.add_argument(
        "--model",
        type=shipped_or_folder,
        metavar="DIR",
        help="a pipeline as diffusers' save_pretrained writes it, a U-Net as `pretrain` does, or `emoji`: the shipped pipeline",
    )
    parser.add_argument("--images", type=int, default=20, help="training images (default: 20)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank, any integer from 1 (default: 4)")
    parser.add_argument("--alpha", type=float, default=8.0, help="LoRA alpha; the adapter is scaled by alpha / rank (default: 8)")
    parser.add_argument("--rank-pattern", default="", metavar="NAME=R,...", help="ranks of layers whose names end in NAME")
    parser.add_argument("--alpha-pattern", default="", metavar="NAME=ALPHA,...", help="alphas of layers whose names end in NAME")
    parser.add_argument("--rslora", action="store_true", help="scale the adapter by alpha / sqrt(rank)")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (default: 200)")
    parser.add_argument("--batch", type=int, help=f"images per step (default: {usual_text('batch')})")
    parser.add_argument("--lr", type=float, help=f"learning rate (default: {usual_text('lr')})")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")
    parser.add_argument(
        "--targets", default="all", help="projections with an adapter: all, kv (cross attention's), or names with commas (default: all)"
    )
    parser.add_argument(
        "--map",
        dest="modules",
        choices=("lora", "all", "step"),
        help="what the device runs: LoRA layers, all that multiplies, or whole steps (default: lora, other methods all)",
    )
    parser.add_argument(
        "--device",
        default="reference",
        help="reference, direct, verilator, serial:<port> or pynq:<bitfile>, or fp32 for plain torch (default: reference)",
    )
    parser.add_argument(
        "--config", default="base", help=f"{', '.join(PRESETS)} or a JSON file (default: base, with --map step base-vector)"
    )
    parser.add_argument(
        "--weight-bits", type=int, choices=(8, 4), default=8, help="of frozen W on the device; 4: two to a byte (default: 8)"
    )
    parser.add_argument(
        "--rotation",
        type=int,
        default=0,
        metavar="B",
        help="rotate the channels of X, W and A in blocks of up to B: 4, 16, 64 or 256; for models with outlier channels (default: 0, not)",
    )
    parser.add_argument(
        "--adapter-scales", choices=("measured", "device", "delayed"), default="measured", help="of H and dH (default: measured)"
    )
    parser.add_argument(
        "--steps-per-submission",
        type=int,
        default=1,
        metavar="N",
        help="of --map step: steps that the device takes from one list (default: 1)",
    )
    parser.add_argument(
        "--memory-budget", type=int, metavar="BYTES", help="of --map step: device memory that a step may take (default: all)"
    )
    parser.add_argument("--samples", type=int, default=64, help="images drawn before and after (default: 64)")
    parser.add_argument("--curve-every", type=int, default=0, metavar="N", help="held-out loss and samples each N steps, for report.html")
    parser.add_argument("--verify", action="store_true", help="compare every layer with the reference bit for bit; stops at a difference")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --output, with its settings, to the same bits; --steps may be more"
    )
    parser.add_argument(
        "--start-from", type=Path, help="adapter to start from: a folder of PEFT or diffusers, or a .safetensors file, kohya's too"
    )
    parser.add_argument("--unet-only", action="store_true", help="leave out layers of text encoders that --start-from's adapter has")
    method_arguments(parser)
    pipeline_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


class Bar:
    """Progress on stderr: a rich bar where it is a terminal, a line now and then where it is not."""

    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.terminal = console.is_terminal
        self.title, self.total = title, total
        facts = TextColumn("{task.fields[facts]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), facts, TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, disable=not self.terminal)
        self.task = self.progress.add_task(title, total=total, facts="")

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, state: Progress) -> None:
        facts = []
        if state.loss is not None:
            facts.append(f"loss {state.loss:.4f}")
        if state.phase == "train":
            facts.append(f"{state.steps_per_second:.2f} steps/s")
        if state.note:
            facts.append(state.note)
        if "cycles" in state.counters:
            facts.append(f"{state.counters['cycles'] / 1e6:.2f} M {state.counters.get('cycle_unit', 'cycles')}")
        text = ", ".join(facts)
        self.progress.update(self.task, completed=state.step, facts=text, description=f"{self.title} ({state.phase})")
        if not self.terminal and (state.phase not in ("train", "prepare") or state.step % 10 == 0 or state.step == state.steps):
            output.log(f"{self.title} ({state.phase}) {state.step}/{state.steps}  {text}")


def readers() -> dict[str, Callable[[str], Any]]:
    """How an option's text becomes the setting's value, by destination, where argparse does not say."""
    from loralith.methods.settings import choose_targets

    return {
        "targets": choose_targets,
        "rank_pattern": lambda text: pattern(text, int),
        "alpha_pattern": lambda text: pattern(text, float),
    }


def settings_of(args: argparse.Namespace) -> FinetuneSettings:
    """The settings of a new run; loads no torch. Raises LoralithError for what is out of range."""
    from loralith.methods.settings import FP32, EvaluationSettings, FinetuneSettings

    options, read = options_of(args), readers()
    usual = {name: value if getattr(args, name) is None else getattr(args, name) for name, value in options.usual.items()}
    return FinetuneSettings(
        output=args.output,
        method=args.method,
        options=options,
        digit=args.digit,
        images=args.images,
        rank=args.rank,
        alpha=args.alpha,
        data=args.data,
        model=args.model,
        curve_every=args.curve_every,
        rank_pattern=read["rank_pattern"](args.rank_pattern),
        alpha_pattern=read["alpha_pattern"](args.alpha_pattern),
        rslora=args.rslora,
        steps=args.steps,
        **usual,
        seed=args.seed,
        targets=read["targets"](args.targets),
        start_from=args.start_from,
        unet_only=args.unet_only,
        device=args.device,
        config=None if args.device == FP32 else args.config if "config" in getattr(args, "given", {}) else usual_config(args.modules),
        adapter_scales=args.adapter_scales,
        weight_bits=args.weight_bits,
        rotation=args.rotation,
        verify=args.verify,
        steps_per_submission=args.steps_per_submission,
        memory_budget=args.memory_budget,
        evaluation=EvaluationSettings(samples=args.samples),
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the run is finished; an interrupted one can be resumed."""
    from loralith.cli.pipeline import is_pipeline_run, run_pipeline

    if is_pipeline_run(args):
        return run_pipeline(args, Bar)
    from loralith.device import open_device
    from loralith.formats.run_folder import check_folder
    from loralith.methods.settings import FP32
    from loralith.progress import stop_on_interrupt
    from loralith.training.attaching import attacher
    from loralith.training.loop import finetune
    from loralith.training.sizes import check_sizes

    settings = (resumed(args, readers()) if args.resume else None) or settings_of(args)
    check_folder(settings.output, resume=args.resume)
    check_sizes(settings)
    origin = provenance(run_command(settings, args.parser), on_rtl=settings.device == "verilator")
    name = settings.data.name if settings.data else f"digit {settings.digit}"
    with output.plain_warnings(), ExitStack() as stack:
        attach = None
        if settings.device != FP32:
            assert settings.config is not None
            attach = attacher(stack.enter_context(open_device(settings.device, settings.config)), settings.verify)
        stop = stack.enter_context(stop_on_interrupt())  # after the device: Ctrl-C ends its build at once
        bar = stack.enter_context(Bar(f"{name} on {settings.device}", settings.steps))
        result = finetune(settings, attach, bar, stop, resume=args.resume, origin=origin)
    summary = summarize(result.report, result.folder)
    if args.json:
        output.emit_json(summary)
    else:
        print_summary(summary)
    return 0


def summarize(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the command prints: figures of report.json and where the files are."""
    counters = report["counters"]
    return {
        "method": report["method"],
        "loss": report["losses"],
        "held_out_loss": report["held_out_loss"],
        "sample_accuracy": report["sample_accuracy"],
        "bit_exact": counters.get("bit_exact"),
        "elements_compared": counters.get("elements_compared"),
        "cycles": counters.get("cycles"),
        "cycle_unit": counters.get("cycle_unit"),
        "macs": counters.get("macs"),
        "utilization": counters.get("utilization"),
        "seconds": report["seconds"],
        **{name: counters[name] for name in STEP_FIGURES if name in counters},
        **({"prepared": report["prepared"]} if "prepared" in report else {}),
        "adapter": str(folder / report["result"]),
        "picture": str(folder / "samples.png"),
        "report": str(folder / "report.json"),
        "page": str(folder / "report.html"),
    }


def print_summary(summary: dict[str, Any]) -> None:
    held, accuracy = summary["held_out_loss"], summary["sample_accuracy"]
    rows: list[tuple[str, str]] = [
        ("held-out loss", f"{held['before']:.4f} -> {held['after']:.4f}"),
    ]
    if accuracy["after"] is not None:
        rows.append(("samples recognized as the new digit", f"{accuracy['before']:.0%} -> {accuracy['after']:.0%}"))
    if summary["cycles"] is not None:
        unit = summary["cycle_unit"] or "cycles"
        rows += [(unit, f"{summary['cycles']:,}"), (UTILIZATION[unit], f"{summary['utilization']:.1%}")]
    if summary["bit_exact"] is not None:
        exact = "yes" if summary["bit_exact"] else "no"
        rows.append(("bit-exact with the reference", f"{exact}, {summary['elements_compared']:,} elements"))
    rows += [("adapter", summary["adapter"]), ("picture", summary["picture"]), ("report", summary["page"])]
    output.table("Fine-tune", ("", ""), rows)
