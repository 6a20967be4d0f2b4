"""The vector unit's lanes in native code against the soft float, and how a soak of them goes on from its state."""

import json
from pathlib import Path

import pytest

from loralith.cli import main
from loralith.soak.lanes import ELEMENTS, OPERATIONS, LaneSoak


@pytest.fixture(scope="module")
def soak() -> LaneSoak:
    return LaneSoak()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_equals_the_soft_float(soak: LaneSoak, operation: str) -> None:
    assert soak.run(operation, 2026, 0, 6) is None


def test_a_soak_goes_on_where_its_state_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.json"
    assert main(["soak", "--vector", "1", "--seed", "7", "--state", str(state), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["seed"] == 7
    assert set(first["operations"]) == set(OPERATIONS)
    assert {own["elements"] for own in first["operations"].values()} == {ELEMENTS}
    assert main(["soak", "--vector", str(2 * ELEMENTS), "--state", str(state), "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["seed"] == 7
    assert {own["elements"] for own in second["operations"].values()} == {2 * ELEMENTS}
    assert all(own["seconds_per_million"] > 0 for own in second["operations"].values())


@pytest.mark.parametrize("content", ["{}", "x", '{"seed": 1, "operations": {"divide": {"elements": 0}}}'])
def test_a_foreign_state_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    state = tmp_path / "state.json"
    state.write_text(content)
    assert main(["soak", "--vector", "1", "--state", str(state)]) == 2
    assert "is not the state of a soak of the vector unit" in capsys.readouterr().err
