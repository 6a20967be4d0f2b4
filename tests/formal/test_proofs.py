"""Every formal property holds of the block as it is, fails of a mutant, and is not vacuous."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from loralith.verif.formal import sby
from loralith.verif.formal.all_proofs import PROOFS
from loralith.verif.formal.proof import Mutant, Proof

TIMEOUT = {False: 600, True: 3000}


def cases(proof: Proof, *arguments: object, name: str = "", slow: bool = False):
    return pytest.param(proof, *arguments, id=proof.name + name, marks=[pytest.mark.slow] if proof.slow or slow else [])


@pytest.mark.parametrize("proof", [cases(proof) for proof in PROOFS])
def test_proved(proof: Proof, tmp_path: Path) -> None:
    outcome = sby.prove(proof, tmp_path, TIMEOUT[proof.slow])
    assert outcome.passed, f"{proof.name}: {sorted(outcome.failed)}\n{outcome.log[-3000:]}"


@pytest.mark.parametrize(
    ("proof", "mutant"),  # in every run one of each proof, and all texts, see below
    [cases(proof, mutant, name=f"-{mutant.kills}-{i}", slow=i > 0) for proof in PROOFS for i, mutant in enumerate(proof.mutants)],
)
def test_a_mutant_fails(proof: Proof, mutant: Mutant, tmp_path: Path) -> None:
    outcome = sby.refute(proof, mutant, tmp_path, TIMEOUT[proof.slow])
    assert outcome.failed == {mutant.kills}, f"{mutant.change.label} survives {mutant.kills}"


@pytest.mark.parametrize("proof", [cases(proof) for proof in PROOFS if any(claim.cover for claim in proof.claims().values())])
def test_reached(proof: Proof, tmp_path: Path) -> None:
    outcome = sby.cover(proof, tmp_path, TIMEOUT[proof.slow])
    assert outcome.reached == {claim.name for claim in proof.claims().values() if claim.cover}


def test_every_property_has_a_mutant_that_fails_it() -> None:
    made = {(proof.block, name) for proof in PROOFS for name, claim in proof.claims().items() if not claim.cover}
    killed = {(proof.block, mutant.kills) for proof in PROOFS for mutant in proof.mutants}
    assert made == killed


@pytest.mark.parametrize("proof", [pytest.param(proof, id=proof.name) for proof in PROOFS if proof.mutants])
def test_every_mutant_applies_and_changes_the_netlist(proof: Proof) -> None:
    original = functools.cache(lambda claim: proof.netlist(claim))
    for mutant in proof.mutants:
        assert proof.netlist(mutant.kills, mutant) != original(mutant.kills), f"{mutant.change.label} changes no netlist"


def test_names_are_unique() -> None:
    assert len({proof.name for proof in PROOFS}) == len(PROOFS)
