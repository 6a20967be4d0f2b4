"""`loralith report <what>`: pages of figures, computed or (memory) allocated, none of which depends on how fast this machine is.

A report is a module `loralith.cli.report_<what>` with a line of `HELP`, `ON_RTL`, whether its figures are of the RTL, `arguments(parser)`,
`command(args) -> str`, which repeats it, `figures(args) -> dict`, which `--json` prints as it is, and `SUBJECT`, the name of the
module that computes them. That one has `title(figures) -> str` and `page(figures) -> list[str]`, the same as Markdown.
It may have `check(args)`, which raises before the work for outputs of its own that cannot be written, and `problems(args, figures)`, what
is wrong with the figures, as sentences: where there are any, the command prints them last and exits with 1.
"""

import argparse
from importlib import import_module
from pathlib import Path

from loralith.cli import output
from loralith.reports import result_files as results

REPORTS = ("area", "coverage", "energy", "memory", "results", "rtl", "shapes", "suites", "testplan", "tests", "vector")


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "report",
        help="area, energy and memory of a step, use of the array, the RTL of each result, its blocks and test plans, cost of tests",
    )
    kinds = parser.add_subparsers(dest="what", metavar="<what>", required=True)
    for name in REPORTS:
        module = import_module(f"loralith.cli.report_{name}")
        kind = kinds.add_parser(name, help=module.HELP)
        kind.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on stdout")
        kind.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")
        module.arguments(kind)
        kind.set_defaults(module=module)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    results.check(args.output, output.config_files(args))
    if hasattr(args.module, "check"):
        args.module.check(args)
    figures = args.module.figures(args)
    subject = import_module(args.module.SUBJECT)
    page = subject.page(figures)
    if args.output:
        results.write(args.output, subject.title(figures), args.module.command(args), figures, page, on_rtl=args.module.ON_RTL)
    if args.json:
        output.emit_json(figures)
    else:
        print("\n".join(page))
    problems = args.module.problems(args, figures) if hasattr(args.module, "problems") else []
    for problem in problems:
        output.error(problem)
    return 1 if problems else 0
