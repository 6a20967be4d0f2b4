"""``python -m loralith.verif.formal.table`` prints the table of docs/verification.md; a test compares them."""

from __future__ import annotations

from collections.abc import Iterable

from .catalogue import PROOFS
from .proof import Proof

__all__ = ["table"]


def table(proofs: Iterable[Proof] = PROOFS) -> str:
    """Markdown: a row per claim."""
    lines = ["| block | property | what it says | method | shown to fail by |", "|---|---|---|---|---|"]
    groups: dict[object, list[Proof]] = {}
    for proof in proofs:  # proofs of one harness at several sizes share their rows
        groups.setdefault((proof.block, proof.name.rstrip("0123456789_")), []).append(proof)
    for group in groups.values():
        claims = {name: claim for proof in group for name, claim in proof.claims().items()}
        mutants = [mutant for proof in group for mutant in proof.mutants]
        bounds = "; ".join(dict.fromkeys(proof.bound for proof in group if proof.bound))
        methods = " and ".join(dict.fromkeys(str(proof.method) + (" (slow)" if proof.slow else "") for proof in group))
        for claim in claims.values():
            shown = "reached" if claim.cover else "<br>".join(_mutant(m) for m in mutants if m.kills == claim.name)
            method = "cover" if claim.cover else methods + (f": {bounds}" if bounds else "")
            lines.append(f"| {group[0].block} | {claim.name} | {claim.says} | {method} | {shown} |")
    return "\n".join(lines)


def _mutant(mutant) -> str:
    return f"`{_cell(mutant.old)}` → `{_cell(mutant.new)}`" if mutant.new else f"without `{_cell(mutant.old)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(table())
