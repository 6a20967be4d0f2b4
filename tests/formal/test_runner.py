"""The runner itself: what is false fails by every method, what cannot be decided is no pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from amaranth.hdl import Signal

from loralith.verif.formal import sby
from loralith.verif.formal.blocks.queue import PROOFS
from loralith.verif.formal.harness import Harness
from loralith.verif.formal.proof import Method, Proof

EACH_METHOD = [Method.bounded(6), Method.induction(6), Method.reachability()]


def counts_to(limit: int):
    """A counter that the solver may stop, and the claim that it stays below ``limit``."""

    def build(h: Harness) -> None:
        step, count = h.free(1, "step"), Signal(8)
        h.m.d.sync += count.eq(count + step)
        h.always("below", "", count < limit)
        h.reach("two", "", count == 2)

    return build


@pytest.mark.parametrize("method", EACH_METHOD, ids=str)
def test_a_false_claim_fails(method: Method, tmp_path: Path) -> None:
    outcome = sby.prove(Proof("counter", "", counts_to(4), method), tmp_path)
    assert not outcome.passed


@pytest.mark.parametrize("method", EACH_METHOD, ids=str)
def test_a_mutant_fails_by_every_method(method: Method, tmp_path: Path) -> None:
    proof = next(proof for proof in PROOFS if proof.mutants)
    mutant = proof.mutants[0]
    assert not sby.run(proof.netlist(mutant.kills, mutant), method, tmp_path).passed


def test_a_bound_says_no_more_than_its_depth(tmp_path: Path) -> None:
    assert sby.prove(Proof("counter", "", counts_to(4), Method.bounded(4)), tmp_path).passed


def test_an_induction_that_proves_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(sby.FormalError, match="UNKNOWN"):
        sby.prove(Proof("counter", "", counts_to(200), Method.induction(4)), tmp_path)


def test_a_cover_that_is_not_reached_is_not_reported(tmp_path: Path) -> None:
    short = sby.cover(Proof("counter", "", counts_to(4), Method.bounded(1), search=2), tmp_path / "short")
    long = sby.cover(Proof("counter", "", counts_to(4), Method.bounded(1), search=4), tmp_path / "long")
    assert (short.reached, long.reached) == (frozenset(), {"two"})


def test_a_block_that_is_never_clocked_would_be_noticed() -> None:
    netlist = Proof("counter", "", counts_to(4), Method.bounded(4)).netlist()
    assert "input 0  \\clk" in netlist


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(sby.FormalError, match="yowasp-sby is missing; `make setup` installs it"):
        sby.run("", Method.bounded(1), tmp_path)
