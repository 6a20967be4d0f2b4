"""`loralith bench unet`: what a step of a whole U-Net costs attached to `direct`, in time and memory, beside torch in FP32."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.reports import result_files as results

HELP = "time and memory of a step of SD-1.5's whole U-Net on direct, beside torch's FP32"
TITLE = "A step of SD-1.5's whole U-Net on the CPU"
SUFFIXES = (".json", ".md")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=("sd15", "tiny"), default="sd15", help="U-Net with random weights (default: sd15)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank of to_q, to_k, to_v and to_out (default: 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of numpy's BLAS (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each mode, in turns (default: 3)")
    parser.add_argument("--steps", type=int, default=1, help="steps of a run after the first one (default: 1)")
    parser.add_argument("--originals", type=Path, metavar="FOLDER", help="attached models keep their FP32 weights in a file there")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep each run in FILE, and go on from there")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `loralith.mapping.unet_time`. Raises LoralithError for numbers below 1."""
    for name in ("rank", "threads", "rounds", "steps"):
        if getattr(args, name) < 1:
            raise LoralithError(f"--{name} must be at least 1, not {getattr(args, name)}")
    from loralith.mapping.unet_time import figures

    if args.originals is not None and not args.originals.is_dir():
        raise LoralithError(f"--originals must be a folder that is there, not {args.originals}")
    found = figures(args.model, args.rank, args.threads, args.rounds, args.steps, args.state, output.log, args.originals)
    if args.output:
        command = f"loralith bench unet --rounds {args.rounds} --steps {args.steps} --threads {args.threads}"
        command += f" --originals {args.originals}" if args.originals else ""
        results.write(args.output, TITLE, command, found, page(found), on_rtl=False)
    return found


def page(found: dict[str, Any]) -> list[str]:
    """What the result's page says."""
    lines = [
        f"{found['model']}, batch 1, random weights, LoRA of rank {found['rank']} on the attention projections; forward and backward "
        f"pass, no optimizer. {found['threads']} threads of {found['cpu']}. Median of {found['rounds']} runs of each mode in turns, each a "
        f"process of its own, {found['steps']} steps after the first one; memory is the process's peak, weights and torch included; "
        f"FP32 weights of attached models are in {'memory' if found['originals'] == 'memory' else 'a file'}.",
        "",
        "| | seconds | of torch's | CPU seconds | of torch's | peak of memory, GB |",
        "|---|---|---|---|---|---|",
    ]
    names = {"torch": "torch, FP32", "lora": '`direct`, `modules="lora"`', "all": '`direct`, `modules="all"`'}
    for mode, name in names.items():
        times = [
            f"{found[f'{mode}_{what}']:.2f} | {1 if mode == 'torch' else found[f'{mode}_{what}_over_torch']}"
            for what in ("seconds", "cpu_seconds")
        ]
        lines.append(f"| {name} | {' | '.join(times)} | {found[f'{mode}_peak_gb']:.2f} |")
    return lines
