"""A soak of random products goes on where it stopped, to the same figures, and stops at a wrong product."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from loralith.cli import main
from loralith.device.reference import ReferenceDevice
from loralith.soak import products

SAME = ("seed", "config", "device", "stall", "products", "lists", "mismatches", "cycles")


@pytest.fixture(autouse=True)
def short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "BATCH", 5)


def soak(*words: str) -> int:
    return main(["soak", "--device", "reference", "--seed", "3", *words, "--json"])


def test_a_soak_in_two_calls_is_one_in_a_single_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.json"
    assert soak("--products", "10", "--state", str(state)) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["products"], first["lists"]) == (10, 2)
    assert soak("--products", "20", "--state", str(state)) == 0
    second = json.loads(capsys.readouterr().out)
    assert json.loads(state.read_text(encoding="utf-8")) == second
    assert soak("--products", "20") == 0
    whole = json.loads(capsys.readouterr().out)
    assert {name: second[name] for name in SAME} == {name: whole[name] for name in SAME}
    assert second["cycles"] > first["cycles"] > 0


def test_a_wrong_product_ends_it_and_is_not_kept_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state, read = tmp_path / "state.json", ReferenceDevice.read

    def wrong(self: ReferenceDevice, address: int, nbytes: int) -> np.ndarray:
        found = read(self, address, nbytes).copy()
        found[found != 0xC3] ^= 1
        return found

    monkeypatch.setattr(ReferenceDevice, "read", wrong)
    assert soak("--products", "10", "--state", str(state)) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["mismatches"] == 1
    assert result["first_mismatch"]["expected"] != result["first_mismatch"]["found"]
    assert not state.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not the state of a soak of products"),
        ("nothing", "is not the state of a soak of products"),
        (None, r"with other settings: seed 4 \(now 3\)"),
    ],
)
def test_another_state_is_refused(text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.json"
    kept = products.ProductSoak({"config": "tiny", "device": "reference", "stall": None}, 4, None).result
    state.write_text(json.dumps(kept) if text is None else text, encoding="utf-8")
    before = state.read_text(encoding="utf-8")
    assert soak("--products", "5", "--state", str(state)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert state.read_text(encoding="utf-8") == before
