"""How many multiply-accumulates of a step are useful."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .pipeline import delayed, valid_bits
from .tile import COUNT_BITS, FOLD_BITS, Step

__all__ = ["MacCounter"]


class MacCounter(wiring.Component):
    """rows * cols * depth of a step, as shifts and one addition per cycle, so that no DSP block is spent on counting.

    Members:
        valid, step: a step, and a cycle later the rows and columns of its tile.
        macs: of a step that reads operands, ``delay`` cycles later; else 0.
    """

    delay = 7
    width = 20

    def __init__(self) -> None:
        super().__init__({"valid": In(1), "step": In(Step), "macs": Out(self.width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid = valid_bits(m, self.valid & self.step.reads, self.delay)
        depth = delayed(m, self.step.depth, 4, name="depth")[-1]
        area = self._sum(m, "area", valid[1:], [Mux(self.step.rows[i], self.step.cols << i, 0) for i in range(COUNT_BITS)], 13)
        total = self._sum(m, "total", valid[4:], [Mux(depth[i], area << i, 0) for i in range(FOLD_BITS)], self.width)
        m.d.comb += self.macs.eq(Mux(valid[-1], total, 0))
        return m

    def _sum(self, m: Module, name: str, enables: Value, terms: list[Value], width: int) -> Value:
        """The sum of up to eight terms, three cycles later."""
        for stage in range(3):
            sums: list[Value] = []
            for at in range(0, len(terms), 2):
                register = Signal(width, name=f"{name}{stage}_{at}", reset_less=True)
                with m.If(enables[stage]):
                    m.d.sync += register.eq(sum(terms[at + 1 : at + 2], start=terms[at]))
                sums.append(register)
            terms = sums
        return terms[0]
