"""What `pip install .` gives: everything that the commands read, and a part that runs on a board's Python."""

import ast
import email.parser
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import loralith
from loralith import places
from loralith.toolchain import BOARD_PYTHON, python_module

BOARD = ("sw/loralith/device", "sw/loralith/compiler", "sw/loralith/lora", "gen/loralith/spec")
BOARD_MODULES = ("sw/loralith/errors.py", "sw/loralith/places.py", "sw/loralith/toolchain.py", "sw/loralith/cli/__init__.py")


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = python_module("hatchling", "build", "--target", "wheel", "--directory", folder)
    done = subprocess.run(command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip does."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_a_wheel_holds_all_sources_and_what_commands_read(repo: Path, wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(repo / folder).as_posix()
        for folder in ("gen", "hw", "sw", "verif")
        for path in (repo / folder / "loralith").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyi"
    }
    assert sources - held == set()
    elsewhere = [path for path in (repo / "constraints").rglob("*") if path.is_file()]
    elsewhere += [repo / "sw/include/loralith.h", repo / "docs/results/study.json", repo / "docs/results/study-kv/study.json"]
    elsewhere += (repo / "docs/results/shapes").glob("*.json")
    assert {f"loralith/_checkout/{path.relative_to(repo).as_posix()}" for path in elsewhere} - held == set()
    assert "loralith/py.typed" in held
    assert "loralith/__main__.py" in held


def test_a_wheel_s_description(repo: Path, wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    about = email.parser.Parser().parsestr(archive.read(name).decode())
    assert about["Version"] == loralith.__version__
    assert about["Requires-Python"] == f">={'.'.join(map(str, BOARD_PYTHON))}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--help", "INT8 LoRA training accelerator"),
        ("synth --board nowhere", "known are aup-zu3, kv260, ulx3s-85f, zcu104"),
        ("study --results", "Training schemes against FP32"),
        ("study --publish", "--publish writes docs/results of a checkout"),
        ("gen", "`loralith gen verilog` writes the Verilog"),
    ],
)
def test_an_installed_command_runs_from_an_empty_folder(words: str, said: str, installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-m", "loralith", *words.split()],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert said in done.stdout
    assert "Traceback" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_builds_of_an_installed_package_go_to_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert places.builds() == places.checkout() / "build"
    monkeypatch.setattr(places, "_PACKAGE", tmp_path / "site" / "loralith")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert places.checkout() is None
    assert places.builds() == tmp_path / "cache" / "loralith"


NEWER = {
    "tomllib",
    "Self",
    "Never",
    "assert_never",
    "LiteralString",
    "StrEnum",
    "ReprEnum",
    "UTC",
    "chdir",
    "file_digest",
    "batched",
    "ExceptionGroup",
    "TaskGroup",
    "add_note",
    "override",
}
"""Names that Python's standard library has had since 3.11 or 3.12, of those that one might use here."""


def newer_than_a_board(source: str) -> set[str]:
    """Names of NEWER in a module's text. Raises SyntaxError for newer syntax."""
    nodes = list(ast.walk(ast.parse(source, feature_version=BOARD_PYTHON)))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    return names & NEWER


def test_the_part_of_a_board_uses_nothing_newer_than_its_python(repo: Path) -> None:
    """PYNQ's images have 3.10."""
    paths = [path for part in BOARD for path in (repo / part).rglob("*.py")] + [repo / name for name in BOARD_MODULES]
    assert {path.name: found for path in paths if (found := newer_than_a_board(path.read_text(encoding="utf-8")))} == {}
    assert newer_than_a_board("from typing import Self\nimport datetime\ndatetime.UTC") == {"Self", "UTC"}
    with pytest.raises(SyntaxError):
        newer_than_a_board("try:\n    pass\nexcept* ValueError:\n    pass")


@pytest.mark.slow
def test_the_part_of_a_board_passes_the_type_checker_for_its_python(repo: Path) -> None:
    command = python_module("pyright", "--pythonversion", ".".join(map(str, BOARD_PYTHON)), "--level", "error", *BOARD, *BOARD_MODULES)
    done = subprocess.run(command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_what_a_board_lacks_is_not_imported_there(repo: Path) -> None:
    """Modules that Python 3.11 added, but in what does not run on a board: synthesis, mutants, coverage, reports, diagrams."""
    users = [path for folder in ("gen", "sw") for path in (repo / folder).rglob("*.py") if "import tomllib" in path.read_text()]
    assert {path.parent.name for path in users} <= {"synth", "mutants", "diagrams", "reports", "coverage"}
    assert tomllib.loads((repo / "pyproject.toml").read_text())["project"]["requires-python"].startswith(">=3.10")
