"""Files that are whole or absent, and checkpoints that say what is wrong with them."""

import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import save_file

from helpers.same_values import assert_same_values
from loralith.files import write_bytes, write_json
from loralith.formats.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    settings_hash,
)
from loralith.formats.run_folder import FolderError, check_folder, locked

SETTINGS = {"rank": 4, "alpha": 4.0, "targets": ["to_k", "to_q"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.ckpt"
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2]), "scalar": torch.tensor(3.5)}
    save_checkpoint(Checkpoint(7, tensors, {"losses": [0.1, 1 / 3]}), SETTINGS, path)
    return path


def test_checkpoint_comes_back_exactly(path: Path) -> None:
    read = load_checkpoint(path, SETTINGS)
    assert read.step == 7
    assert read.extra == {"losses": [0.1, 1 / 3]}
    assert_same_values(read.tensors["b"], torch.arange(6.0).reshape(2, 3))
    assert read.tensors["scalar"].shape == ()


def test_same_state_gives_the_same_bytes(path: Path) -> None:
    first = path.read_bytes()
    read = load_checkpoint(path, SETTINGS)
    save_checkpoint(Checkpoint(7, dict(reversed(read.tensors.items())), read.extra), SETTINGS, path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_checkpoint_is_named(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"run\.ckpt is damaged or not a checkpoint"):
        load_checkpoint(path, SETTINGS)


def test_altered_tensor_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="do not match the hash"):
        load_checkpoint(path, SETTINGS)


def test_foreign_file_is_named(path: Path) -> None:
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of loralith"):
        load_checkpoint(path, SETTINGS)


def test_other_settings_are_refused_with_both_hashes_and_the_difference(path: Path) -> None:
    other = SETTINGS | {"rank": 8}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, other)
    message = str(caught.value)
    assert settings_hash(SETTINGS) in message
    assert settings_hash(other) in message
    assert "rank is 4 there and 8 here" in message
    assert "alpha" not in message


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    path = tmp_path / "report.json"
    write_bytes(b"old", path)

    def fail(*_arguments: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, fault, fail)
    with pytest.raises(OSError, match="no space"):
        write_bytes(b"new", path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json({"loss": float("nan")}, tmp_path / "report.json")
    assert not any(tmp_path.iterdir())
    write_json({"loss": 0.5}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == {"loss": 0.5}


@pytest.mark.parametrize(
    ("names", "resume", "message"),
    [
        (["report.json", "run.ckpt"], False, "holds a finished run"),
        (["run.ckpt"], False, "holds an unfinished run .* --resume"),
        (["adapter_config.json"], False, r"another run's adapter_config\.json"),
        (["thesis.tex"], False, r"not this command's \(thesis\.tex\)"),
        (["thesis.tex", "run.ckpt"], True, r"not this command's \(thesis\.tex\)"),
        ([], True, "no checkpoint to resume from"),
        (None, True, "does not exist"),
    ],
)
def test_folder_of_another_run_is_refused(tmp_path: Path, names: list[str] | None, resume: bool, message: str) -> None:
    folder = tmp_path / "out"
    for name in names or []:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("kept")
    if names == []:
        folder.mkdir()
    with pytest.raises(FolderError, match=message):
        check_folder(folder, resume=resume)
    assert folder.exists() == (names is not None)
    assert all((folder / name).read_text() == "kept" for name in names or [])


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(FolderError, match="is a file"):
        check_folder(tmp_path / "out", resume=False)


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(FolderError, match="another run is writing"), locked(tmp_path / "out"):
        pass
    (tmp_path / "out" / ".report.json.x.part").write_text("half")
    with locked(tmp_path / "out"):
        assert not any((tmp_path / "out").iterdir()), "what a killed run left half-written is cleared"
