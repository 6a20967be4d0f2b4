"""What a state file of long work must be to be gone on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loralith.errors import LoralithError
from loralith.files import FileError
from loralith.state_file import read_state

NEEDS = {"rows": list}


class OtherError(LoralithError):
    pass


def test_without_a_file_there_is_no_state(tmp_path: Path) -> None:
    assert read_state(None, "a soak", {"seed": 1}, NEEDS) is None
    assert read_state(tmp_path / "state.json", "a soak", {"seed": 1}, NEEDS) is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileError, match="is a folder"):
        read_state(tmp_path, "a soak", {"seed": 1}, NEEDS)


def test_a_state_of_the_same_settings_comes_back_and_none_fits_any(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"seed": 4, "rows": [1], "more": "x"}))
    assert read_state(path, "a soak", {"seed": 4}, NEEDS) == {"seed": 4, "rows": [1], "more": "x"}
    assert read_state(path, "a soak", {"seed": None}, NEEDS) == {"seed": 4, "rows": [1], "more": "x"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 4}', '{"rows": []}', '{"seed": 4, "rows": 1}', "\x00"])
def test_anything_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(OtherError, match="is not the state of a soak; another file starts a new one"):
        read_state(path, "a soak", {"seed": 4}, NEEDS, OtherError)
    assert path.read_text() == text


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"seed": 4, "config": "tiny", "rows": []}))
    with pytest.raises(
        LoralithError, match=r"the state of a soak with other settings: seed 4 \(now 5\), config 'tiny' \(now 'base'\); another"
    ):
        read_state(path, "a soak", {"seed": 5, "config": "base"}, NEEDS)
