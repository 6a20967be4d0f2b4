"""The examples that need no pipeline: a notebook and a loop in numpy. tests/sw/pipeline/test_example.py runs the third."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.notebooks import code_cells, printed, run_cells


def test_every_example_is_named(repo: Path) -> None:
    files = {path.name for path in (repo / "examples").iterdir() if path.suffix in (".py", ".ipynb")}
    page = (repo / "examples" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[([\w.]+)\]\(\1\) \|", page, re.MULTILINE)) == files


def test_the_notebook_prints_what_it_shows(repo: Path, one_thread: None) -> None:
    path = repo / "examples" / "attach_a_model.ipynb"
    cells = code_cells(json.loads(path.read_text(encoding="utf-8")))
    outputs = run_cells(path)
    for cell, output in zip(cells, outputs, strict=True):
        assert output == printed(cell), "".join(cell["source"])
    counted, expected = outputs[-2].split()
    assert counted == expected
    assert outputs[-1] == "True True\n"


def test_the_loop_in_numpy_learns_the_same_on_two_devices(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = str(repo / "examples" / "train_in_numpy.py")
    shown = []
    for device in ("direct", "reference"):
        monkeypatch.setattr(sys, "argv", [example, "--device", device, "--steps", "40"])
        runpy.run_path(example, run_name="__main__")
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    losses = [float(loss) for loss in re.findall(r"^step \d+: loss (\d+\.\d+)$", shown[0], re.MULTILINE)]
    assert len(losses) == 5
    assert losses[-1] < losses[0] / 10


def test_the_loop_in_numpy_imports_no_torch(repo: Path) -> None:
    example = str(repo / "examples" / "train_in_numpy.py")
    run = f"sys.argv[1:] = ['--steps', '1']; runpy.run_path({example!r}, run_name='__main__')"
    code = f"import runpy, sys; {run}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert found.stdout.splitlines()[-1:] == ["False"], found.stderr
