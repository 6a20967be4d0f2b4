"""The test plans fit the tests, properties, mutants and blocks that there are; what does not fit is told by its name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loralith import cli
from loralith.reports import testplan_report
from loralith.verif.test_plans import Plan, PlanError, problems, read_plans

FEATURE = 'name = "a"\nrisk = "b"\nstimulus = "c"\ncheck = "d"\n'


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return read_plans()


def test_every_plan_fits_and_the_table_names_what_it_has(plans: list[Plan], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "testplan", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["problems"] == []
    assert figures["features"] == sum(len(plan.features) for plan in plans)
    assert cli.main(["report", "testplan"]) == 0
    page = capsys.readouterr().out
    feature = plans[0].features[0]
    assert f"| {feature.name} | {feature.risk} | {'<br>'.join(feature.tests)} |" in page


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("test", "tests/unit/rtl/test_bus.py::test_nothing"),
        ("property", "queue.nothing"),
        ("mutant", "queue: nothing"),
        ("block", "Nothing"),
    ],
)
def test_a_name_that_is_nowhere_is_told(plans: list[Plan], kind: str, name: str) -> None:
    first, *others = plans
    if kind == "block":
        wrong, where = replace(first, covers=(*first.covers, name)), first.block
    else:
        of_kind = {"test": "tests", "property": "properties", "mutant": "mutants"}[kind]
        feature = replace(first.features[0], **{of_kind: (*getattr(first.features[0], of_kind), name)})
        wrong, where = replace(first, features=(feature, *first.features[1:])), f"{first.block}, {feature.name!r}"
    assert problems([wrong, *others]) == [f"{where}: there is no {kind} {name}"]


def test_what_no_plan_names_is_told(plans: list[Plan], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (queue,) = [plan for plan in plans if plan.block.startswith("queues")]
    rest = [plan for plan in plans if plan is not queue]
    found = problems(rest)
    for kind, names in (
        ("test", queue.features[0].tests),
        ("property", queue.features[0].properties),
        ("mutant", queue.features[0].mutants),
        ("block", queue.covers),
    ):
        assert names
        assert set(found) >= {f"no test plan names the {kind} {name}" for name in names}
    monkeypatch.setattr(testplan_report, "read_plans", lambda: rest)
    assert cli.main(["report", "testplan"]) == 1
    assert "no test plan names the block FIFO" in capsys.readouterr().err


def test_an_installed_package_has_no_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(testplan_report, "read_plans", lambda: read_plans(tmp_path))
    assert cli.main(["report", "testplan"]) == 2
    assert "has no test plans; a checkout has them" in capsys.readouterr().err


def test_a_feature_without_a_test_is_told(plans: list[Plan]) -> None:
    bare = replace(plans[0].features[0], name="bare", tests=(), properties=(), mutants=())
    assert problems([replace(plans[0], features=(*plans[0].features, bare)), *plans[1:]]) == [
        f"{plans[0].block}, 'bare': no test and no property"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block", "one.toml is no TOML"),
        ('block = "x"\n[[feature]]\n', r"one\.toml has block, feature; a test plan has block, covers and \[\[feature\]\]"),
        (f'block = "x"\ncovers = []\n[[feature]]\n{FEATURE}mutant = []\n', "one.toml, feature 'a': unknown mutant"),
        (f'block = "x"\ncovers = []\n[[feature]]\n{FEATURE}tests = "x"\n', "one.toml, feature 'a': tests must be lists of names"),
        ('block = "x"\ncovers = []\n[[feature]]\nname = "a"\nrisk = ""\ncheck = "c"\n', "feature 'a': risk, stimulus must be text"),
    ],
)
def test_a_faulty_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "verif" / "testplans"
    with pytest.raises(PlanError, match="has no test plans"):
        read_plans(tmp_path)
    folder.mkdir(parents=True)
    (folder / "one.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=message):
        read_plans(tmp_path)
