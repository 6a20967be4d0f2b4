"""`loralith disasm LIST`: a file of packed descriptors as text."""

import argparse
from pathlib import Path

from loralith.cli import output
from loralith.errors import LoralithError


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("disasm", help="print a command list as text")
    parser.add_argument("list", type=Path, metavar="LIST", help="file of packed descriptors, 128 bytes each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises LoralithError for a file that cannot be read or holds something else."""
    from loralith.compiler.lists.assembly import as_records, disassemble, read_list

    try:
        data = args.list.read_bytes()
    except OSError as error:
        raise LoralithError(f"{args.list}: {error.strerror}") from None
    commands = read_list(data)
    if args.json:
        output.emit_json({"commands": as_records(commands)})
    else:
        print(disassemble(commands), end="")
    return 0
