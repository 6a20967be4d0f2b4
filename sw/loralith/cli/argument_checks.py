"""What a command line may say, checked before anything heavy is imported: ranges, names, and options that would do nothing.

An option that another one makes meaningless is refused: a user who writes it expects it to do something.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from loralith.cli import bring_up, finetune, flash, sim_board
from loralith.cli.pipeline import check_pipeline, is_pipeline_run
from loralith.cli.pipeline_options import refuse_without_pipeline
from loralith.diffusion.published import find_model
from loralith.errors import LoralithError
from loralith.files import check_output_folder
from loralith.formats.run_folder import check_folder
from loralith.methods.options import OPTIONS
from loralith.methods.settings import FinetuneSettings, choose_targets
from loralith.places import checkout
from loralith.spec.config import load_config
from loralith.study.schemes import scheme_named
from loralith.toolchain import MIN_PYTHON

__all__ = ["FP32", "check"]

FP32 = "fp32"
"""The name of no device: plain torch."""

MINIMUM = {
    **dict.fromkeys(
        ("steps", "rank", "batch", "images", "samples", "products", "size", "vector", "repeat", "seeds", "rows", "cols", "first", "kills"),
        1,
    ),
    **dict.fromkeys(("seed", "curve_every"), 0),
}
"""Whole numbers, by destination, and the least that each may be."""
ABOVE_ZERO = ("seconds", "timeout", "alpha", "lr")
"""Real numbers that must be above 0."""


def check(args: argparse.Namespace) -> None:
    """Raises LoralithError (ConfigError for a configuration) that names the option, its value and what would be right."""
    for name, value in vars(args).items():
        if name in MINIMUM and isinstance(value, int) and value < MINIMUM[name]:
            raise LoralithError(f"{name.replace('_', '-')} must be at least {MINIMUM[name]}, not {value}")
        if name in ABOVE_ZERO and isinstance(value, float) and not (0 < value < math.inf):
            raise LoralithError(f"{name} must be above 0 and finite, not {value:g}")
    if getattr(args, "device", None) is not None:
        _device(args)
    if sys.version_info < MIN_PYTHON and (args.command in ("synth", "mutate") or getattr(args, "what", None) == "area"):
        wanted, here = (".".join(map(str, version)) for version in (MIN_PYTHON, sys.version_info[:2]))
        raise LoralithError(f"{args.command} needs Python {wanted}, and this is {here}, on which only a board's part runs")
    if getattr(args, "publish", False) and checkout() is None:
        raise LoralithError("--publish writes docs/results of a checkout, and this is an installed package; leave it out")
    if isinstance(getattr(args, "targets", None), str) and not (args.command == "finetune" and is_pipeline_run(args)):
        choose_targets(args.targets)
    own = OF_COMMANDS.get(args.command)
    if own:
        own(args)
    config = getattr(args, "config", None)
    if config is not None and not (config == "none" and args.command == "report"):
        load_config(config)


def _device(args: argparse.Namespace) -> None:
    from loralith.device import DEVICES, is_device

    takes_fp32 = args.command == "finetune" or (args.command == "bench" and args.what == "methods")
    several = args.command == "bench" and args.what == "attach"
    for name in [part.strip() for part in args.device.split(",")] if several else [args.device]:
        if not is_device(name) and not (takes_fp32 and name == FP32):
            raise LoralithError(f"device must be {DEVICES}{', or fp32 for plain torch' if takes_fp32 else ''}, not {name!r}")


def _refuse_unused(args: argparse.Namespace, names: str, why: str) -> None:
    """Raises LoralithError for the first of `names` that has another value than its default."""
    for name in names.split():
        if getattr(args, name) != args.parser.get_default(name):
            raise LoralithError(f"--{name.replace('_', '-')} does nothing {why}; leave it out")


def _finetune(args: argparse.Namespace) -> None:
    if is_pipeline_run(args):
        check_pipeline(args)
        return
    refuse_without_pipeline(args)
    if args.device == FP32:
        _refuse_unused(args, "verify config", "with --device fp32, which trains in plain torch")
    if args.data is not None:
        _refuse_unused(args, "digit images", "with --data, whose images are learned instead")
    if not OPTIONS[args.method].adapter:
        adapter = "rank alpha targets rank_pattern alpha_pattern rslora"
        _refuse_unused(args, adapter, f"with --method {args.method}, which trains no adapter")
    paths = {"data": (Path.is_dir, "a folder"), "model": (Path.is_dir, "a folder"), "start_from": (Path.exists, "there")}
    for name, (is_right, what) in paths.items():
        path = getattr(args, name)
        if path is not None and not is_right(path):
            raise LoralithError(f"{name.replace('_', '-')} {path} is not {what}")
    if not args.resume:  # a resumed run's settings are the checkpoint's
        finetune.settings_of(args)
    check_folder(args.output, resume=args.resume)


def _sim(args: argparse.Namespace) -> None:
    FinetuneSettings(output=args.output, digit=args.digit, rank=args.rank, seed=args.seed)
    check_output_folder(args.output)


def _sim_board(args: argparse.Namespace) -> None:
    sim_board.check(args)
    if args.listen:
        _refuse_unused(args, "output map steps batch targets digit rank seed", "with --listen, which trains nothing")
    else:
        sim_board.settings_of(args)
        check_output_folder(args.output)


def _pretrain(args: argparse.Namespace) -> None:
    check_output_folder(args.output)


def _emoji(args: argparse.Namespace) -> None:
    for name in ("count", "columns"):
        if getattr(args, name, 1) < 1:
            raise LoralithError(f"{name} must be at least 1, not {getattr(args, name)}")
    if args.what == "measure":
        if (args.pictures is None) != (args.references is None):
            raise LoralithError("--pictures and --references compare two folders; give both or neither")
        if (args.pipeline is None) == (args.pictures is None):
            raise LoralithError("give --pipeline, or --pictures with --references")
        if args.pictures is not None:
            _refuse_unused_of(args, {"count": 256, "steps": 25, "guidance": 3.0, "seed": 0}, "with --pictures, which are there already")


def _refuse_unused_of(args: argparse.Namespace, defaults: dict[str, float], why: str) -> None:
    """`_refuse_unused` for a command with subcommands, whose parser knows no defaults of theirs."""
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise LoralithError(f"--{name} does nothing {why}; leave it out")


def _adapter(args: argparse.Namespace) -> None:
    _model(args, transformers=True)
    if args.output:
        check_output_folder(args.output)


def _plan(args: argparse.Namespace) -> None:
    _model(args, transformers=args.map != "step")


def _model(args: argparse.Namespace, *, transformers: bool = False) -> None:
    if args.model != "small":  # whose configuration lies beside torch
        find_model(args.model, transformers=transformers)


def _bench(args: argparse.Namespace) -> None:
    if args.what == "methods" and args.device == FP32 and args.config != "paper":
        raise LoralithError("--config does nothing with --device fp32, which trains in plain torch; leave it out")
    if args.what == "methods":
        check_output_folder(args.output)
    if args.what == "shapes" and args.dataflow == "fixed-os" and args.modelled:
        raise LoralithError("--modelled does nothing with --dataflow fixed-os, which is a closed form and runs nothing; leave it out")


def _study(args: argparse.Namespace) -> None:
    if args.results:
        _refuse_unused(
            args, "output schemes seeds steps samples publish finished seed device config", "with --results, which computes nothing"
        )
    elif args.rerun:
        _refuse_unused(args, "output schemes seeds samples publish finished", "with --rerun, which computes one point as it was")
    else:
        _refuse_unused(args, "seed", "without --rerun: a study takes seeds 0 to --seeds less 1")
    if args.finished:
        _refuse_unused(args, "device config", "with --finished, which computes nothing")
    for name in args.schemes.split(",") if args.schemes else ([args.rerun] if args.rerun else []):
        scheme_named(name)
    if not args.results and not args.rerun:
        check_output_folder(args.output)
    if args.device is None:
        _refuse_unused(args, "config", "without --device: the torch reference has no configuration")


def _soak(args: argparse.Namespace) -> None:
    if args.replay:
        _refuse_unused(
            args, "products seed stall output commands seconds configs state failure kills", "with --replay, which runs one case"
        )
    elif args.kills is not None:
        _refuse_unused(args, "products stall commands configs failure lists vector", "with --kills, which kills fine-tunes")
    elif args.vector is not None:
        _refuse_unused(
            args, "products stall output commands seconds configs failure lists config device", "with --vector, which runs lanes alone"
        )
    elif args.lists:
        _refuse_unused(args, "products stall", "with --lists, whose cases have stalls of their own")
    else:
        _refuse_unused(args, "commands seconds configs failure", "without --lists")
    if args.device not in (None, "verilator"):
        _refuse_unused(args, "stall", "but with --device verilator, the only one with a bus")
    if not 0 <= args.stall < 1:
        raise LoralithError(f"stall must be a probability of at least 0 and below 1, not {args.stall:g}")


def _mutate(args: argparse.Namespace) -> None:
    if args.list:
        _refuse_unused(args, "stages output fresh", "with --list, which runs nothing")
    if args.plans:
        _refuse_unused(args, "catalogue list only", "with --plans, which draws mutants instead")
    else:
        _refuse_unused(args, "count seed config known", "without --plans")


def _lanes(args: argparse.Namespace) -> None:
    if args.lanes < 2 or args.lanes % 2:
        raise LoralithError(f"lanes must be an even number of at least 2, not {args.lanes}")


def _report(args: argparse.Namespace) -> None:
    if args.what == "vector":
        _lanes(args)
    if args.what == "energy":
        from loralith.energy import nodes

        for node in args.node or ():
            if node not in nodes():
                raise LoralithError(f"node must be one of {', '.join(nodes())}, not {node!r}")


def _synth(args: argparse.Namespace) -> None:
    from loralith.synth import FLOWS, load_board

    if args.part == "smoke":
        _refuse_unused(args, "config", "with --part smoke, which has a configuration of its own")
    board = load_board(args.board)
    if not FLOWS[board.tool].places:
        why = f"with --board {args.board}: its counts are Yosys's estimate, and Vivado places it (docs/fpga.md)"
        _refuse_unused(args, "place_only seed seeds frequency", why)
    if args.frequency is not None and not 1 <= args.frequency <= 1000:
        raise LoralithError(f"frequency must be in 1..1000 MHz, not {args.frequency:g}")
    if args.synth_only:
        _refuse_unused(args, "seed seeds frequency", "with --synth-only, which places nothing")


def _gen(args: argparse.Namespace) -> None:
    if args.check and args.action not in (None, "all", "check"):
        raise LoralithError(f"--check compares committed texts and does nothing with `gen {args.action}`; leave one of them out")
    checks = args.check or args.action == "check"
    if args.action == "lanes":
        _lanes(args)
    without = {
        "baseline": "`gen baseline`, whose arrays have --rows, --cols and --format",
        "lanes": "`gen lanes`, which has --lanes",
    }
    what = "a check, which looks at no Verilog" if checks else without.get(args.action or "")
    if what and args.config != "base":
        raise LoralithError(f"--config does nothing with {what}; leave it out")


OF_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "finetune": _finetune,
    "plan": _plan,
    "adapter": _adapter,
    "sim": _sim,
    "sim-board": _sim_board,
    "bring-up": bring_up.check,
    "flash": flash.check,
    "pretrain": _pretrain,
    "emoji": _emoji,
    "bench": _bench,
    "study": _study,
    "soak": _soak,
    "mutate": _mutate,
    "report": _report,
    "synth": _synth,
    "gen": _gen,
}
