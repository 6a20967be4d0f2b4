"""`loralith bench unet` and `loralith bench outliers`: what they measure, keep and refuse; no time is asserted."""

import json

import pytest

pytest.importorskip("diffusers")

from loralith.cli import main
from loralith.mapping import unet_time
from loralith.study import outliers


@pytest.fixture
def in_process(monkeypatch):
    """Modes run here, which saves imports; the number of runs."""
    runs = []

    def child(model, mode, rank, threads, steps, originals):
        runs.append(mode)
        return unet_time.step_times(model, mode, rank, threads, steps, originals)

    monkeypatch.setattr(unet_time, "_child", child)
    return runs


def test_modes_take_turns_and_what_was_measured_stays(in_process, tmp_path, capsys):
    words = ["bench", "unet", "--model", "tiny", "--threads", "1", "--state", str(tmp_path / "state.json"), "--json"]
    assert main([*words, "--rounds", "1"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert in_process == ["torch", "lora", "all"]
    assert main([*words, "--rounds", "2", "--output", str(tmp_path / "unet")]) == 0
    assert in_process == ["torch", "lora", "all"] * 2, "the first round is not measured again"
    found = json.loads(capsys.readouterr().out)
    for mode in ("torch", "lora", "all"):
        assert found[f"{mode}_seconds"] > 0
        assert found[f"{mode}_loss"] == pytest.approx(found["torch_loss"], rel=0.01)
        assert found[f"{mode}_loss"] == first[f"{mode}_loss"], "of the same weights and inputs"
    assert found["all_loss"] != found["torch_loss"]
    page = (tmp_path / "unet.md").read_text()
    assert '`direct`, `modules="all"`' in page
    assert found["cpu"] in page
    assert "FP32 weights of attached models are in memory" in page
    assert main([*words, "--rank", "2"]) == 2
    assert "with other settings: rank 4 (now 2); another file starts a new one" in capsys.readouterr().err
    assert main([*words, "--originals", str(tmp_path / "none")]) == 2
    assert "--originals must be a folder that is there, not" in capsys.readouterr().err
    words[words.index("--state") + 1] = str(tmp_path / "file.json")
    assert main([*words, "--rounds", "1", "--originals", str(tmp_path)]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["originals"] == "file"
    assert [other[f"{mode}_loss"] for mode in ("lora", "all")] == [first[f"{mode}_loss"] for mode in ("lora", "all")]


def test_a_mode_that_fails_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(unet_time.SIZES, "tiny", {})
    monkeypatch.setattr(unet_time, "python_module", lambda *words: ["false"])
    assert main(["bench", "unet", "--model", "tiny", "--rounds", "1"]) == 2
    assert "the step of tiny in mode torch failed: no message; what was measured before is kept" in capsys.readouterr().err
    (tmp_path / "state.json").write_text("[]")
    assert main(["bench", "unet", "--model", "tiny", "--state", str(tmp_path / "state.json")]) == 2
    assert "is not the state of `bench unet`" in capsys.readouterr().err
    assert main(["bench", "unet", "--rounds", "0"]) == 2
    assert "--rounds must be at least 1, not 0" in capsys.readouterr().err


def test_outliers_are_measured_on_the_same_function(monkeypatch, tmp_path, capsys):
    for name, value in (("WIDTH", 64), ("HEADS", 4), ("TOKENS", 16), ("HELD_OUT", 1)):
        monkeypatch.setattr(outliers, name, value)
    plain, scaled = (outliers.Task(0, gains) for gains in (False, True))
    for (x, _), (also, _) in zip(plain.held_out, scaled.held_out, strict=True):
        assert (x == also).all()
        assert x.abs().max() < 6
    assert plain.model(plain.batches[0]).detach().numpy() == pytest.approx(scaled.model(plain.batches[0]).detach().numpy(), abs=1e-4)
    x = scaled.inputs()[0][0]
    assert x.abs().max() > 5 * plain.inputs()[0][0].abs().max() / 2
    assert len(scaled.inputs()) == 4
    words = ["bench", "outliers", "--seeds", "1", "--steps", "2", "--state", str(tmp_path / "state.json"), "--json"]
    assert main([*words, "--rotation", "64", "--output", str(tmp_path / "x")]) == 0
    found = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(outliers, "_row", None)
    assert main([*words, "--rotation", "64"]) == 0, "nothing is measured again"
    assert json.loads(capsys.readouterr().out)["rows"] == found["rows"]
    assert main([*words, "--rotation", "16"]) == 2
    assert "is the state of `bench outliers` with other settings" in capsys.readouterr().err
    (row,) = found["rows"]
    assert row["error_without"] < row["error_rotated"] < row["error_int8"], "an eighth of the channels are large here"
    assert "| 0 | " in (tmp_path / "x.md").read_text()
    assert main(["bench", "outliers", "--rotation", "0"]) == 2
    assert "--rotation must be 4, 16, 64 or 256, not 0" in capsys.readouterr().err
    assert main(["bench", "outliers", "--own-gain", "0"]) == 2
    assert "--own-gain must be above 0 and at most 100, not 0" in capsys.readouterr().err
    larger = outliers.Task(0, True, own_gain=1.0).inputs()[0][0]
    assert larger.abs().max() > 2 * x.abs().max()
    assert main(["bench", "outliers", "--seeds", "0"]) == 2
