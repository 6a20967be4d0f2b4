"""`loralith bench methods`: points are kept, and told apart by their settings."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from loralith.cli import main
from loralith.cli.bench_methods import opened_backend
from loralith.methods.settings import KEYS_AND_VALUES
from loralith.study import methods

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def short(monkeypatch, small_model):
    """The study of the hollowed net, two steps long."""
    study = methods.STUDIES["hollowed-net"]
    settings = {**study.settings, "steps": 2, "batch": 1, "model": small_model, "targets": KEYS_AND_VALUES}
    studies = {"quick": replace(study, settings=settings, rounds=1)}
    monkeypatch.setattr(methods, "STUDIES", studies)
    return studies


def kept(folder: Path, variant: str) -> dict:
    point = methods.load_point(folder, "quick", variant, 0, methods.Backend())
    assert point is not None
    return point


def test_points_are_computed_once_and_controls_differ(short, tmp_path, capsys):
    told = ["bench", "methods", "--output", str(tmp_path), "--seeds", "1", "--device", "fp32"]
    assert main(told) == 0
    found = capsys.readouterr()
    assert len(re.findall(r"^\d/4  quick: .*held-out loss", found.err, re.M)) == 4
    assert "| hollowed | 1 |" in found.out
    after = [kept(tmp_path, variant)["losses"] for variant in short["quick"].variants]
    assert after[0][0] == after[1][0], "B is zero in the first step, so that the hollowed net is the full one"
    assert after[2][0] != after[0][0] != after[3][0]
    assert main([*told, "--only", "quick"]) == 0
    assert "held-out loss 0" not in capsys.readouterr().err, "nothing was computed again"
    short["quick"] = replace(short["quick"], rounds=2)
    assert len(methods.pending(tmp_path, ("quick",), 1, methods.Backend())) == 4
    assert main(["bench", "methods", "--only", "magic"]) == 2
    assert "there is no study 'magic'; there are quick" in capsys.readouterr().err


def trained(device: str, config: str, folder: Path) -> dict:
    with opened_backend(device, config) as place:
        return methods.run_point("quick", "lora on the same layers", 0, folder, place, lambda step: None, lambda: False)


def test_a_device_trains_with_its_own_numbers_whatever_its_configuration(short, tmp_path):
    plain = trained("fp32", "tiny", tmp_path / "fp32")
    direct = [trained("direct", config, tmp_path / config) for config in ("tiny", "paper")]
    assert direct[0]["losses"] == direct[1]["losses"]
    assert direct[0]["after"] == direct[1]["after"] != plain["after"]
    assert direct[0]["losses"] != plain["losses"]
    assert direct[0]["losses"] == pytest.approx(plain["losses"], rel=0.1)


def test_points_of_a_device_are_not_those_of_another(short, tmp_path):
    told = ["bench", "methods", "--output", str(tmp_path), "--seeds", "1"]
    point = methods.run_point("quick", "hollowed", 0, tmp_path, methods.Backend(), lambda step: None, lambda: False)
    short["quick"] = replace(short["quick"], variants=("hollowed",))
    with opened_backend("direct", "tiny") as place:
        assert [key[:2] for key in methods.pending(tmp_path, ("quick",), 1, place)] == [("quick", "hollowed")]
    assert main([*told, "--device", "fp32"]) == 0
    assert kept(tmp_path, "hollowed")["losses"] == point["losses"]
    with opened_backend("direct", "tiny") as place:
        assert methods.load_point(tmp_path, "quick", "hollowed", 0, place) is None
