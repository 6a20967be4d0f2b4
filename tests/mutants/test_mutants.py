"""The catalogue of mutants fits the hardware, and the tests see the four that were named first."""

import inspect
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from loralith.device.native import build
from loralith.mutants import CONTROL, Mutant, MutantError, read_catalogue
from loralith.mutants.catalogue import RTL

# Structures and ports alone, or wiring that every other mutant runs through.
WITHOUT = {"__init__", "axi", "interfaces", "tile", "top"}


@pytest.fixture(scope="module")
def catalogue() -> list[Mutant]:
    return read_catalogue(Path(__file__).with_name("mutants.toml"))


def test_every_mutant_applies_and_is_python(catalogue: list[Mutant], repo: Path) -> None:
    for mutant in catalogue:
        compile(mutant.source(), mutant.name, "exec")
        assert all((repo / "tests" / "unit" / "rtl" / name).is_file() for name in mutant.unit), mutant.name


def test_every_block_has_a_mutant(catalogue: list[Mutant]) -> None:
    assert {path.stem for path in RTL.glob("*.py")} - WITHOUT == {mutant.module for mutant in catalogue}


def test_mutant_that_does_not_fit_is_named() -> None:
    with pytest.raises(MutantError, match=r"late: 'x\.eq\(y\)' stands 0 times in loralith\.rtl\.array, not once"):
        Mutant("late", "array", "x.eq(y)", "x.eq(0)").source()
    with pytest.raises(MutantError, match=r"late: there is no loralith\.rtl\.nowhere"):
        Mutant("late", "nowhere", "x", "y").source()


def test_faulty_catalogue_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mutants.toml"
    entry = '[[mutant]]\nname = "one"\nmodule = "array"\nold = "a"\nnew = "b"\n'
    file.write_text(entry + entry, encoding="utf-8")
    with pytest.raises(MutantError, match="mutant 'one' stands there twice"):
        read_catalogue(file)
    file.write_text(entry + 'olde = "c"\n', encoding="utf-8")
    with pytest.raises(MutantError, match=r"mutant 'one': .*olde"):
        read_catalogue(file)


def test_the_plugin_s_models_are_asked_for_as_the_real_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = [inspect.signature(function, eval_str=True) for function in (build.build, build.verilog)]
    monkeypatch.setenv("LORALITH_MUTANT", str(tmp_path))
    monkeypatch.setattr(build, "build", None)  # put back after the plugin has put its own there
    monkeypatch.setattr(build, "verilog", None)
    runpy.run_path(str(Path(__file__).with_name("mutated_model.py")))
    found = [inspect.signature(function, eval_str=True) for function in (build.build, build.verilog)]
    assert [list(one.parameters.values()) for one in found] == [list(one.parameters.values()) for one in asked]


def test_control_changes_nothing() -> None:
    assert CONTROL.old == CONTROL.new


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_named_mutants_are_killed_natively() -> None:
    names = ("dropped tile", "wrong rounding", "swapped sign", "stuck token")
    command = [sys.executable, "-m", "loralith", "mutate", "--json", "--stages", "native,golden,faults"]
    done = subprocess.run([*command, *(word for name in names for word in ("--only", name))], capture_output=True, text=True)
    figures = json.loads(done.stdout)
    assert (figures["mutants"], figures["killed"]) == (4, 4), figures
