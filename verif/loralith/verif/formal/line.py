"""A queue as a proof's model has it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value

__all__ = ["Line"]


class Line:
    """A model's queue: ``entries`` words, the oldest first; ``put`` appends ``word`` and ``get`` drops the oldest, in one cycle."""

    def __init__(self, m: Module, name: str, entries: int, shape: int, *, put, word, get) -> None:
        self.level = Signal(range(entries + 2), name=f"{name}_level")
        self.words = [Signal(shape, name=f"{name}_{i}") for i in range(entries)]
        self.first = self.words[0]
        at = Value.cast(self.level - get)
        for i, slot in enumerate(self.words):
            following = self.words[i + 1] if i + 1 < entries else slot
            m.d.sync += slot.eq(Mux(Value.cast(put) & (at == i), word, Mux(get, following, slot)))
        m.d.sync += self.level.eq(at + put)
