"""`loralith report shapes`: the last results of `loralith bench shapes` side by side, with published systems on the same products."""

import argparse
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import check_output, named
from loralith.places import data

HELP = "utilisation of every array and rank that was run, and published systems beside it"
ON_RTL = True
SUBJECT = "loralith.shapes.shapes_report"
FOLDER = data("docs/results/shapes")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where `loralith bench shapes --output` wrote (default: docs/results/shapes)"
    )
    parser.add_argument("--with-scalesim", action="store_true", help="run SCALE-Sim on the smallest products, if it is installed")


def command(args: argparse.Namespace) -> str:
    return "loralith report shapes" + " --with-scalesim" * args.with_scalesim


def check(args: argparse.Namespace) -> None:
    """Raises FileError for an output that cannot be written or is one of the results that are read, which include what is in --folder."""
    from loralith.shapes.shapes_report import pictures

    if args.output:
        sources = sorted(args.folder.glob("*.json"))
        for path in (*named(args.output, ".json", ".md"), *pictures(args.output).values()):
            check_output(path, sources)
            if path.suffix == ".json" and path.parent.absolute() == args.folder.absolute():
                raise LoralithError(f"output {path} would be one of the results in --folder {args.folder}; give another folder")


def figures(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.shapes import shapes_report

    return shapes_report.figures(args.folder, args.output, scalesim=args.with_scalesim)
