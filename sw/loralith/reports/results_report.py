"""Which RTL each committed result was measured on, and whether that is this checkout's, as a report."""

import json
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.reports.result_files import REPO, rtl_text
from loralith.reports.rtl_hash import rtl_hash

__all__ = ["FOLDER", "age", "figures", "page", "title"]


FOLDER = REPO / "docs" / "results"


def age(result: dict[str, Any], now: str) -> str:
    """What a result's RTL is to the RTL of hash ``now``."""
    if "rtl" not in result:
        return "no RTL in it"
    if not result["rtl"]:
        return "older: it was changed and not committed"
    return "this one" if result["rtl"] == now else "older"


def figures(folder: Path = FOLDER) -> dict[str, Any]:
    """Of every result that names its date and commit, but for pages that are made of others."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "date" in content and "commit" in content and not _made_of_others(content):
            origin = {name: content[name] for name in ("date", "commit", "rtl", "command") if name in content}
            found.append({"name": path.relative_to(folder).with_suffix("").as_posix(), **origin})
    if not found:
        raise LoralithError(f"there are no results in {folder}")
    return {"rtl": rtl_hash(), "results": found}


def _made_of_others(content: dict[str, Any]) -> bool:
    lists = [value for value in content.values() if isinstance(value, list) and value]
    return any(all(isinstance(part, dict) and "commit" in part for part in value) for value in lists)


def title(figures: dict[str, Any]) -> str:
    return "Which RTL the results are of"


def page(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"The RTL beside this page has the hash `{figures['rtl']}`, over the code of `hw/loralith/rtl` without its comments. A result of",
        "older RTL was right for that: cycles, areas and clocks may have changed since, and its command measures them again.",
        "",
        "| result | date | commit | RTL | |",
        "|---|---|---|---|---|",
    ]
    for result in figures["results"]:
        shown = rtl_text(result) if "rtl" in result else ""
        lines.append(f"| {result['name']} | {result['date']} | {result['commit']} | {shown} | {age(result, figures['rtl'])} |")
    return lines
