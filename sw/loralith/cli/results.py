"""Results that the documents quote: a JSON file with every figure, and a page beside it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from loralith.places import checkout

REPO = Path(__file__).resolve().parents[3]


def commit(*folders: str) -> str:
    """The checkout's commit, with a plus sign where one of `folders` differs from it; empty outside a checkout."""
    if checkout() is None:  # an installed package may lie in somebody's repository
        return ""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", *folders)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name + ("+" if changed else "")


def write(stem: Path, title: str, command: str, figures: Mapping[str, Any], page: Sequence[str]) -> None:
    """Write `stem`.json, the figures with date, commit and the command that repeats them, and `stem`.md, `page` below the same."""
    context = {"date": date.today().isoformat(), "commit": commit("hw", "gen", "sw"), "command": command}
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({**context, **figures}, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    head = [f"# {title}", "", f"{context['date']}, commit {context['commit'] or 'unknown'}.", "", "```", command, "```", ""]
    stem.with_suffix(".md").write_text("\n".join([*head, *page]) + "\n", encoding="utf-8")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()
