"""``python -m loralith.verif.formal.table`` prints the table of docs/verification.md; a test compares them."""

from __future__ import annotations

from collections.abc import Iterable

from .catalogue import PROOFS
from .harness import Claim
from .mutation import Mutant
from .proof import Proof

__all__ = ["table"]


def table(proofs: Iterable[Proof] = PROOFS) -> str:
    """Markdown: a row per claim."""
    lines = ["| block | property | what it says | method | shown to fail by |", "|---|---|---|---|---|"]
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
        shown = ("cover", "reached") if claim.cover else (how, "<br>".join(_mutant(mutant) for mutant in mutants))
        lines.append(f"| {block} | {name} | {claim.says} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _mutant(mutant: Mutant) -> str:
    return f"`{_cell(mutant.old)}` → `{_cell(mutant.new)}`" if mutant.new else f"without `{_cell(mutant.old)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(table())
