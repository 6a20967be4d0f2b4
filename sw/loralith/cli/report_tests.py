"""`loralith report tests`: CPU seconds of each folder of tests beside its budget, and the most expensive files and tests."""

import argparse
from typing import Any

from loralith.errors import LoralithError
from loralith.reports import tests_report

HELP = "CPU seconds of each folder of tests beside its budget, as they last ran in this checkout"
ON_RTL = True
SUBJECT = "loralith.reports.tests_report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=20, help="how many of the most expensive files and tests are listed (default: 20)")
    parser.add_argument("--slow", action="store_true", help="the tests of `make test-slow` too, which have no budget")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a folder is over its budget or has none")
    parser.add_argument("--write-budget", action="store_true", help="put what was measured and a quarter more into tests/budget.toml")


def command(args: argparse.Namespace) -> str:
    return f"loralith report tests --count {args.count}" + (" --slow" if args.slow else "")


def figures(args: argparse.Namespace) -> dict[str, Any]:
    if args.count < 0:
        raise LoralithError(f"--count must be at least 0, not {args.count}")
    if args.write_budget:
        if args.slow:
            raise LoralithError("--write-budget and --slow exclude each other: tests that take minutes have no budget")
        tests_report.write_budgets()
    return tests_report.figures(args.count, slow=args.slow)


def problems(args: argparse.Namespace, figures: dict[str, Any]) -> list[str]:
    return tests_report.problems(figures) if args.check else []
