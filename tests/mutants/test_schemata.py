"""Sources that hold many mutants: which expressions they change, and that the one that is selected is in force, and no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Fragment, Module, Signal

from loralith.mutants import MutantError
from loralith.mutants.block_campaign import STAGES, BlockVerdict
from loralith.mutants.blocks_report import figures_of, page
from loralith.mutants.survivors import read_survivors
from loralith.mutants.verdict_store import VerdictStore, key_of
from loralith.verif.block_test import simulate
from loralith.verif.mutation import MutationError, choice, schemata, sites
from loralith.verif.mutation.asked_equivalence import equal
from loralith.verif.mutation.forked import Died, forked
from loralith.verif.mutation.schemata import SchemaMutant, mutants_of, ranked, rewritten

BLOCK = '''
"""A block."""
from __future__ import annotations

from amaranth.hdl import Elaboratable, Module, Mux, Signal


class Block(Elaboratable):
    width = 8 + 1

    def __init__(self):
        self.a, self.b, self.run, self.out = Signal(4), Signal(4), Signal(), Signal(8)

    def _largest(self, m):
        m.d.comb += self.seen.eq(1)
        return Mux(self.a > self.b, self.a, self.b)

    def elaborate(self, platform):
        m = Module()
        self.seen = Signal()
        total = self.a + self.b
        target = self.out[4:]
        count = 3
        with m.If(self.run & ~self.b[0]):
            m.d.comb += [self.out[:4].eq(total), target.eq(self.a)]
        with m.Else():
            m.d.comb += self.out.eq(self._largest(m))
        return m
'''


@pytest.fixture
def block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, SchemaMutant]]:
    """The mutants of a block in a file of its own, by what they are called after the block's name."""
    monkeypatch.setattr(sites, "RTL", tmp_path / "rtl")
    monkeypatch.setattr(schemata, "RTL", tmp_path / "rtl")
    (tmp_path / "rtl").mkdir()
    (tmp_path / "rtl" / "block.py").write_text(BLOCK, encoding="utf-8")
    yield {mutant.name.removeprefix("Block, "): mutant for mutant in mutants_of("Block")}
    choice.select(None)
    choice.restrict(None)
    choice.outcomes.clear()


def made(mutants: dict[str, SchemaMutant]) -> tuple[dict[str, int], type]:
    """Their numbers, and the class that holds them."""
    numbers = {name: number for number, name in enumerate(mutants, 1)}
    (source,) = rewritten({numbers[name]: mutant for name, mutant in mutants.items()}).values()
    names: dict = {}
    exec(compile(source, "block", "exec", dont_inherit=True), names)
    return numbers, names["Block"]


def test_mutants_are_those_of_values_and_conditions_each_once(block: dict[str, SchemaMutant]) -> None:
    assert {
        "total: self.a + self.b -> self.a - self.b",
        "if self.out: self.run & ~self.b[0] -> self.run | ~self.b[0]",
        "if self.out: self.run & ~self.b[0] -> self.run",
        "_largest: self.a > self.b -> self.a >= self.b",
        "self.out: total -> 0",
    } <= set(block)
    assert not set(block) & {"width: 8 + 1 -> 8 - 1", "target: 4 -> 5"}, "no values: an attribute, and a name for what is assigned to"
    assert len({(mutant.place, mutant.text) for mutant in block.values()}) == len(block)
    assert ranked(block.values(), 1)[:5] == ranked(list(block.values())[::-1], 1)[:5] != ranked(block.values(), 2)[:5]


def test_the_original_is_there_with_no_mutant_selected(block: dict[str, SchemaMutant]) -> None:
    _, holder = made(block)
    choice.select(0)
    original: dict = {}
    exec(compile(BLOCK, "block", "exec", dont_inherit=True), original)
    assert netlist(holder()) == netlist(original["Block"]())


def netlist(dut) -> str:
    return rtlil.convert(dut, ports=[dut.a, dut.b, dut.run, dut.out], emit_src=False)


def values(holder: type, mutant: int, signal: bool) -> list[int]:
    """What comes out for some inputs, the mutant selected by a signal or made in the original's place."""
    choice.select(None if signal else mutant)
    dut, found = holder(), []
    m = Module()
    m.submodules.dut = dut
    if signal:
        m.d.comb += choice.SELECTED.eq(mutant)

    async def bench(ctx):
        for a, b, run in ((3, 6, 1), (6, 3, 1), (6, 6, 0), (9, 2, 0), (5, 8, 0), (15, 14, 1)):
            for port, value in ((dut.a, a), (dut.b, b), (dut.run, run)):
                ctx.set(port, value)
            found.append(ctx.get(dut.out))

    simulate(m, bench)
    return found


@pytest.mark.parametrize("signal", [True, False], ids=["signal", "instead"])
def test_the_selected_mutant_is_in_force(signal: bool, block: dict[str, SchemaMutant], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Module, "elaborate", Module.elaborate)
    choice.share_wires()
    numbers, holder = made(block)
    assert values(holder, 0, signal) == [0x39, 6, 6, 9, 8, 0xFD]
    assert values(holder, numbers["total: self.a + self.b -> self.a - self.b"], signal) == [0x3D, 6, 6, 9, 8, 0xF1]
    assert values(holder, numbers["self.out: total -> 0"], signal) == [0x30, 6, 6, 9, 8, 0xF0]
    assert values(holder, numbers["if self.out: self.run & ~self.b[0] -> self.run"], signal) == [0x39, 0x69, 6, 9, 8, 0xFD]


def test_what_is_no_hardware_cannot_be_selected(block: dict[str, SchemaMutant], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Module, "elaborate", Module.elaborate)
    choice.share_wires()
    numbers, holder = made(block)
    netlist(holder())

    def outcome(name: str) -> list[str]:
        return list(choice.outcomes[numbers[name]])

    assert outcome("self.out: total -> 0") == ["selectable"]
    assert outcome("count: 3 -> 4") == ["none"], "an integer that nothing of the hardware takes"
    assert outcome("self.out: self._largest(m) -> 0") == ["selectable"]
    assert outcome("_largest: self.a > self.b -> self.a >= self.b") == ["selectable"]


def test_a_mutant_that_adds_to_the_module_again_is_none() -> None:
    m, seen = Module(), Signal()

    def adds() -> Signal:
        m.d.comb += seen.eq(1)
        return seen

    Fragment.get(m, None)
    choice.select(1)
    try:
        value = Signal(4) + 1
        assert choice.choose(True, lambda: value, (1, adds)) is value
        assert list(choice.outcomes.pop(1)) == ["none"]
    finally:
        choice.select(None)


def test_sources_cannot_be_rewritten_once_they_are_imported() -> None:
    with pytest.raises(MutationError, match="test_schemata are imported already"):
        schemata.install({__name__: ""})


def test_a_process_of_its_own_answers_or_says_how_it_ended() -> None:
    assert forked(lambda: "found", 5) == "found"
    with pytest.raises(Died, match="ended by signal 9"):
        forked(lambda: os.kill(os.getpid(), signal.SIGKILL) or "", 5)
    with pytest.raises(Died, match="no end within 1 s"):
        forked(lambda: [None for _ in iter(int, 1)] and "", 1)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        forked(lambda: str(1 // 0), 5)


def test_only_equal_netlists_are_proved_equivalent(tmp_path: Path) -> None:
    def counter(step: str) -> str:
        m, count, out, go = Module(), Signal(3, name="count"), Signal(name="out"), Signal(name="go")
        top = {"by two": count + 2, "by four minus two": count + 4 - 2, "by three": count + 3}[step]
        with m.If(go):
            m.d.sync += count.eq(top)
        m.d.comb += out.eq(count == 4)
        return rtlil.convert(m, name="top", ports=[go, out], emit_src=False)

    assert equal(counter("by two"), counter("by four minus two"), tmp_path / "same", 20)
    assert not equal(counter("by two"), counter("by three"), tmp_path / "other", 20)


def test_a_block_s_tests_kill_its_mutant_and_not_the_original(tmp_path: Path, repo: Path) -> None:
    names = [mutant.name for mutant in mutants_of("Completion")]
    wanted = [name for name in names if "-> 0" in name][:1]
    out, into = os.pipe()
    request = {"stage": "unit", "blocks": ["Completion"], "mutants": wanted, "folder": str(tmp_path), "seconds": 60, "answers": into}
    request["tests"] = ["tests/unit/rtl/test_completion.py"]
    command = [sys.executable, "-P", "-m", "loralith.verif.mutation.asked"]
    done = subprocess.run(command, input=json.dumps(request), text=True, pass_fds=[into], cwd=repo, capture_output=True)
    os.close(into)
    with os.fdopen(out) as answers:
        (answer,) = map(json.loads, answers)
    assert done.returncode == 0, done.stderr
    assert answer["name"] == wanted[0]
    assert answer["found"].startswith("tests/unit/rtl/test_completion.py::"), answer


def test_verdicts_are_kept_by_what_they_depend_on(tmp_path: Path) -> None:
    file = tmp_path / "tests.py"
    file.write_text("one", encoding="utf-8")
    first = key_of("block", "mutant", files=[file])
    assert first == key_of("block", "mutant", files=[file]) != key_of("block", "other", files=[file])
    file.write_text("two", encoding="utf-8")
    assert key_of("block", "mutant", files=[file]) != first
    store = VerdictStore(tmp_path / "found.json", {"a": ["lists", 1.0], "b": ["", 2.0]})
    store.put("c", "unit", 0.123)
    store.save()
    again = VerdictStore(tmp_path / "found.json", {})
    assert (again.get("a"), again.get("b"), again.get("c"), again.get("d")) == (("lists", 1.0), ("", 2.0), ("unit", 0.12), None)
    assert set(again.used) == {"a", "b", "c"}


def test_a_page_says_who_killed_and_why_others_live() -> None:
    verdicts = [
        BlockVerdict("plan", "A", "A, x: a | b -> a & b", "killed", "native", "lists", 1.0),
        BlockVerdict("plan", "A", "A, x: 1 -> 2", "killed", "unit", "a test", 1.0),
        BlockVerdict("plan", "A", "A, x: 1 -> 0", "equivalent", "equivalent", "a proof", 1.0),
        BlockVerdict("plan", "A", "A, y: a | b -> a", "survived", "", "", 1.0),
        BlockVerdict("plan", "A", "A, y: a | b -> b", "open", "", "", 1.0),
    ]
    figures = figures_of(verdicts, {"plan": (9, 7)}, {"A, y: a | b -> a": "Nothing reads it."}, {})
    plan = figures["plans"]["plan"]
    assert [plan[stage] for stage in STAGES] == [1, 0, 1, 1, 0]
    assert (plan["percent"], plan["open"], plan["survivors"], plan["explained"]) == (50.0, 1, 1, 1)
    text = "\n".join(page(figures))
    assert "| plan | 9 | 7 | 5 | 1 | 0 | 1 | 1 | 0 | 1 | 1 | 50.0 % |" in text
    assert "| `A, y: a \\| b -> a` | Nothing reads it. |" in text


def test_reasons_are_of_mutants_that_are_there() -> None:
    names = {mutant.name for block in {name.split(",")[0] for name in read_survivors()} for mutant in mutants_of(block)}
    assert set(read_survivors()) <= names, "a mutant that is explained is gone: its block has changed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[survivor]]\nmutants = ["a"]\n', "survivor 1: it must have mutants, a list of names, and reason"),
        ('[[survivor]]\nmutants = ["a", "a"]\nreason = "b"\n', "'a' stands there twice"),
        ("[[", "is no list of survivors"),
    ],
)
def test_faulty_reasons_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "survivors.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(MutantError, match=message):
        read_survivors(file)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_model_holds_mutants_that_lists_kill_and_the_original() -> None:
    words = ["mutate", "--json", "--plans", "queues", "--count", "3", "--stages", "native,faults"]
    done = subprocess.run([sys.executable, "-P", "-m", "loralith", *words], capture_output=True, text=True)
    figures = json.loads(done.stdout)  # the stages run lists with no mutant in force first
    assert figures["plans"]["queues and pipeline registers"]["drawn"] == 3, done.stderr
    assert {(v["outcome"], v["stage"]) for v in figures["verdicts"]} == {("killed", "native")}, figures["verdicts"]
