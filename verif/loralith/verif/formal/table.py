"""The table of the formal properties, for docs/generated/formal.md."""

from __future__ import annotations

from collections.abc import Iterable

from .all_proofs import PROOFS
from .harness import Claim
from .proof import Proof

__all__ = ["table"]


def table(proofs: Iterable[Proof] = PROOFS) -> str:
    """Markdown: a row per claim."""
    lines = ["| block | property | what it says | method | mutants that fail it |", "|---|---|---|---|---|"]
    rows: dict[tuple[str, str], list[tuple[Proof, Claim]]] = {}
    for proof in proofs:
        for claim in proof.claims().values():
            rows.setdefault((proof.block, claim.name), []).append((proof, claim))
    for (block, name), made in rows.items():
        claim = made[0][1]
        methods: dict[str, dict[str, None]] = {}
        for proof, _ in made:
            methods.setdefault(proof.bound, {})[f"{proof.method}{' (slow)' if proof.slow else ''}"] = None
        how = "; ".join(" and ".join(some) + (f": {bound}" if bound else "") for bound, some in methods.items())
        mutants = [mutant for proof, _ in made for mutant in proof.mutants if mutant.kills == name]
        shown = ("cover", "reached") if claim.cover else (how, "<br>".join(mutant.change.says for mutant in mutants))
        lines.append(f"| {block} | {name} | {claim.says} | {' | '.join(shown)} |")
    return "\n".join(lines)
