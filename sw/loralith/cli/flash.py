"""`loralith flash`: load a bitstream into a board."""

from __future__ import annotations

import argparse
from pathlib import Path

from loralith.cli import output
from loralith.errors import LoralithError


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("flash", help="load a bitstream into a board, by openFPGALoader")
    parser.add_argument("bitstream", nargs="?", type=Path, help="file (default: the newest loralith.bit of `loralith synth --part soc`)")
    parser.add_argument("--board", default="ulx3s-85f", help="default: ulx3s-85f")
    parser.add_argument("--keep", action="store_true", help="write the board's flash, so that it is there after power-up")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="for openFPGALoader (default: 300)")
    parser.set_defaults(run=run)


def check(args: argparse.Namespace) -> None:
    """Raises LoralithError."""
    from loralith.board.loader import BOARDS

    if args.board not in BOARDS:
        raise LoralithError(f"board must be one of {', '.join(BOARDS)}, not {args.board!r}")


def run(args: argparse.Namespace) -> int:
    """Returns 0; what cannot be loaded is an error with advice."""
    from loralith.board.loader import latest_bitstream, load

    path = args.bitstream or latest_bitstream()
    said = load(path, args.board, keep=args.keep, timeout=args.timeout, log=output.log)
    if args.json:
        output.emit_json({"bitstream": str(path), "board": args.board, "kept": args.keep, "said": said})
    else:
        print(f"{path} is in the board's {'flash' if args.keep else 'FPGA until its power is off'}")
        print("next: loralith bring-up --device serial:/dev/ttyUSB0")
    return 0
