"""Where the command line writes: never over what it reads, nothing beside what is named, nothing when it is interrupted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loralith import cli
from loralith.spec.config import PRESETS


@pytest.mark.parametrize(
    "words",
    [
        ["gen", "verilog", "--config", "CONFIG", "--output", "OUT"],
        ["gen", "verilog", "--config", "CONFIG", "--output", "x.v", "--description", "OUT"],
        ["explain", "--config", "CONFIG", "--trace", "OUT"],
        ["plan", "small", "--config", "CONFIG", "--output", "OUT"],
        ["report", "energy", "--config", "CONFIG", "--output", "OUT"],
        ["report", "area", "--config", "CONFIG", "--output", "OUT"],
        ["report", "memory", "--config", "CONFIG", "--output", "OUT"],
        ["bench", "sd15", "--config", "CONFIG", "--output", "OUT"],
        ["bench", "shapes", "--config", "CONFIG", "--output", "OUT"],
        ["bench", "simulator", "--config", "CONFIG", "--output", "OUT"],
        ["synth", "--config", "CONFIG", "--output", "OUT"],
    ],
    ids=" ".join,
)
def test_no_output_is_the_configuration_that_is_read(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor a folder, nor below a file; all told before the work, which takes none of these milliseconds."""
    monkeypatch.chdir(tmp_path)
    content = json.dumps({"name": "mine", **{key: value for key, value in PRESETS["tiny"].as_dict().items() if key != "name"}})
    (tmp_path / "t.json").write_text(content)
    for name in ("d", "d.json", "d.md"):
        (tmp_path / name).mkdir()
    for output, message in (("t.json", "is what this command reads"), ("d", "is a folder"), ("t.json/x", "is not a folder")):
        assert cli.main([{"CONFIG": "t.json", "OUT": output}.get(word, word) for word in words]) == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: output ")
        assert message in error
    assert (tmp_path / "t.json").read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "d.json", "d.md", "t.json"]


def test_gen_verilog_writes_what_is_named_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--output t.v` once took t.json, the configuration that it was made from, for its description."""
    from loralith.gen import verilog

    monkeypatch.setattr(verilog, "convert", lambda config: f"module loralith; // {config.name}\n")
    content = json.dumps({"name": "mine", **{key: value for key, value in PRESETS["tiny"].as_dict().items() if key != "name"}})
    (tmp_path / "t.json").write_text(content)
    (tmp_path / "real.v").write_text("old")
    (tmp_path / "t.v").symlink_to("real.v")
    words = ["gen", "verilog", "--config", str(tmp_path / "t.json"), "--output", str(tmp_path / "t.v")]
    assert cli.main(words) == 0
    assert capsys.readouterr().err == f"wrote {tmp_path / 't.v'}\n"
    assert (tmp_path / "t.json").read_text() == content
    assert (tmp_path / "t.v").is_symlink()
    assert (tmp_path / "real.v").read_text() == "module loralith; // mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real.v", "t.json", "t.v"]
    assert cli.main([*words, "--description", str(tmp_path / "what.json")]) == 0
    assert json.loads((tmp_path / "what.json").read_text())["config"]["name"] == "mine"


def test_a_verilog_that_is_interrupted_ends_with_130(tmp_path: Path) -> None:
    code = "import signal, threading; from loralith.gen import verilog; from loralith.cli import main\n"
    code += "verilog.convert = lambda config: signal.raise_signal(signal.SIGINT)\n"
    code += f"raise SystemExit(main(['gen', 'verilog', '--output', {str(tmp_path / 'x.v')!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    assert not list(tmp_path.iterdir())
