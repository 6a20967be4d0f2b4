"""`loralith report suites`: on which commit each suite of checks last ran; fails where one is a release older than the RTL."""

import argparse
from typing import Any

from loralith.reports import suites_report

HELP = (
    "date, commit and RTL of the last run of each suite of tests and of each campaign; fails on one that is too old or was never recorded"
)
ON_RTL = True
SUBJECT = "loralith.reports.suites_report"


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def command(args: argparse.Namespace) -> str:
    return "loralith report suites"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    return suites_report.figures()


def problems(args: argparse.Namespace, figures: dict[str, Any]) -> list[str]:
    return suites_report.problems(figures)
