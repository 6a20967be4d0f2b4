"""What every command prints: results to stdout, everything else to stderr.

With `--json`, stdout holds exactly one JSON object.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loralith.cli.text_tables import table_lines


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json` to a command's parser; `args.json` is a bool."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout; progress and logs go to stderr")


def emit_json(result: Mapping[str, Any]) -> None:
    """Print `result` as one JSON object on stdout. Not a number and infinity are refused (ValueError): they are not JSON."""
    json.dump(result, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under named columns on stdout; every row is as long as `columns`.

    As wide as the terminal at most (or as $COLUMNS says), and as wide as it is where stdout is none.
    """
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size().columns if terminal else None
    print("\n".join(table_lines(title, columns, [[str(cell) for cell in row] for row in rows], width)), end="\n\n")


def log(message: str) -> None:
    """Print one line of progress on stderr."""
    print(message, file=sys.stderr, flush=True)


def wrote(*paths: Path | str) -> None:
    """Say on stderr what the command has written."""
    for path in paths:
        log(f"wrote {path}")


def config_files(args: argparse.Namespace) -> list[Path]:
    """The configuration that the command reads, where it is a file."""
    named = getattr(args, "config", None)
    return [Path(named)] if named and Path(named).is_file() else []


class _Lines(logging.Handler):
    """Messages of `loralith.progress` as lines of progress."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.getMessage())


def show_progress() -> None:
    """From now on, slow work says how far it is. Idempotent."""
    logger = logging.getLogger("loralith")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Inside, a Python warning is one line `warning: <message>` on stderr, without the place in the code that raised it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_rest, **_named: log(f"warning: {message}")
        yield


def error(message: str) -> None:
    """Print `error: <message>` on stderr."""
    log(f"error: {message}")
