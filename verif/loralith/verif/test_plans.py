"""Test plans of the RTL's blocks, verif/testplans/*.toml: which features a block has, what could go wrong, and what tests it.

A plan is a file of `block`, its name, `covers`, the classes of `loralith.rtl` that it is about, and tables `[[feature]]` of `name`, `risk`,
`stimulus`, `check`, `tests` (pytest names without parameters), `properties` (of docs/generated/formal.md, as `block.property`) and
`mutants` (of tests/mutants/mutants.toml).
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loralith.errors import LoralithError
from loralith.files import read_text

from .mutation.mutant_list import read_catalogue

__all__ = ["CLAIMED", "Feature", "Plan", "PlanError", "problems", "read_plans", "names_of_tests"]

ROOT = Path(__file__).resolve().parents[3]
CLAIMED = ("tests/cocotb", "tests/unit/rtl")
"""Folders of tests each of which a plan must name."""
WORDS = ("name", "risk", "stimulus", "check")
LISTS = ("tests", "properties", "mutants")


class PlanError(LoralithError):
    """A plan cannot be read, or a word of it is missing or unknown; the message names file and feature."""


@dataclass(frozen=True)
class Feature:
    """What a block does.

    Attributes:
        name, risk, stimulus, check: sentences: the feature, what could be wrong, what tests apply, and what they compare with.
        tests, properties, mutants: names, see the module.
    """

    name: str
    risk: str
    stimulus: str
    check: str
    tests: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A file's features, in its order. Attributes: block, name; covers, classes of `loralith.rtl`."""

    block: str
    covers: tuple[str, ...]
    features: tuple[Feature, ...]


def read_plans(root: Path = ROOT) -> list[Plan]:
    """The plans of a checkout, by name of their file. Raises PlanError."""
    folder = root / "verif" / "testplans"
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        raise PlanError(f"{folder} has no test plans; a checkout has them")
    return [_plan(path) for path in paths]


def _plan(path: Path) -> Plan:
    try:
        table = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path} is no TOML: {error}") from None
    if set(table) != {"block", "covers", "feature"}:
        raise PlanError(f"{path.name} has {', '.join(sorted(table))}; a test plan has block, covers and [[feature]]")
    return Plan(table["block"], tuple(table["covers"]), tuple(_feature(path, entry) for entry in table["feature"]))


def _feature(path: Path, entry: dict[str, str | list[str]]) -> Feature:
    where = f"{path.name}, feature {entry.get('name', '?')!r}"
    if unknown := sorted(set(entry) - {*WORDS, *LISTS}):
        raise PlanError(f"{where}: unknown {', '.join(unknown)}")
    if missing := [word for word in WORDS if not isinstance(entry.get(word), str) or not entry[word]]:
        raise PlanError(f"{where}: {', '.join(missing)} must be text")
    if wrong := [key for key in LISTS if not isinstance(entry.get(key, []), list)]:
        raise PlanError(f"{where}: {', '.join(wrong)} must be lists of names")
    name, risk, stimulus, check = (str(entry[word]) for word in WORDS)
    tests, properties, mutants = (tuple(entry.get(key, ())) for key in LISTS)
    return Feature(name, risk, stimulus, check, tests, properties, mutants)


def names_of_tests(folder: Path, root: Path = ROOT) -> Iterator[str]:
    """Names of all test functions below a folder, as pytest calls them without parameters: `tests/cocotb/test_golden.py::test_x`."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(read_text(path)).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                yield f"{path.relative_to(root).as_posix()}::{node.name}"


def problems(plans: list[Plan], root: Path = ROOT) -> list[str]:
    """What does not fit, as sentences: names that are nowhere, features without any test or property, and what no plan names."""
    known = {
        "test": set(names_of_tests(root / "tests", root)),
        "property": set(_properties(root)),
        "mutant": {mutant.name for mutant in read_catalogue(root / "tests" / "mutants" / "mutants.toml")},
        "block": set(_classes(root)),
    }
    named: dict[str, dict[str, str]] = {kind: {} for kind in known}
    found = []
    for plan in plans:
        named["block"] |= dict.fromkeys(plan.covers, plan.block)
        for feature in plan.features:
            where = f"{plan.block}, {feature.name!r}"
            for kind, names in (("test", feature.tests), ("property", feature.properties), ("mutant", feature.mutants)):
                named[kind] |= dict.fromkeys(names, where)
            if not feature.tests and not feature.properties:
                found.append(f"{where}: no test and no property")
    for kind, names in named.items():
        found += [f"{where}: there is no {kind} {name}" for name, where in names.items() if name not in known[kind]]
    claimed = {name for name in known["test"] if name.startswith(tuple(f"{folder}/" for folder in CLAIMED))}
    for kind, names in (*known.items(), ("test", claimed)):
        if kind != "test" or names is claimed:
            found += [f"no test plan names the {kind} {name}" for name in sorted(names - set(named[kind]))]
    return found


def _properties(root: Path) -> Iterator[str]:
    """`block.property`, from the generated table."""
    for row in read_text(root / "docs" / "generated" / "formal.md").splitlines():
        if match := re.match(r"\| ([\w.]+) \| (\w+) \|", row):
            if match[1] != "block":
                yield f"{match[1]}.{match[2]}"


def _classes(root: Path) -> Iterator[str]:
    """Classes of `loralith.rtl` with an `elaborate`."""
    for path in sorted((root / "hw" / "loralith" / "rtl").rglob("*.py")):
        for node in ast.parse(read_text(path)).body:
            if isinstance(node, ast.ClassDef) and any(isinstance(part, ast.FunctionDef) and part.name == "elaborate" for part in node.body):
                yield node.name
