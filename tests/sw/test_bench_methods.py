"""`loralith bench methods`: points are kept, and told apart by their settings."""

from dataclasses import replace

import pytest

pytest.importorskip("diffusers")

from loralith.cli import main
from loralith.study import methods

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def short(monkeypatch, small_model):
    """The study of the hollowed net, two steps long."""
    study = methods.STUDIES["hollowed-net"]
    settings = {**study.settings, "steps": 2, "batch": 1, "model": small_model}
    studies = {"quick": replace(study, settings=settings, rounds=1)}
    monkeypatch.setattr(methods, "STUDIES", studies)
    return studies


def test_points_are_computed_once_and_controls_differ(short, tmp_path, capsys):
    told = ["bench", "methods", "--output", str(tmp_path), "--seeds", "1"]
    assert main(told) == 0
    found = capsys.readouterr()
    assert found.err.count("held-out loss") == 4
    assert "| hollowed | 1 |" in found.out
    after = [methods.load_point(tmp_path, "quick", variant, 0)["losses"] for variant in short["quick"].variants]  # type: ignore[index]
    assert after[0][0] == after[1][0], "B is zero in the first step, so that the hollowed net is the full one"
    assert after[2][0] != after[0][0] != after[3][0]
    assert main([*told, "--only", "quick"]) == 0
    assert "held-out loss 0" not in capsys.readouterr().err, "nothing was computed again"
    short["quick"] = replace(short["quick"], rounds=2)
    assert len(methods.pending(tmp_path, ("quick",), 1)) == 4
    assert main(["bench", "methods", "--only", "magic"]) == 2
    assert "there is no study 'magic'; there are quick" in capsys.readouterr().err
