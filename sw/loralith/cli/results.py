"""Results that the documents quote: a JSON file with every figure, and a page beside it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from loralith.cli.rtl_hash import rtl_hash

REPO = Path(__file__).resolve().parents[3]


def commit(*folders: str) -> str:
    """The checkout's commit, with a plus sign where one of `folders` differs from it; empty outside a checkout."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", *folders)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name + ("+" if changed else "")


def made(command: str, *, on_rtl: bool = True) -> dict[str, str]:
    """What says where figures come from: date, commit, the hash of the RTL that they were measured on, if any, and the command."""
    rtl = {"rtl": rtl_hash()} if on_rtl else {}
    return {"date": date.today().isoformat(), "commit": commit("hw", "gen", "sw"), **rtl, "command": command}


def origin(figures: Mapping[str, Any]) -> str:
    """Date, commit and RTL of figures, in words."""
    words = [figures["date"], f"commit {figures['commit'] or 'unknown'}", *([f"RTL {rtl_text(figures)}"] if "rtl" in figures else [])]
    return ", ".join(words)


def rtl_text(figures: Mapping[str, Any]) -> str:
    """The hash of the RTL that figures were measured on; uncommitted changes of earlier versions left none."""
    return figures["rtl"] or "unknown"


def write(stem: Path, title: str, command: str, figures: Mapping[str, Any], page: Sequence[str], *, on_rtl: bool = True) -> None:
    """Write `stem`.json, the figures with date, commit, RTL and the command that repeats them, and `stem`.md, `page` below the same."""
    context = made(command, on_rtl=on_rtl)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({**context, **figures}, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    head = [f"# {title}", "", f"{origin(context)}.", "", "```", command, "```", ""]
    stem.with_suffix(".md").write_text("\n".join([*head, *page]) + "\n", encoding="utf-8")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()
