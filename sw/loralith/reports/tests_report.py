"""What the tests cost and where they last ran: CPU seconds of each folder beside its budget, as a report.

The figures are those that the tests' own plugin (tests/helpers/run_record.py) has recorded in this checkout.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import read_text
from loralith.places import checkout

__all__ = ["BUDGET", "MARGIN", "RUNS", "figures", "folder_of", "page", "problems", "read_runs", "title", "write_budgets"]

RUNS = "build/tests/runs.json"
BUDGET = "tests/budget.toml"
MARGIN = 1.25
"""A new budget as a multiple of what was measured."""


def read_runs(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """The last run of each test by its pytest name: outcome, seconds, slow, commit, rtl, at. Raises LoralithError without any."""
    root = root or checkout()
    path = None if root is None else root / RUNS
    if path is None or not path.is_file():
        raise LoralithError(f"no test has run here: {RUNS} of a checkout is written by its tests, for example by `make test`")
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise LoralithError(f"{path} is no record of tests ({error}); remove it and run the tests again") from None


def budgets(root: Path) -> dict[str, float]:
    """CPU seconds of each folder of tests, as tests/budget.toml allows."""
    import tomllib  # not in Python 3.10, which boards have

    return dict(tomllib.loads(read_text(root / BUDGET))["seconds"])


def write_budgets(root: Path | None = None) -> list[str]:
    """Puts what each folder's tests last took, and `MARGIN`, in place of the seconds in tests/budget.toml; returns the folders.

    Folders of which no test is recorded keep theirs. Raises LoralithError without any record.
    """
    root = root or checkout()
    measured = figures(0, root=root)["folders"]
    assert root is not None  # figures has refused it
    seconds = {part["name"]: math.ceil(part["seconds"] * MARGIN) if part["tests"] else part["budget"] for part in measured}
    path = root / BUDGET
    head, table, _ = read_text(path).partition("[seconds]\n")
    lines = [f'"{folder}" = {allowed:g}\n' for folder, allowed in sorted(seconds.items())]
    path.write_text(head + table + "".join(lines), encoding="utf-8")
    return sorted(part["name"] for part in measured if part["tests"])


def folder_of(test: str) -> str:
    """`tests/sw` of `tests/sw/test_sim.py::test_x`."""
    return test.partition("::")[0].rpartition("/")[0]


def figures(count: int, *, slow: bool = False, root: Path | None = None) -> dict[str, Any]:
    """Of each folder the seconds of its tests and its budget; of the tests and of the files the ``count`` most expensive ones.

    Without ``slow`` only the tests of `make test` count, which are those that have a budget.
    """
    root = root or checkout()
    runs = {name: run for name, run in read_runs(root).items() if slow or not run["slow"]}
    assert root is not None  # read_runs has refused it
    allowed = budgets(root)
    folders = [
        _sum(folder, [run for name, run in runs.items() if folder_of(name) == folder], None if slow else allowed.get(folder))
        for folder in sorted({folder_of(name) for name in runs} | (set() if slow else set(allowed)))
    ]
    files = sorted({name.partition("::")[0] for name in runs})
    by_file = [_sum(file, [run for name, run in runs.items() if name.startswith(f"{file}::")]) for file in files]
    worst = sorted(runs, key=lambda name: -runs[name]["seconds"])[:count]
    return {
        "seconds": round(sum(run["seconds"] for run in runs.values()), 1),
        "budget": None if slow else sum(allowed.values()),
        "over": [part["name"] for part in folders if part["budget"] is not None and part["seconds"] > part["budget"]],
        "unbudgeted": [part["name"] for part in folders if part["budget"] is None and not slow],
        "folders": folders,
        "files": sorted(by_file, key=lambda part: -part["seconds"])[:count],
        "tests": [{"name": name, "seconds": runs[name]["seconds"]} for name in worst],
    }


def _sum(name: str, runs: list[dict[str, Any]], budget: float | None = None) -> dict[str, Any]:
    dates = sorted(run["at"] for run in runs)
    return {
        "name": name,
        "tests": len(runs),
        "failed": sum(run["outcome"] == "failed" for run in runs),
        "seconds": round(sum(run["seconds"] for run in runs), 1),
        "budget": budget,
        "oldest": dates[0] if dates else "",
        "commits": sorted({run["commit"] for run in runs}),
    }


def title(figures: dict[str, Any]) -> str:
    return "What the tests cost"


def problems(figures: dict[str, Any]) -> list[str]:
    """Folders over their budget or without one, each as a sentence."""
    folders = {part["name"]: part for part in figures["folders"]}
    over = [
        f"{name} took {folders[name]['seconds']:.0f} CPU seconds, and {BUDGET} allows {folders[name]['budget']:g}"
        for name in figures["over"]
    ]
    return over + [f"{name} has no budget in {BUDGET}" for name in figures["unbudgeted"]]


def page(figures: dict[str, Any]) -> list[str]:
    budgeted = figures["budget"] is not None
    total = f"{figures['seconds']:.0f} CPU seconds in all"
    allowed = f", of {figures['budget']:.0f} allowed" if budgeted else ""
    over = f"; over budget: {', '.join(figures['over'])}" if figures["over"] else ""
    lines = [f"{total}{allowed}{over}.", "", "| folder | tests | failed | CPU seconds | budget | oldest run |", "|---|---|---|---|---|---|"]
    for part in figures["folders"]:
        allowed = "" if part["budget"] is None else f"{part['budget']:.0f}"
        lines.append(f"| {part['name']} | {part['tests']} | {part['failed']} | {part['seconds']:.1f} | {allowed} | {part['oldest'][:16]} |")
    lines += ["", "| file | tests | CPU seconds |", "|---|---|---|"]
    lines += [f"| {part['name']} | {part['tests']} | {part['seconds']:.1f} |" for part in figures["files"]]
    lines += ["", "| test | CPU seconds |", "|---|---|"]
    lines += [f"| {test['name']} | {test['seconds']:.1f} |" for test in figures["tests"]]
    return lines
