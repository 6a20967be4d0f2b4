"""Runs that get SIGKILL: the kill falls where it was asked for, what is left says where, and `--resume` gives the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loralith.cli import main
from loralith.formats.run_folder import CHECKPOINT, PICTURE, REPORT
from loralith.training.kills.campaign import SAME_FILES, _difference
from loralith.training.kills.killed_run import MOMENTS, folder_place

# A process without threads, which a worker of the tests is not, and without torch.
SCRIPT = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from loralith.files import write_bytes
from loralith.training.kills import killed_run
from loralith.training.kills.killed_run import AtTime, InWrite, KilledRunError, run

folder = Path(sys.argv[1])
settings = SimpleNamespace(output=folder / "out")

def work(settings):
    write_bytes(b"first", settings.output / "run.ckpt")
    write_bytes(b"second", settings.output / "run.ckpt")
    write_bytes(b"picture", settings.output / "samples.png")

killed_run.train = work
print(run(settings, None))
for kill in (InWrite(1, "empty"), InWrite(1, "half"), InWrite(1, "whole"), InWrite(1, "renamed"), InWrite(3, "empty")):
    usage = run(settings, kill)
    parts = {path.read_bytes() for path in (folder / "out").glob(".*.part")}
    print(usage.killed, usage.writes, sorted(parts), (folder / "out" / "run.ckpt").read_bytes())
    for path in (folder / "out").glob(".*.part"):
        path.unlink()

def busy(settings):
    end = time.process_time() + 60
    while time.process_time() < end:
        pass

killed_run.train = busy
usage = run(settings, AtTime(0.05))
print(usage.killed, 0.05 <= usage.cpu_seconds < 30)

def wrong(settings):
    raise ValueError("not this way")

killed_run.train = wrong
try:
    run(settings, None)
except KilledRunError as error:
    print("not this way" in str(error))
"""


def test_a_kill_falls_where_it_was_asked_for(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True)
    whole, empty, half, all_of_it, renamed, late, by_time, told = done.stdout.splitlines()
    assert whole.endswith("killed=False, writes=3)")
    assert empty == "True None [b''] b'first'"
    assert half == "True None [b'sec'] b'first'"
    assert all_of_it == "True None [b'second'] b'first'"
    assert renamed == "True None [] b'second'"
    assert late == "False 3 [] b'second'"
    assert by_time == "True True"
    assert told == "True"
    assert len(MOMENTS) == 4


def test_the_folder_shows_where_the_kill_fell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = 2
    monkeypatch.setattr("loralith.formats.checkpoint.read_header", lambda path: {"step": step})
    assert folder_place(tmp_path / "nothing", 6) == "start"
    (tmp_path / ".probe.12.part").touch()
    assert folder_place(tmp_path, 6) == "start"
    (tmp_path / CHECKPOINT).touch()
    assert folder_place(tmp_path, 6) == "step or look"
    step = 6
    assert folder_place(tmp_path, 6) == "evaluation at the end"
    (tmp_path / PICTURE).touch()
    assert folder_place(tmp_path, 6) == "between results"
    (tmp_path / f".{PICTURE}.12.part").touch()
    assert folder_place(tmp_path, 6) == "result write"
    (tmp_path / f".{CHECKPOINT}.12.part").touch()
    assert folder_place(tmp_path, 6) == "checkpoint write"


def test_what_a_resumed_run_left_otherwise_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loralith.formats.checkpoint.read_header", lambda path: {"digest": path.read_text(encoding="utf-8")})

    def folder(name: str, **changed: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        files = dict.fromkeys((*SAME_FILES, CHECKPOINT), "same") | {REPORT: '{"losses": [1], "seconds": 2}'} | changed
        for file, text in files.items():
            (path / file).write_text(text, encoding="utf-8")
        return path

    whole = folder("whole")
    assert _difference(folder("same", **{REPORT: '{"losses": [1], "seconds": 3}'}), whole) is None
    assert _difference(folder("losses", **{REPORT: '{"losses": [2], "seconds": 2}'}), whole) == f"losses of {REPORT} is [2] instead of [1]"
    assert _difference(folder("moments", **{CHECKPOINT: "other"}), whole) == f"the tensors of {CHECKPOINT} differ"
    assert _difference(folder("picture", **{PICTURE: "other"}), whole) == f"{PICTURE} differs"
    assert "holds .x.part, " in str(_difference(folder("litter", **{".x.part": ""}), whole))


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"places": {}, "runs": 1}'])
def test_another_file_is_no_state(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.json"
    state.write_text(text, encoding="utf-8")
    assert main(["soak", "--kills", "1", "--config", "tiny", "--state", str(state)]) == 2
    assert "is not the state of a campaign of kills" in capsys.readouterr().err
    assert state.read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_killed_and_resumed_runs_have_the_bits_of_one_that_nobody_kills(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "loralith", "soak", "--seed", "1", "--config", "tiny", "--state", str(state), "--json", "--kills"]
    for kills in ("2", "8"):  # the second goes on from the first
        done = subprocess.run([*command, kills], capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["difference"] is None
    assert result["equal"] == result["kills"] >= 8
    assert sum(sum(counts.values()) for counts in result["places"].values()) == result["kills"]
    assert json.loads(state.read_text(encoding="utf-8")) == result
