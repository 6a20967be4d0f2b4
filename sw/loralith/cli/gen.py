"""`loralith gen`: everything that is generated from `loralith.spec` and `loralith.rtl`."""

import argparse


def register(subparsers: argparse._SubParsersAction) -> None:
    """The arguments and the work are `loralith.gen.cli`'s: `register(parser)` and `run(args) -> int`.

    That module imports amaranth inside `run`, never at its top: `loralith --help` works without it.
    """
    from loralith.gen import cli

    parser = subparsers.add_parser("gen", help="emit Verilog, C header and reference pages; --check compares the committed ones")
    cli.register(parser)
    parser.set_defaults(run=cli.run)
