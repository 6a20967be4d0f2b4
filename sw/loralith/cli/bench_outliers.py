"""`loralith bench outliers`: what a few large channels cost INT8, and what their rotation gives back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.reports import result_files as results

HELP = "channels of large values: INT8 with and without a rotation, beside FP32"
TITLE = "Channels of large values, rotated and not"
SUFFIXES = (".json", ".md")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 (default: 5)")
    parser.add_argument("--steps", type=int, default=80, help="training steps (default: 80)")
    parser.add_argument("--rotation", type=int, default=256, metavar="B", help="largest block: 4, 16, 64 or 256 (default: 256)")
    parser.add_argument(
        "--own-gain", type=float, default=0.2, metavar="G", help="gain of the eight channels before it is multiplied by 50 (default: 0.2)"
    )
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep each seed in FILE, and go on from there")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `loralith.study.outliers`. Raises LoralithError for numbers below 1 and for another rotation."""
    from loralith.spec.scheme import FQT, SchemeError

    for name in ("seeds", "steps"):
        if getattr(args, name) < 1:
            raise LoralithError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if not 0 < args.own_gain <= 100:
        raise LoralithError(f"--own-gain must be above 0 and at most 100, not {args.own_gain:g}")
    try:
        scheme = FQT(rotation=args.rotation)
    except SchemeError as error:
        raise LoralithError(str(error)) from None
    if not scheme.rotation:
        raise LoralithError("--rotation must be 4, 16, 64 or 256, not 0: INT8 without one is measured too")
    from loralith.study.outliers import measure as measured

    found = measured(args.seeds, args.steps, args.rotation, output.log, args.state, args.own_gain)
    if args.output:
        command = (
            f"loralith bench outliers --seeds {args.seeds} --steps {args.steps} --rotation {args.rotation} --own-gain {args.own_gain:g}"
        )
        results.write(args.output, TITLE, command, found, page(found), on_rtl=False)
    return found


def page(found: dict[str, Any]) -> list[str]:
    """What the result's page says."""
    from loralith.study import outliers as task

    lines = [
        f"A transformer block of {task.WIDTH} channels with random frozen weights. In each of its two norms {task.OUTLIERS} channels have "
        f"a gain of {found['own_gain']:g}, which is multiplied by {task.GAIN:g}; the columns of the layers that read them (to_q, to_k, "
        f"to_v, and the feed-forward network's first) are divided by {task.GAIN:g}: in exact arithmetic nothing changes.",
        f"LoRA of rank {task.RANK} on every linear layer is trained for {found['steps']} steps of Adam to make its outputs those of "
        "the same block with a hidden adapter, with the same draws in FP32, in INT8, and in INT8 with a rotation of blocks of up to "
        f"{found['rotation']} channels ([numerics](../numerics.md), section 1).",
        "Error: the norm of Y - X W^T over that of X W^T before training, the median over the layers that read a norm. Loss: held out, in "
        "the arithmetic that trained; in brackets, of the same adapter in FP32.",
        "",
        "| seed | error without the gains | INT8 | rotated | loss before | FP32, trained | INT8 | rotated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        errors = " | ".join(f"{row[f'error_{name}']:.4f}" for name in ("without", "int8", "rotated"))
        losses = " | ".join(f"{row[f'off_{name}']:+.2%} ({row[f'off_fp32_{name}']:+.2%})" for name in ("int8", "rotated"))
        lines.append(f"| {row['seed']} | {errors} | {row['loss_before']:.5f} | {row['loss_fp32']:.5f} | {losses} |")
    verdict = "holds" if found["passes"] else "does not hold"
    lines += [
        "",
        f"Asked for: rotated is within {found['bound']:.0%} of FP32's loss for every seed, and INT8 without a rotation is not for "
        f"any. It {verdict}: rotated differs by at most {found['worst_rotated']:.2%}, INT8 by at least {found['least_int8']:.2%}.",
    ]
    return lines


def show(figures: dict[str, Any]) -> None:
    """The table that people read."""
    columns = ["seed", "error without gains", "INT8", "rotated", "FP32 loss", "INT8", "rotated"]
    rows = [
        [row["seed"], *(f"{row[f'error_{name}']:.4f}" for name in ("without", "int8", "rotated")), f"{row['loss_fp32']:.5f}"]
        + [f"{row[f'off_{name}']:+.2%}" for name in ("int8", "rotated")]
        for row in figures["rows"]
    ]
    output.table(f"Channels of large values, rotation {figures['rotation']}", columns, rows)
    print(page(figures)[-1])
