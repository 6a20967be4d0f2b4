"""All proofs."""

from __future__ import annotations

from .blocks import bursts, controller, gate, masters, ppu, queue, registers, sdram, sequencer, tokens, unpack
from .proof import Proof

__all__ = ["PROOFS"]

PROOFS: tuple[Proof, ...] = (
    *queue.PROOFS,
    *tokens.PROOFS,
    *sequencer.PROOFS,
    *gate.PROOFS,
    *bursts.PROOFS,
    *masters.PROOFS,
    *controller.PROOFS,
    *registers.PROOFS,
    *ppu.PROOFS,
    *unpack.PROOFS,
    *sdram.PROOFS,
)
