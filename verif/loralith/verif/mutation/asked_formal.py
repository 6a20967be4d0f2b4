"""The first property of a block that fails on the mutant that is selected, within the cycles that its proof looks for mutants."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .schemata import SchemaMutant

__all__ = ["prepare"]


def prepare(request: dict[str, Any]) -> Callable[[SchemaMutant], str]:
    """Parameters: request, with `tests`, claims as module.name."""
    from loralith.verif.formal.all_proofs import PROOFS

    proofs = []
    for proof in PROOFS:
        claims = {f"{proof.block}.{name}" for name, claim in proof.claims().items() if not claim.cover}
        if claims & set(request["tests"]) and not proof.slow:
            proofs.append(proof)

    def ask(mutant: SchemaMutant) -> str:
        from loralith.verif.formal.proof import Method
        from loralith.verif.formal.sby import FormalError, run

        for proof in proofs:
            folder = Path(request["folder"]) / "formal"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                outcome = run(proof.netlist(), Method.bounded(proof.search), folder, prepare=proof.prepare, timeout=60)
            except FormalError:
                continue
            if not outcome.passed:
                return ", ".join(f"{proof.block}.{name}" for name in sorted(outcome.failed)) or proof.name
        return ""

    return ask
