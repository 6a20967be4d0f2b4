"""The tests' recorded costs beside the budget of each folder: `loralith report tests` says what is over it, and writes a new one."""

import json
import tomllib
from pathlib import Path

import pytest

from loralith import cli
from loralith.errors import LoralithError
from loralith.reports import tests_report

HEAD = "# What the table is.\n[seconds]\n"


def run(seconds: float, *, slow: bool = False) -> dict[str, object]:
    return {"seconds": seconds, "slow": slow, "outcome": "passed", "commit": "0", "rtl": "0", "at": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of which two tests of `tests/a` and one of `tests/b` have run, and none of `tests/c`."""
    runs = {"tests/a/test_1.py::test_x": run(3), "tests/a/test_2.py::test_y[1]": run(4.5), "tests/a/test_2.py::test_z": run(60, slow=True)}
    for path, text in (
        (tests_report.RUNS, json.dumps({**runs, "tests/b/test_3.py::test_x": run(1)})),
        (tests_report.BUDGET, HEAD + '"tests/a" = 7\n"tests/c" = 5\n'),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.setattr(tests_report, "checkout", lambda: tmp_path)
    return tmp_path


def test_folders_over_their_budget_or_without_one_fail(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "tests"]) == 0
    assert cli.main(["report", "tests", "--check"]) == 1
    said = capsys.readouterr().err
    assert "tests/a took 8 CPU seconds, and tests/budget.toml allows 7" in said
    assert "tests/b has no budget in tests/budget.toml" in said
    assert "tests/c" not in said


def test_a_budget_is_what_was_measured_and_a_quarter(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "tests", "--write-budget", "--check"]) == 0
    text = (tree / tests_report.BUDGET).read_text(encoding="utf-8")
    assert text == HEAD + '"tests/a" = 10\n"tests/b" = 2\n"tests/c" = 5\n', "no test of tests/c has run, and slow ones do not count"
    assert cli.main(["report", "tests", "--write-budget", "--slow"]) == 2
    assert "--write-budget and --slow exclude each other" in capsys.readouterr().err


def test_slow_tests_are_listed_and_have_no_budget(tree: Path) -> None:
    figures = tests_report.figures(1, slow=True)
    assert (figures["seconds"], figures["tests"]) == (68.5, [{"name": "tests/a/test_2.py::test_z", "seconds": 60}])
    assert tests_report.problems(figures) == []


def test_a_record_that_cannot_be_read_is_named(tree: Path) -> None:
    (tree / tests_report.RUNS).write_text("{", encoding="utf-8")
    with pytest.raises(LoralithError, match=r"runs\.json is no record of tests"):
        tests_report.figures(1)


def test_every_folder_of_tests_has_a_budget(repo: Path) -> None:
    folders = {path.parent.relative_to(repo).as_posix() for path in (repo / "tests").rglob("test_*.py")}
    assert set(tomllib.loads((repo / tests_report.BUDGET).read_text(encoding="utf-8"))["seconds"]) == folders
