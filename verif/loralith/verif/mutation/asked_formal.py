"""The first property of a block that fails on the mutant that is selected, within the cycles that its proof looks for mutants."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .schemata import SchemaMutant

__all__ = ["prepare"]

SECONDS = 30
"""Of one proof: a counterexample comes soon or not at all."""


def prepare(request: dict[str, Any]) -> Callable[[SchemaMutant], str]:
    """Parameters: request, with `tests`, claims as module.name."""
    from loralith.verif.formal.all_proofs import PROOFS

    proofs = []
    for proof in PROOFS:
        claims = {f"{proof.block}.{name}" for name, claim in proof.claims().items() if not claim.cover}
        if claims & set(request["tests"]) and not proof.slow:
            proofs.append(proof)

    originals = [proof.netlist() for proof in proofs]

    def ask(mutant: SchemaMutant) -> str:
        from loralith.verif.formal.proof import Method
        from loralith.verif.formal.sby import FormalError, run

        for proof, original in zip(proofs, originals, strict=True):
            netlist = proof.netlist()
            if netlist == original:
                continue
            folder = Path(request["folder"]) / "formal"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                outcome = run(netlist, Method.bounded(proof.search), folder, prepare=proof.prepare, timeout=SECONDS)
            except FormalError:
                continue
            if not outcome.passed:
                return ", ".join(f"{proof.block}.{name}" for name in sorted(outcome.failed)) or proof.name
        return ""

    return ask
