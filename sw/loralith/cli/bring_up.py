"""`loralith bring-up`: test a board on a serial port from its link to a training step."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from loralith.cli import output
from loralith.errors import LoralithError

if TYPE_CHECKING:
    from loralith.board.bring_up import Outcome

DEVICE = "serial:/dev/ttyUSB0"


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("bring-up", help="test a board: link, clock, memory, identity, a self-test list, a training step")
    parser.add_argument("--device", default=DEVICE, help=f"serial:<port> (default: {DEVICE})")
    parser.add_argument("--config", default="tiny", help="preset or JSON file of the bitstream (default: tiny)")
    parser.add_argument("--patience", type=float, default=5.0, metavar="SECONDS", help="without a sign of the board (default: 5)")
    parser.add_argument(
        "--march-bytes", type=int, metavar="N", help="of memory that the march covers (default: all; of a simulated board 16,384)"
    )
    parser.set_defaults(run=run)


def check(args: argparse.Namespace) -> None:
    """Raises LoralithError."""
    if not args.device.startswith("serial:"):
        raise LoralithError(f"device must be serial:<port>, the board's, not {args.device!r}")
    if not 0.1 <= args.patience <= 3600:
        raise LoralithError(f"patience must be in 0.1..3600 s, not {args.patience:g}")
    if args.march_bytes is not None and (args.march_bytes < 4 or args.march_bytes % 4):
        raise LoralithError(f"march-bytes must be a multiple of 4 above 0, not {args.march_bytes}")


def run(args: argparse.Namespace) -> int:
    """Returns 1 where a check fails."""
    from loralith.board.bring_up import BringUp
    from loralith.spec.config import load_config

    path = args.device.partition(":")[2]
    outcomes = BringUp(load_config(args.config), path, patience=args.patience, march_bytes=args.march_bytes).run(_tell)
    ok = all(outcome.ok for outcome in outcomes)
    if args.json:
        output.emit_json({"ok": ok, "device": args.device, "config": args.config, "checks": [asdict(outcome) for outcome in outcomes]})
    elif ok:
        print(f"the board on {path} works")
    else:
        failed = next(outcome for outcome in outcomes if not outcome.ok)
        print(f"{failed.name}: {failed.failure}\nwhat to do: {failed.advice}")
    return 0 if ok else 1


def _tell(outcome: Outcome) -> None:
    state = {True: "ok", False: "FAILED", None: "not tested"}[outcome.ok]
    output.log(f"{outcome.name:14} {state:10} {outcome.detail}" + (f"  {outcome.seconds:.1f} s" if outcome.ok is not None else ""))
