"""`loralith bench <what>`: measurements that the documents quote.

A measurement is a module `loralith.cli.bench_<what>` with a line of `HELP`, `arguments(parser)` and `measure(args) -> dict`: the figures by
name, which `--json` prints as they are; a `show(figures)` replaces the plain table. It may have `SUFFIXES`, of the files of
`--output STEM`, which are checked before the work. Whatever is slow is imported inside `measure`.
"""

import argparse
from importlib import import_module

from loralith.cli import output
from loralith.reports import result_files as results

MEASUREMENTS = ("sd15", "shapes", "simulator", "memory", "methods", "attach", "step", "placement")


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("bench", help="measure speed and utilisation")
    kinds = parser.add_subparsers(dest="what", metavar="<what>", required=True)
    for name in MEASUREMENTS:
        module = import_module(f"loralith.cli.bench_{name}")
        kind = kinds.add_parser(name, help=module.HELP)
        kind.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on stdout")
        module.arguments(kind)
        kind.set_defaults(suffixes=getattr(module, "SUFFIXES", None), measure=module.measure, show=getattr(module, "show", None))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.suffixes:
        results.check(args.output, output.config_files(args), args.suffixes)
    figures = args.measure(args)
    if args.json:
        output.emit_json(figures)
    elif args.show:
        args.show(figures)
    else:
        output.table(f"loralith bench {args.what}", ["figure", "value"], list(figures.items()))
    return 0
