"""Native models that are compiled by a profile of a short run."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from loralith.compiler.schedules.example import example
from loralith.device.native import build
from loralith.device.verilator import VerilatorDevice
from loralith.spec.config import load_config


class Tools:
    """Stands for Verilator and for the process that runs the library; keeps the flags that the compiler was given."""

    def __init__(self, *, takes_profiles: bool = True) -> None:
        self.version, self.takes_profiles = (5, 49), takes_profiles
        self.options: list[str] = []

    def run(self, *arguments: object) -> str:
        words = [str(word) for word in arguments]
        Path(words[words.index("-Mdir") + 1]).mkdir()
        return ""

    def compile(self, _verilator: object, _objects: Path, _sources: object, output: Path, *, flags: str, **_: object) -> None:
        self.options.append(flags)
        if not self.takes_profiles and "-fprofile" in flags:
            raise build.BuildError("unknown option -fprofile")
        output.touch()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "source.v"
    path.touch()
    return path


def _built(tools: Tools, source: Path, monkeypatch: pytest.MonkeyPatch, exit_status: int = 0) -> Path:
    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert Path(command[-2]).is_file()
        assert load_config(command[-1]) == load_config("tiny")
        if exit_status:
            raise subprocess.CalledProcessError(exit_status, command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(build, "find_verilator", lambda: tools)
    monkeypatch.setattr(build, "compile_design", tools.compile)
    monkeypatch.setattr(build.subprocess, "run", run)
    return build.build(load_config("tiny"), source=source, profiled=True)


def test_a_profiled_build_is_compiled_by_the_profile_of_its_first_compilation(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Tools()
    library = _built(tools, source, monkeypatch)
    first, second = tools.options
    assert "-fprofile-generate=" in first
    assert "-fprofile-use=" in second
    assert first.split("-fprofile-generate=")[1].split()[0] == second.split("-fprofile-use=")[1].split()[0]
    assert [path.name for path in library.parent.iterdir() if path.is_dir()] == []
    assert library != build.build(load_config("tiny"), source=source)


@pytest.mark.parametrize("fails", ["compiler", "run"])
def test_without_a_profile_the_build_is_the_plain_one(fails: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Tools(takes_profiles=fails != "compiler")
    library = _built(tools, source, monkeypatch, exit_status=int(fails == "run"))
    assert library.is_file()
    assert "-fprofile" not in tools.options[-1]


@pytest.mark.slow
def test_a_profiled_model_has_the_same_cycles_and_bytes() -> None:
    found = []
    for profiled in (False, True):
        with VerilatorDevice(load_config("tiny"), memory_bytes=1 << 20, profiled=profiled) as device:
            it = example(device.config, device.alloc(1 << 17, 4096), 1)
            device.write(it.address, it.image)
            cycles = device.run(it.commands).counters.cycles
            found.append((cycles, device.read(*it.results).tobytes()))
    assert found[0] == found[1]
