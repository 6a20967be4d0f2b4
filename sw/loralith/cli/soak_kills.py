"""`loralith soak --kills N`: fine-tunes that are killed at random points and resumed, compared with runs that nobody kills."""

from __future__ import annotations

import argparse

from loralith.cli import output
from loralith.places import builds
from loralith.reports import result_files as results

__all__ = ["DEVICE", "register", "run"]

DEVICE = "direct"
"""The device of these runs where none is given: the quickest one."""


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kills", type=int, metavar="N", help="kill and resume N fine-tunes in place of products; see --state and --seconds"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 1 where a resumed run has other bits than one that nobody killed."""
    from loralith.training.kills.campaign import KillCampaign
    from loralith.training.kills.kills_report import TITLE, page

    if args.output:
        results.check(args.output / "kills", output.config_files(args))
    campaign = KillCampaign(builds() / "kills", args.device or DEVICE, args.config, args.seed, args.state)
    result = campaign.result
    output.log(f"seed {result['seed']}")
    difference = campaign.run(args.kills, args.seconds, output.log)
    if args.output:
        command = f"loralith soak --kills {result['kills']} --seed {result['seed']} --config {args.config} --device {result['device']}"
        results.write(args.output / "kills", TITLE, command, result, page(result), on_rtl=result["device"] == "verilator")
    if args.json:
        output.emit_json(result)
    elif difference is None:
        print(f"{result['kills']} kills in {result['runs']} runs, {result['equal']} resumed to equal bits (seed {result['seed']})")
    else:
        print(difference)
    return 0 if difference is None else 1
