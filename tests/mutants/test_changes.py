"""Where a change of the RTL applies: by what it means, whatever the text around it looks like."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from loralith.rtl import queue
from loralith.verif.mutation import Change, MutationError, sites
from loralith.verif.mutation.emission import Emission
from loralith.verif.mutation.force import in_force
from loralith.verif.mutation.pattern import find, parse, substitute

BLOCK = """
class Block:
    def __init__(self):
        super().__init__({"valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        busy = Signal()  # a comment
        m.d.comb += [self.o.valid.eq(busy & ~self.stop & ready), busy.eq(count != 0)]
        with m.If(self.start & ~busy):
            m.d.sync += count.eq(total - 1)
            with m.If(self.clear):
                m.d.sync += total.eq(0)
        with m.Elif(busy):
            m.d.sync += count.eq(count - 1)
        for first, unit in reversed(units):
            m.d.sync += [getattr(unit, "level").eq(self._above(first))]
        return m

    def _above(self, value):
        return Mux(value > 3, value, 3)
"""


@pytest.fixture
def rtl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a block in a folder of its own."""
    monkeypatch.setattr(sites, "RTL", tmp_path)
    file = tmp_path / "block.py"
    file.write_text(BLOCK, encoding="utf-8")
    return file


def mutated(at: str, pattern: str, put: str, nth: int = 0) -> str:
    return Change("Block", at, pattern, put, "Wrong.", nth).edit.source()


@pytest.mark.parametrize(
    ("at", "pattern", "put", "old", "new"),
    [
        ("busy", "_a != 0", "_a == 0", "count != 0", "(count == 0)"),
        ("o.valid", "_a & ~self.stop", "_a", "busy & ~self.stop & ready", "(busy & ready)"),
        ("if count", "_a & ~_b", "_a", "self.start & ~busy", "(self.start)"),
        ("if count", "m.Elif(_a)", "m.Else()", "m.Elif(busy)", "(m.Else())"),
        ("if total", "_a", "m.If(0)", "m.If(self.clear)", "(m.If(0))"),
        ("outer if total", "self.start & _a", "self.start", "self.start & ~busy", "(self.start)"),
        ("for unit", "reversed(_a)", "_a", "reversed(units)", "(units)"),
        ("unit.level", "_f(_a)", "_a", "self._above(first)", "(first)"),
        ("_above", "Mux(_a > _b, _a, _b)", "_b", "Mux(value > 3, value, 3)", "(3)"),
        ("port valid", "Out(1)", "Out(1, init=1)", "Out(1)", "(Out(1, init=1))"),
    ],
)
def test_a_place_is_found_by_what_it_assigns(at: str, pattern: str, put: str, old: str, new: str, rtl: Path) -> None:
    assert BLOCK.count(old) == 1
    assert mutated(at, pattern, put) == BLOCK.replace(old, new)


def test_a_change_survives_comments_format_and_other_names(rtl: Path) -> None:
    first = mutated("o.valid", "_a & ~_b.stop", "_a")
    rtl.write_text(
        "# more text above\n\n"
        + BLOCK.replace(
            "busy & ~self.stop & ready", "(\n            # whether it may\n            working\n            & ready & ~self.stop\n)"
        )
        .replace("busy", "working")
        .replace("self, platform", "self, target"),
        encoding="utf-8",
    )
    second = mutated("o.valid", "_a & ~_b.stop", "_a")
    assert ast.dump(ast.parse(second.replace("working", "busy").replace("target", "platform"))) == ast.dump(ast.parse(first))


@pytest.mark.parametrize(
    ("block", "at", "pattern", "put", "nth", "message"),
    [
        ("Nowhere", "a", "_a", "0", 0, "0 classes or functions of loralith.rtl are named Nowhere, not one"),
        ("Block", "nothing", "_a", "0", 0, "nothing in Block is 'nothing'"),
        ("Block", "busy", "_a == 0", "0", 0, r"fits 0 times at 'busy' of Block, not once: .*count != 0"),
        ("Block", "count", "_a - 1", "0", 0, r"fits 2 times at 'count' of Block, not once: count - 1; total - 1"),
        ("Block", "count", "_a - 1", "0", 3, r"fits 2 times at 'count' of Block, not 3"),
        ("Block", "busy", "_a != 0", "_b", 0, "_b is not in the pattern"),
    ],
)
def test_a_change_that_does_not_apply_says_why(block: str, at: str, pattern: str, put: str, nth: int, message: str, rtl: Path) -> None:
    change = Change(block, at, pattern, put, "Wrong.", nth)
    with pytest.raises(MutationError, match=f"^{block}, {at}: .*{message}"):
        _ = change.edit


def test_the_nth_place_is_counted_in_the_text(rtl: Path) -> None:
    assert "count.eq((5))" in mutated("count", "_a - 1", "5", 1).split("m.Elif")[0]
    assert "count.eq((5))" in mutated("count", "_a - 1", "5", 2).split("m.Elif")[1]


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("_a & ~_b", "x & ~y & z", ["x & z, y"]),
        ("_a & _b", "x & y & z", ["x & y, z"]),
        ("_a & _b", "x | y", []),
        ("x & y", "y & x", [""]),
        ("x & y", "x & y & z", []),
        ("_a | (_a & _b)", "x | x & y", ["x, y"]),
        ("_a | (_a & _b)", "x | z & y", []),
        ("_a - _b", "x - y - z", ["x - y, z", "x, y"]),
        ("Mux(_a, _b, 0)", "Mux(c, x[0], 0) + Mux(c, y, 1)", ["c, x[0]"]),
        ("_a[:_n]", "word[:8] + word[8:]", ["word, 8"]),
        ("~_a & _b", "~x & ~y", ["x, ~y", "y, ~x"]),
    ],
)
def test_patterns(pattern: str, text: str, found: list[str]) -> None:
    matches = [", ".join(ast.unparse(bindings[name]) for name in sorted(bindings)) for _, bindings in find(parse(pattern), parse(text))]
    assert matches == found


def test_placeholders_are_filled_in_copies() -> None:
    ((_, bindings),) = find(parse("_a + 1"), parse("x + 1"))
    template = parse("_a + _a")
    assert ast.unparse(substitute(template, bindings)) == "x + x"
    assert ast.unparse(template) == "_a + _a"


def test_a_mutant_is_in_force_only_inside() -> None:
    original = queue.SkidBuffer
    with in_force(Change("SkidBuffer", "advance", "_a | _b", "1", "Wrong.").edit):
        assert queue.SkidBuffer is not original
    assert queue.SkidBuffer is original


def test_an_edit_that_means_the_same_changes_no_netlist() -> None:
    emission = Emission()
    assert not emission.changes(Change("Completion", "complete", "_a & _b", "(_a & _b)", "Nothing.").edit)
    assert emission.changes(Change("Completion", "complete", "_a & _b", "_a", "Wrong.").edit)
