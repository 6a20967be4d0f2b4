"""`loralith finetune` for a pipeline of diffusers: its settings, a resumed run's, and what it prints."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output
from loralith.cli.patterns import pattern
from loralith.cli.pipeline_options import FIELDS, option_of
from loralith.emoji.shipped import name_of
from loralith.errors import LoralithError
from loralith.formats.run_folder import PIPELINE_CHECKPOINT, check_folder
from loralith.pipeline.model_folder import ModelFolder, is_pipeline
from loralith.pipeline.settings import ADAPTERS, PipelineSettings
from loralith.reports.result_files import provenance

if TYPE_CHECKING:
    from loralith.training.loop import Progress

__all__ = ["check_pipeline", "command_of", "is_pipeline_run", "pipeline_settings", "run_pipeline"]

FP32 = "fp32"
DEVICE, CONFIG = "direct", "base"
LEARNING_RATES = {"lora": 1e-4, "hollowed-net": 1e-4, "tuneqdm": 1e-2, "zoodip": 5e-3}
MAY_CHANGE = ("steps", "verify", "validate_every", "cache", "originals", "model", "data", "class_data")
"""Of a resumed run; of folders the content is compared."""
NO_SETTINGS = ("output", "resume", "json")


def is_pipeline_run(args: argparse.Namespace) -> bool:
    """Whether `loralith finetune` is asked for a pipeline: by its model, or by the run that it goes on with."""
    return is_pipeline(args.model) or (args.resume and (args.output / PIPELINE_CHECKPOINT).is_file())


def check_pipeline(args: argparse.Namespace) -> None:
    """Before torch is loaded: raises LoralithError for what a pipeline does not have, and for folders that are not what they should be."""
    for dest, option in args.given.items():
        if dest not in FIELDS and dest not in NO_SETTINGS:
            raise LoralithError(f"{option} is not a setting of a pipeline's fine-tune; leave it out")
    if not args.resume:
        settings = pipeline_settings(args)
        if not settings.data.is_dir():
            raise LoralithError(f"data {settings.data} is not a folder")
        if settings.originals is not None and not settings.originals.is_dir():
            raise LoralithError(f"originals {settings.originals} is not a folder; give one on a disk with room for the weights")
        folder = ModelFolder.read(settings.model)
        if settings.method == "zoodip" and not folder.entry.textual_inversion:
            raise LoralithError(
                f"--method zoodip is for pipelines whose load_textual_inversion reads one embedding; a {folder.kind} is none"
            )
    check_folder(args.output, resume=args.resume)


def pipeline_settings(args: argparse.Namespace) -> PipelineSettings:
    """The settings of a new run; loads no torch. Raises LoralithError."""
    given: dict[str, Any] = {dest: getattr(args, dest) for dest in args.given if dest in FIELDS}
    if "data" not in given:
        raise LoralithError("a pipeline learns from pictures: give their folder as --data")
    given["output"] = args.output
    given.setdefault("device", DEVICE)
    if given["device"] != FP32:
        given.setdefault("config", CONFIG)
    given.setdefault("lr", LEARNING_RATES[args.method])
    given.setdefault("modules", _modules(args.method, given["device"]))
    for name, read in (("rank_pattern", int), ("alpha_pattern", float)):
        if name in given:
            given[name] = pattern(given[name], read)
    if "targets" in given:
        given["targets"] = tuple(filter(None, given["targets"].split(",")))
    if "validation_prompts" in given:
        given["validation_prompts"] = tuple(given["validation_prompts"])
    return PipelineSettings(**given)


def _modules(method: str, device: str) -> str:
    """What a device runs by default."""
    return "lora" if method in ADAPTERS or device == FP32 else "all"


def _resumed(args: argparse.Namespace) -> PipelineSettings:
    """The settings of the run in the output folder, with what the command line may change of them. Raises CheckpointError."""
    from loralith.formats.checkpoint import CheckpointError, read_header

    stored = PipelineSettings.from_record(args.output, read_header(args.output / PIPELINE_CHECKPOINT)["extra"]["settings"])
    given = {dest: option for dest, option in args.given.items() if dest in FIELDS and dest not in NO_SETTINGS}
    if not given:
        return stored
    defaults = {"model": stored.model, "data": stored.data, "device": stored.device, "config": stored.config, "method": stored.method}
    for name, value in defaults.items():
        if name not in given:
            setattr(args, name, value)
    args.given = {**args.given, **{name: "" for name, value in defaults.items() if name not in given and value is not None}}
    asked = pipeline_settings(args)
    changes: dict[str, Any] = {}
    for dest, option in given.items():
        there, here = getattr(stored, dest), getattr(asked, dest)
        if dest in MAY_CHANGE:
            changes[dest] = here
        elif there != here:
            raise CheckpointError(f"{option} {here} contradicts the run in {args.output}, which has {there}; leave it out")
    return replace(stored, **changes)


def command_of(settings: PipelineSettings) -> str:
    """The command that repeats a run; what is as usual is left out."""
    usual = {own.name: own.default for own in fields(settings)} | {"device": DEVICE}
    usual["config"] = CONFIG if settings.device != FP32 else None
    usual |= {"lr": LEARNING_RATES[settings.method], "modules": _modules(settings.method, settings.device)}
    words = ["loralith", "finetune"]
    for name in FIELDS:
        value = getattr(settings, name)
        if value == usual[name] or (isinstance(value, dict | tuple) and not value):
            continue
        option = option_of(name)
        if isinstance(value, bool):
            words.append(option)
        elif name == "model":
            words += [option, name_of(settings.model)]
        elif name == "validation_prompts":
            words += [word for prompt in value for word in (option, prompt)]
        elif isinstance(value, dict):
            words += [option, ",".join(f"{key}={own}" for key, own in value.items())]
        else:
            words += [option, ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def run_pipeline(args: argparse.Namespace, bar: Callable[[str, int], Any]) -> int:
    """Returns 0 when the run is finished. ``bar``: makes what shows progress, of a title and a number of steps."""
    from loralith.device import open_device
    from loralith.pipeline.finetune import attacher, finetune_pipeline
    from loralith.progress import stop_on_interrupt

    settings = _resumed(args) if args.resume else pipeline_settings(args)
    origin = provenance(command_of(settings), on_rtl=settings.device == "verilator")
    with output.plain_warnings(), ExitStack() as stack:
        attach = None
        if settings.device != FP32:
            assert settings.config is not None
            attach = attacher(stack.enter_context(open_device(settings.device, settings.config)))
        stop = stack.enter_context(stop_on_interrupt())
        show: Callable[[Progress], None] = stack.enter_context(bar(f"{settings.data.name} on {settings.device}", settings.steps))
        result = finetune_pipeline(settings, attach, show, stop, resume=args.resume, origin=origin)
    summary = summarize(result.report, result.folder)
    if args.json:
        output.emit_json(summary)
    else:
        _print(summary)
    return 0


def summarize(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the command prints: figures of report.json and where the files are."""
    counters = report["counters"]
    figures = {name: report[name] for name in ("method", "pipeline", "denoiser", "objective", "resolution", "pictures", "trained")}
    return {
        **figures,
        "loss": report["losses"],
        **{name: counters.get(name) for name in ("bit_exact", "elements_compared", "cycles", "cycle_unit", "macs", "utilization")},
        "seconds": report["seconds"],
        "result": str(folder / report["result"]),
        "files": [str(folder / name) for name in report["files"]],
        "report": str(folder / "report.json"),
        "page": str(folder / "report.html"),
    }


def _print(summary: dict[str, Any]) -> None:
    loss = summary["loss"]
    rows = [
        ("pipeline", f"{summary['pipeline']}, {summary['objective']}, {summary['pictures']} pictures at {summary['resolution']} pixels"),
        ("method", f"{summary['method']}, {summary['trained']:,} values trained"),
        ("loss", f"{loss[0]:.4f} -> {loss[-1]:.4f} in {len(loss)} steps"),
    ]
    if summary["cycles"] is not None:
        rows.append((summary["cycle_unit"] or "cycles", f"{summary['cycles']:,}"))
    if summary["bit_exact"] is not None:
        rows.append(
            ("bit-exact with the reference", f"{'yes' if summary['bit_exact'] else 'no'}, {summary['elements_compared']:,} elements")
        )
    rows += [("written", path) for path in summary["files"]]
    rows.append(("report", summary["page"]))
    output.table("Fine-tune", ("", ""), rows)
