"""The catalogue of mutants fits the hardware, and the tests see the four that were named first."""

import inspect
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from loralith import cli
from loralith.device.native import build
from loralith.mutants import MutantError
from loralith.mutants.mutant_model import build as build_mutant
from loralith.verif.mutation import Change, MutationError
from loralith.verif.mutation.emission import Emission
from loralith.verif.mutation.mutant_list import CONTROL, Mutant, read_catalogue
from loralith.verif.mutation.sites import RTL

# Structures and ports alone, or wiring that every other mutant runs through.
WITHOUT = {"__init__", "axi", "interfaces", "tile", "top"}

CATALOGUE = read_catalogue()
CHANGES = {mutant.name: mutant.change for mutant in CATALOGUE if mutant.change}


@pytest.fixture(scope="module")
def emission() -> Emission:
    return Emission()


@pytest.mark.parametrize("block", sorted({change.block for change in CHANGES.values()}))
def test_every_mutant_applies_and_changes_the_netlist(block: str, emission: Emission) -> None:
    wrong = {}
    for name, change in CHANGES.items():
        if change.block == block:
            try:
                if not emission.changes(change.edit):
                    wrong[name] = "it does not change the netlist"
            except Exception as error:
                wrong[name] = str(error)
    assert not wrong, "\n" + "\n".join(f"mutant {name!r}: {why}" for name, why in wrong.items())


def test_every_mutant_is_a_sentence_and_one_of_its_kind(repo: Path) -> None:
    for name, change in CHANGES.items():
        assert change.says[0].isupper() or change.says[0] in "-0123456789", name
        assert change.says.endswith("."), name
    edits = [(mutant.change.edit.path, mutant.change.edit.start, mutant.change.edit.text) for mutant in CATALOGUE if mutant.change]
    assert len(set(edits)) == len(CATALOGUE)
    assert all((repo / "tests" / "unit" / "rtl" / name).is_file() for mutant in CATALOGUE for name in mutant.unit)


def test_every_block_has_a_mutant() -> None:
    # The vector unit (`rtl/vector/`) is in no configuration yet, and the campaign runs tests of configurations.
    assert {path.stem for path in RTL.glob("*.py")} - WITHOUT == {mutant.module.split(".")[-1] for mutant in CATALOGUE}


def test_faulty_catalogue_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mutants.toml"
    entry = '[[mutant]]\nname = "one"\nblock = "Columns"\nat = "a"\nfind = "a"\nput = "b"\nsays = "Wrong."\n'
    file.write_text(entry + entry, encoding="utf-8")
    with pytest.raises(MutationError, match="mutant 'one' stands there twice"):
        read_catalogue(file)
    file.write_text(entry + 'finde = "c"\n', encoding="utf-8")
    with pytest.raises(MutationError, match=r"mutant 'one': .*finde"):
        read_catalogue(file)


def test_a_mutant_that_does_not_apply_is_named_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mutants.toml"
    file.write_text('[[mutant]]\nname = "one"\nblock = "Columns"\nat = "a"\nfind = "a"\nput = "b"\nsays = "Wrong."\n', encoding="utf-8")
    assert cli.main(["mutate", "--catalogue", str(file)]) == 2
    assert "mutant 'one': Columns, a: a -> b: nothing in Columns is 'a'" in capsys.readouterr().err
    with pytest.raises(MutantError, match="one: Columns, a: a -> b: nothing in Columns is 'a'"):
        build_mutant(Mutant("one", Change("Columns", "a", "a", "b", "Wrong.")), tmp_path / "work", tmp_path / "runtime")


def test_mutants_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mutate", "--list", "--only", "dropped tile", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["mutants"]
    assert (listed["name"], listed["block"], listed["at"]) == ("sequencer: dropped tile", "TileCounter", "rows_end")


def test_the_plugin_s_models_are_asked_for_as_the_real_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = [inspect.signature(function, eval_str=True) for function in (build.build, build.verilog)]
    monkeypatch.setenv("LORALITH_MUTANT", str(tmp_path))
    monkeypatch.setattr(build, "build", None)  # put back after the plugin has put its own there
    monkeypatch.setattr(build, "verilog", None)
    runpy.run_path(str(Path(__file__).with_name("mutated_model.py")))
    found = [inspect.signature(function, eval_str=True) for function in (build.build, build.verilog)]
    assert [list(one.parameters.values()) for one in found] == [list(one.parameters.values()) for one in asked]


def test_control_changes_nothing() -> None:
    assert CONTROL.change is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_named_mutants_are_killed_natively() -> None:
    names = ("dropped tile", "wrong rounding", "swapped sign", "stuck token")
    command = [sys.executable, "-m", "loralith", "mutate", "--json", "--stages", "native,golden,faults"]
    done = subprocess.run([*command, *(word for name in names for word in ("--only", name))], capture_output=True, text=True)
    figures = json.loads(done.stdout)
    assert (figures["mutants"], figures["killed"]) == (4, 4), figures
