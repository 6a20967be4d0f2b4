"""A pytest plugin that records, for each test, its CPU time, outcome and commit in build/tests/runs.json, and of each whole run of
`make test` or `make test-slow` the sums in build/tests/suites.json.

`loralith report tests` prints them beside the budget of each folder (tests/budget.toml). CPU time, of the process and of the children that
it has waited for, hardly depends on what else the machine does. A fixture of several tests counts to the first one that needs it; imports
and collection count to no test, and are recorded for the session.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loralith.reports.result_files import commit
from loralith.reports.rtl_hash import rtl_hash
from loralith.reports.suites_report import SUITE_RUNS, TESTS
from loralith.reports.tests_report import RUNS

CPU = "cpu seconds"
COLLECTED = "loralith collected"


def cpu_seconds() -> float:
    """CPU time until now, in user and system mode, of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Recorder:
    """Collects the tests of one process, and writes the file where the process is not a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.config = config
        self.path = path
        self.began = time.monotonic()
        self.collected: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.start = cpu_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        if report.when == "teardown":
            report.user_properties.append((CPU, cpu_seconds() - self.start))
            report.user_properties.append(("slow", item.get_closest_marker("slow") is not None))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        run = self.runs.setdefault(report.nodeid, {"outcome": "passed"})
        if report.outcome != "passed":
            run["outcome"] = report.outcome
        properties = dict(report.user_properties)
        if CPU in properties:
            run |= {"seconds": round(properties[CPU], 3), "slow": properties["slow"]}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Before any is deselected."""
        if not any("::" in word for word in self.config.args):
            self.collected |= {item.nodeid for item in items}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.collected |= set(getattr(node, "workeroutput", {}).get(COLLECTED, ()))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self.config, "workeroutput"):
            if self.config.workeroutput.get("workerid") == "gw0":
                self.config.workeroutput[COLLECTED] = sorted(self.collected)
        elif self.runs and not self.config.option.collectonly:
            self.write()
            suite = self.suite()
            if suite is not None:
                self.write_suite(suite, int(session.exitstatus))

    def suite(self) -> str | None:
        """The suite that this session is, whole: what `make test` or `make test-slow` selects, and nothing left out."""
        option = self.config.option
        whole = self.config.args in (["tests"], [str(self.config.rootpath / "tests")]) and not option.keyword and not option.deselect
        return next((name for name, slow in TESTS.items() if option.markexpr == ("slow" if slow else "not slow")), None) if whole else None

    def write_suite(self, name: str, status: int) -> None:
        """Puts this run in place of the suite's last one: only a run to its end says something of the suite."""
        if status not in (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED)):
            return
        path = self.config.rootpath / SUITE_RUNS
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        known[name] = {
            "commit": commit("hw", "gen", "sw", "verif", "tests"),
            "rtl": rtl_hash(),
            "date": datetime.now(UTC).date().isoformat(),
            "tests": len(self.runs),
            "failed": sum(run["outcome"] == "failed" for run in self.runs.values()),
            "cpu_seconds": round(sum(run.get("seconds", 0.0) for run in self.runs.values())),
            "seconds": round(time.monotonic() - self.began),
        }
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")

    def write(self) -> None:
        """Puts this session's tests in place of earlier runs of the same, and drops those whose file no longer has them."""
        origin = {
            "commit": commit("hw", "gen", "sw", "verif", "tests"),
            "rtl": rtl_hash(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                known = json.loads(self.path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                known = {}
            files = {name.partition("::")[0] for name in self.collected}
            root = self.config.rootpath
            kept = {
                name: run
                for name, run in known.items()
                if (root / name.partition("::")[0]).is_file() and (name in self.collected or name.partition("::")[0] not in files)
            }
            kept |= {name: {**run, **origin} for name, run in self.runs.items() if "seconds" in run}
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(dict(sorted(kept.items())), indent=0), encoding="utf-8")
            partial.replace(self.path)


def register(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config, config.rootpath / RUNS), "loralith run record")
