"""`loralith sim`: the whole path once. A short fine-tune on the Verilated RTL, every layer checked, beside FP32 from the same seeds."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.cli.finetune import Bar
from loralith.reports.result_files import provenance

MOST_STEPS = 200
RECOGNIZED_FROM = 30
"""Steps from which on samples say something: of 40 in FP32 with the default settings 10 % are recognized after 15, 28 % after 30."""


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("sim", help="fine-tune on the simulated hardware for a while, verify it, compare with FP32")
    parser.add_argument("--output", type=Path, default=Path("build/sim"), help="folder of the results, made anew (default: build/sim)")
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=70.0, help="about how long to train on the device (default: 70)")
    length.add_argument("--steps", type=int, help="steps instead; by default as many as --seconds allow")
    parser.add_argument("--digit", type=int, default=8, help="held-out class to learn, 8 or 9 (default: 8)")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from loralith.device import open_device
    from loralith.formats.run_folder import clear_folders
    from loralith.methods.settings import FP32, EvaluationSettings, FinetuneSettings
    from loralith.progress import stop_on_interrupt
    from loralith.training.attaching import attacher
    from loralith.training.loop import finetune, seconds_per_step
    from loralith.training.sizes import check_sizes

    started = time.monotonic()
    settings = FinetuneSettings(
        output=args.output / "rtl",
        digit=args.digit,
        rank=args.rank,
        seed=args.seed,
        steps=1 if args.steps is None else args.steps,
        device="verilator",
        config=args.config,
        verify=True,
        checkpoint_every=MOST_STEPS,
        evaluation=EvaluationSettings(rounds=8, samples=40),
    )
    check_sizes(settings)
    clear_folders(args.output / "rtl", args.output / "fp32")
    output.log(f"building or loading the Verilated {args.config} configuration")
    with open_device("verilator", args.config) as device, stop_on_interrupt() as stop:  # Ctrl-C ends a build at once
        attach = attacher(device, verify=True)
        if args.steps is None:
            each = seconds_per_step(settings, attach)
            settings = replace(settings, steps=max(1, min(MOST_STEPS, int(args.seconds / each))))
            output.log(f"{each:.2f} s per step: {settings.steps} steps")
        with Bar(f"digit {args.digit} on RTL", settings.steps) as bar:
            rtl = finetune(settings, attach, bar, stop, origin=provenance(_command(args, settings.steps)))
        plain = replace(settings, output=args.output / "fp32", device=FP32, config=None, verify=False)
        with Bar(f"digit {args.digit} in FP32", settings.steps) as bar:
            fp32 = finetune(plain, None, bar, stop, origin=provenance(_command(args, settings.steps), on_rtl=False))
    result = summarize(rtl.report, fp32.report, args, settings.steps, time.monotonic() - started)
    if args.json:
        output.emit_json(result)
    else:
        print_summary(result)
    return 0


def _command(args: argparse.Namespace, steps: int) -> str:
    """What repeats the run, whatever this machine's speed."""
    return f"loralith sim --config {args.config} --steps {steps} --digit {args.digit} --rank {args.rank} --seed {args.seed}"


def summarize(rtl: dict[str, Any], fp32: dict[str, Any], args: argparse.Namespace, steps: int, seconds: float) -> dict[str, Any]:
    counters = rtl["counters"]
    return {
        "config": args.config,
        "steps": steps,
        "held_out_loss": {
            "before": rtl["held_out_loss"]["before"],
            "rtl": rtl["held_out_loss"]["after"],
            "fp32": fp32["held_out_loss"]["after"],
        },
        "sample_accuracy": {
            "before": rtl["sample_accuracy"]["before"],
            "rtl": rtl["sample_accuracy"]["after"],
            "fp32": fp32["sample_accuracy"]["after"],
        },
        "bit_exact": counters["bit_exact"],
        "elements_compared": counters["elements_compared"],
        "cycles": counters["cycles"],
        "macs": counters["macs"],
        "utilization": counters["utilization"],
        "seconds": round(seconds, 1),
        "picture": str(args.output / "rtl" / "samples.png"),
        "adapter": str(args.output / "rtl" / "adapter_model.safetensors"),
    }


def print_summary(result: dict[str, Any]) -> None:
    loss, accuracy, steps = result["held_out_loss"], result["sample_accuracy"], result["steps"]
    exact = "yes" if result["bit_exact"] else "no"
    rows = [
        ("held-out loss, the same noise each time", *(f"{loss[k]:.4f}" for k in ("before", "rtl", "fp32"))),
        ("change", "", *(f"{loss[k] / loss['before'] - 1:+.1%}" for k in ("rtl", "fp32"))),
    ]
    if steps >= RECOGNIZED_FROM:
        rows.append(("samples recognized as the new digit", *(f"{accuracy[k]:.0%}" for k in ("before", "rtl", "fp32"))))
    output.table(
        f"{steps} steps of LoRA fine-tuning on the Verilated RTL ({result['config']})", ("", "before", "RTL, INT8", "torch, FP32"), rows
    )
    if steps < RECOGNIZED_FROM:
        print(
            f"The loss falls from the first steps on; which samples are recognized says little before some {RECOGNIZED_FROM} steps,"
            f" and most are after {MOST_STEPS}."
        )
    output.table(
        "The machine",
        ("", ""),
        [
            ("bit-exact with the reference", f"{exact}, {result['elements_compared']:,} elements compared"),
            ("cycles", f"{result['cycles']:,}"),
            ("array utilization, layer by layer", f"{result['utilization']:.1%}"),
            ("picture", result["picture"]),
            ("adapter", result["adapter"]),
            ("seconds", str(result["seconds"])),
        ],
    )
