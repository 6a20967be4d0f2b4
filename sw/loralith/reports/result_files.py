"""Results that the documents quote: a JSON file with every figure, and a page beside it."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from loralith.files import check_output, named, write_json, write_text
from loralith.places import checkout
from loralith.progress import tell
from loralith.reports.rtl_hash import rtl_hash

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


def check(stem: Path | None, inputs: Iterable[Path] = (), suffixes: Sequence[str] = (".json", ".md")) -> None:
    """Before the work: raises FileError unless STEM with each suffix can be written and is none of ``inputs``."""
    if stem is not None:
        sources = list(inputs)
        for path in named(stem, *suffixes):
            check_output(path, sources)


def provenance(command: str, *, on_rtl: bool = True) -> dict[str, str]:
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
    """Write STEM.json, the figures with date, commit, RTL and the command that repeats them, and STEM.md, `page` below the same."""
    context = provenance(command, on_rtl=on_rtl)
    data, text = named(stem, ".json", ".md")
    write_json({**context, **figures}, data)
    head = [f"# {title}", "", f"{origin(context)}.", "", "```", command, "```", ""]
    write_text("\n".join([*head, *page]) + "\n", text)
    for path in (data, text):
        tell(f"wrote {path}")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()
