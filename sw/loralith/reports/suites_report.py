"""When each suite of checks last ran, on which commit and RTL, as a report: tests from the record of whole runs, which the tests' own
plugin (tests/helpers/run_record.py) writes, campaigns from their results.

A suite is too old where the RTL has changed since, and so has the version: it has then missed a release.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loralith.files import read_text
from loralith.reports.result_files import REPO
from loralith.reports.rtl_hash import rtl_hash

__all__ = ["CAMPAIGNS", "SUITE_RUNS", "TESTS", "figures", "page", "problems", "title", "too_old"]

INIT = "sw/loralith/__init__.py"
SUITE_RUNS = "build/tests/suites.json"
TESTS = {"make test": False, "make test-slow": True}
"""Suites of pytest: whether their tests are marked slow."""
CAMPAIGNS = {
    "random products": "soak",
    "random lists": "lists",
    "kills and resumes": "kills",
    "mutants": "mutants",
    "faults": "faults",
    "coverage": "coverage",
}
"""Suites with a result in docs/results, by its name."""


def figures(root: Path = REPO, version_at: Callable[[str], str] | None = None) -> dict[str, Any]:
    """Of each suite: date, commit, rtl, version and command of its last run, without them where none is recorded; the present RTL and
    version. Of tests also how many there are, how many failed, and CPU and wall seconds."""
    version = version_at or _version_at
    suites = [{"name": name, **_tests(root, name, version)} for name in TESTS]
    for name, stem in CAMPAIGNS.items():
        path = root / "docs" / "results" / f"{stem}.json"
        found = json.loads(read_text(path)) if path.is_file() else {}
        own = {key: found[key] for key in ("date", "commit", "rtl", "command") if found.get(key)}
        suites.append({"name": name, **own, **({"version": version(own["commit"])} if "commit" in own else {})})
    return {"rtl": rtl_hash(), "version": _version_in(read_text(REPO / INIT)), "suites": suites}


def _tests(root: Path, name: str, version: Callable[[str], str]) -> dict[str, Any]:
    """The last whole run of a suite of tests: the one recorded in this checkout, else the one that was published."""
    path, published = root / SUITE_RUNS, root / "docs" / "results" / "suites.json"
    runs = json.loads(read_text(path)) if path.is_file() else {}
    if name in runs:
        return {"command": name, **runs[name], "version": version(runs[name]["commit"])}
    suites = json.loads(read_text(published))["suites"] if published.is_file() else []
    return next(({key: value for key, value in suite.items() if key != "name"} for suite in suites if suite["name"] == name), {})


def _version_at(commit: str) -> str:
    """The version that a commit has; empty where that is not known."""
    try:
        command = ["git", "show", f"{commit.rstrip('+')}:{INIT}"]
        return _version_in(subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version_in(text: str) -> str:
    found = re.search(r'^__version__ = "(.*)"', text, re.MULTILINE)
    return found[1] if found else ""


def too_old(suite: Mapping[str, Any], rtl: str, version: str) -> bool:
    """Whether a suite that has run did so on other RTL, in another version."""
    return "commit" in suite and suite.get("rtl", rtl) != rtl and suite["version"] != version


def problems(figures: Mapping[str, Any]) -> list[str]:
    """Suites without a run, with failures, or too old, as sentences."""
    found = []
    for suite in figures["suites"]:
        if "commit" not in suite:
            found.append(f"no run of {suite['name']!r} is recorded")
        elif suite.get("failed"):
            found.append(f"{suite['failed']} of {suite['tests']} tests of {suite['name']!r} failed")
        elif too_old(suite, figures["rtl"], figures["version"]):
            found.append(f"{suite['name']!r} last ran on the RTL {suite['rtl']} of version {suite['version'] or 'unknown'}; run it again")
    return found


def title(figures: Mapping[str, Any]) -> str:
    return "When each suite last ran"


def page(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        f"The RTL beside this page has the hash `{figures['rtl']}`, the version is {figures['version']}. A suite of tests",
        "counts when all of it ran at once.",
        "",
        "| suite | date | commit | version | RTL | tests | failed | CPU seconds | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for suite in figures["suites"]:
        rtl = "this one" if suite.get("rtl") == figures["rtl"] else suite.get("rtl", "none" if "commit" in suite else "")
        cells = [suite.get(name, "") for name in ("date", "commit", "version")] + [rtl]
        cells += [suite.get(name, "") for name in ("tests", "failed", "cpu_seconds", "seconds")]
        if "commit" not in suite:
            cells[0] = "not recorded"
        lines.append(f"| {suite['name']} | {' | '.join(map(str, cells))} |")
    return lines
