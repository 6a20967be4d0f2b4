"""`loralith report results`: which RTL each committed result was measured on, and whether that is this checkout's."""

import argparse
from pathlib import Path
from typing import Any

from loralith.reports import results_report

HELP = "date, commit and RTL of every result in docs/results, and which are of older RTL"
ON_RTL = True
SUBJECT = "loralith.reports.results_report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=results_report.FOLDER, help="folder of results (default: docs/results)")


def command(args: argparse.Namespace) -> str:
    return "loralith report results"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    return results_report.figures(args.folder)
