"""`loralith report testplan`: the RTL's features with the tests, properties and mutants of each; what no plan names fails."""

import argparse
from typing import Any

HELP = "features of each block with their tests, properties and mutants; fails on a name that is nowhere, and on one that no plan names"
ON_RTL = True
SUBJECT = "loralith.reports.testplan_report"


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def command(args: argparse.Namespace) -> str:
    return "loralith report testplan"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.reports import testplan_report

    return testplan_report.figures()


def problems(args: argparse.Namespace, figures: dict[str, Any]) -> list[str]:
    return figures["problems"]
