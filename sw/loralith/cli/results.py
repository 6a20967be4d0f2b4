"""Results that the documents quote: a JSON file with every figure, and a page beside it."""

import argparse
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.files import check_output, named, write_json, write_text

REPO = Path(__file__).resolve().parents[3]


def commit(*folders: str) -> str:
    """The checkout's commit, with a plus sign where one of `folders` differs from it; empty outside a checkout."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", *folders)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name + ("+" if changed else "")


def config_files(args: argparse.Namespace) -> list[Path]:
    """The configuration that the command reads, where it is a file."""
    named = getattr(args, "config", None)
    return [Path(named)] if named and Path(named).is_file() else []


def check(stem: Path | None, inputs: Iterable[Path] = (), suffixes: Sequence[str] = (".json", ".md")) -> None:
    """Before the work: raises FileError unless STEM with each suffix can be written and is none of ``inputs``."""
    if stem is not None:
        sources = list(inputs)
        for path in named(stem, *suffixes):
            check_output(path, sources)


def write(stem: Path, title: str, command: str, figures: Mapping[str, Any], page: Sequence[str]) -> None:
    """Write STEM.json, the figures with date, commit and the command that repeats them, and STEM.md, `page` below the same."""
    context = {"date": date.today().isoformat(), "commit": commit("hw", "gen", "sw"), "command": command}
    data, text = named(stem, ".json", ".md")
    write_json({**context, **figures}, data)
    head = [f"# {title}", "", f"{context['date']}, commit {context['commit'] or 'unknown'}.", "", "```", command, "```", ""]
    write_text("\n".join([*head, *page]) + "\n", text)
    output.wrote(data, text)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()
