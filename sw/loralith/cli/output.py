"""What every command prints: results to stdout, everything else to stderr.

With `--json`, stdout holds exactly one JSON object.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json` to a command's parser; `args.json` is a bool."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout; progress and logs go to stderr")


def emit_json(result: Mapping[str, Any]) -> None:
    """Print `result` as one JSON object on stdout. Not a number and infinity are refused (ValueError): they are not JSON."""
    json.dump(result, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under named columns on stdout; every row is as long as `columns`.

    Drawn by rich where it is installed, in plain columns where it is not: a board's installation has no need of rich.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
        print(title)
        for line in [list(columns), *cells]:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    drawn = Table(title=title, box=box.SIMPLE, title_justify="left")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))  # Text: a cell's [brackets] are not markup
    Console().print(drawn)


def log(message: str) -> None:
    """Print one line of progress on stderr."""
    print(message, file=sys.stderr, flush=True)


def wrote(*paths: Path | str) -> None:
    """Say on stderr what the command has written."""
    for path in paths:
        log(f"wrote {path}")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Inside, a Python warning is one line `warning: <message>` on stderr, without the place in the code that raised it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_rest, **_named: log(f"warning: {message}")
        yield


def error(message: str) -> None:
    """Print `error: <message>` on stderr."""
    log(f"error: {message}")
