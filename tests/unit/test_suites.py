"""On which commit each suite last ran: none may be a release older than the RTL."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import loralith
from helpers.run_record import Recorder
from loralith.reports.rtl_hash import rtl_hash
from loralith.reports.suites_report import CAMPAIGNS, SUITE_RUNS, TESTS, figures, page, problems, too_old


def test_no_suite_is_a_release_older_than_the_rtl(repo: Path) -> None:
    """Of docs/results/suites.json, which `loralith report suites --output docs/results/suites` writes."""
    published = json.loads((repo / "docs" / "results" / "suites.json").read_text(encoding="utf-8"))
    assert [suite["name"] for suite in published["suites"]] == [*TESTS, *CAMPAIGNS]
    old = [suite["name"] for suite in published["suites"] if too_old(suite, rtl_hash(), loralith.__version__)]
    assert old == [], "run these again, and then `loralith report suites --output docs/results/suites`"


@pytest.mark.parametrize(
    ("rtl", "version", "old"), [("new", "2", False), ("new", "1", False), ("old", "2", False), ("old", "1", True), ("old", "", True)]
)
def test_a_suite_is_too_old_a_release_after_its_rtl(rtl: str, version: str, old: bool) -> None:
    assert too_old({"commit": "c", "rtl": rtl, "version": version}, "new", "2") is old


def test_a_suite_without_rtl_or_without_a_run_is_not_too_old() -> None:
    assert not too_old({"commit": "c", "version": "1"}, "new", "2")
    assert not too_old({"name": "never"}, "new", "2")


def test_runs_come_from_the_record_and_from_results(tmp_path: Path) -> None:
    results, runs = tmp_path / "docs" / "results", tmp_path / SUITE_RUNS
    results.mkdir(parents=True)
    runs.parent.mkdir(parents=True)
    run = {"commit": "old", "rtl": "r1", "date": "2026-01-01", "tests": 2, "failed": 1, "cpu_seconds": 4, "seconds": 3}
    runs.write_text(json.dumps({"make test": run}), encoding="utf-8")
    (results / "soak.json").write_text(json.dumps({"date": "2026-03-03", "commit": "x", "rtl": "r3", "command": "soak"}), encoding="utf-8")
    versions = {"old": "0.0", "x": loralith.__version__}
    found = figures(tmp_path, version_at=versions.__getitem__)
    suites = {suite["name"]: suite for suite in found["suites"]}
    assert suites["make test"] == {"name": "make test", "command": "make test", **run, "version": "0.0"}
    assert suites["make test-slow"] == {"name": "make test-slow"}
    assert (suites["random products"]["commit"], suites["random products"]["version"]) == ("x", loralith.__version__)
    told = problems(found)
    assert "1 of 2 tests of 'make test' failed" in told
    assert "no run of 'make test-slow' is recorded" in told
    assert not any("random products" in text for text in told)
    assert "| make test-slow | not recorded |" in "\n".join(page(found))
    runs.unlink()
    (results / "suites.json").write_text(json.dumps(found), encoding="utf-8")
    assert figures(tmp_path, version_at=versions.__getitem__)["suites"] == found["suites"], "what was published stays"


def test_only_a_whole_run_is_a_suite(tmp_path: Path) -> None:
    def recorder(args: list[str], markexpr: str, keyword: str = "") -> Recorder:
        option = SimpleNamespace(markexpr=markexpr, keyword=keyword, deselect=None)
        return Recorder(SimpleNamespace(args=args, option=option, rootpath=tmp_path), tmp_path / "runs.json")  # type: ignore[arg-type]

    assert recorder(["tests"], "not slow").suite() == "make test"
    assert recorder([str(tmp_path / "tests")], "slow").suite() == "make test-slow"
    assert recorder(["tests"], "").suite() is None
    assert recorder(["tests"], "slow", "golden").suite() is None
    assert recorder(["tests/unit"], "slow").suite() is None
    whole = recorder(["tests"], "slow")
    whole.runs = {"a": {"outcome": "passed", "seconds": 1.6}, "b": {"outcome": "failed", "seconds": 1.0}, "c": {"outcome": "skipped"}}
    (tmp_path / "build" / "tests").mkdir(parents=True)
    whole.write_suite("make test-slow", int(pytest.ExitCode.INTERRUPTED))
    assert not (tmp_path / SUITE_RUNS).exists()
    whole.write_suite("make test-slow", int(pytest.ExitCode.TESTS_FAILED))
    found = json.loads((tmp_path / SUITE_RUNS).read_text(encoding="utf-8"))["make test-slow"]
    assert (found["tests"], found["failed"], found["cpu_seconds"], found["rtl"]) == (3, 1, 3, rtl_hash())
