"""`loralith.core`: FuseSoC gets everything from a checkout without a step before it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="module")
def core(repo: Path) -> dict:
    text = (repo / "loralith.core").read_text(encoding="utf-8")
    assert text.startswith("CAPI=2:\n")
    return yaml.safe_load(text.partition("\n")[2])


def test_every_file_and_name_of_the_core_exists(core: dict, repo: Path) -> None:
    for fileset in core["filesets"].values():
        for entry in fileset["files"]:
            assert all((repo / path).is_file() for path in entry), entry
    for generator in core["generators"].values():
        assert (repo / generator["command"]).is_file()
    for what in core["generate"].values():
        assert what["generator"] in core["generators"]
    for target in core["targets"].values():
        assert set(target["generate"]) <= set(core["generate"])
        assert set(target.get("filesets", [])) <= set(core["filesets"])


@pytest.mark.parametrize("config", ["tiny", "own.json"])
def test_the_generator_makes_a_core_of_the_verilog(config: str, core: dict, repo: Path, tmp_path: Path) -> None:
    """Called as FuseSoC calls it, in a folder of FuseSoC's."""
    root, work = tmp_path / "checkout", tmp_path / "work"
    root.mkdir()
    work.mkdir()
    (root / ".venv").symlink_to(Path(sys.prefix))
    (root / "own.json").write_text(json.dumps({"base": "tiny"}))
    told = {"files_root": str(root), "gapi": "1.0", "parameters": {"config": config}, "vlnv": "::loralith-base:0.1.0"}
    (work / "input.yml").write_text(yaml.safe_dump(told))
    (command,) = {generator["command"] for generator in core["generators"].values()}
    done = subprocess.run([sys.executable, str(repo / command), "input.yml"], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (work / "generated.core").read_text()
    made = yaml.safe_load(text.partition("\n")[2])
    assert text.startswith("CAPI=2:\n")
    assert made["name"] == told["vlnv"]
    (verilog,) = made["filesets"]["rtl"]["files"]
    assert made["targets"]["default"]["filesets"] == ["rtl"]
    assert "module loralith(" in (work / verilog).read_text()
