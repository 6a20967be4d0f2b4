"""Addresses of an instruction's words: where X and Y are read and results written, and whether that is inside."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.interfaces import record_layout
from loralith.spec.status import Check
from loralith.spec.vector.program import INSTRUCTION, Source, Target

from .command import ADDRESS_BITS

__all__ = ["VectorAddresses"]


class VectorAddresses(wiring.Component):
    """The next element's addresses, which count on with ``issue``, and their check.

    Parameters: depths: words of V0, of V1 and of the output buffer's INT32, powers of two; read_delay: cycles from ``issue`` to a read.

    Members:
        start: from now on those of ``instruction``: firsts, the first addresses of X, Y and target; strides: from word to word.
        issue: an element enters.
        beyond, detail: the next element has a word beyond its memory; of several X's is named, then Y's. From a cycle after ``start`` on.
        target: where the element's result goes.
        read, reads: of V0 and V1: read that word, ``read_delay`` cycles after the element enters.
    """

    def __init__(self, depths: tuple[int, int, int], read_delay: int) -> None:
        self._depths, self._read_delay = depths, read_delay
        super().__init__(
            {
                "instruction": In(record_layout(INSTRUCTION)),
                "start": In(1),
                "firsts": In(ADDRESS_BITS).array(3),
                "strides": In(ADDRESS_BITS).array(3),
                "issue": In(1),
                "beyond": Out(1),
                "detail": Out(8),
                "target": Out(ADDRESS_BITS),
                "read": Out(2),
                "reads": Out(ADDRESS_BITS).array(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        instruction = self.instruction
        fields = (instruction.x_source, instruction.y_source, instruction.target)
        memories = ((Source.V0, Source.V1, Source.OUT32), (Source.V0, Source.V1), (Target.V0, Target.V1))
        details = (Check.V0, Check.V1, Check.OUT)
        outside, which, addresses = [], [], []
        for at, (name, field, numbers) in enumerate(zip(("x", "y", "target"), fields, memories, strict=True)):
            address, stride = Signal(ADDRESS_BITS, name=f"{name}_address"), Signal(ADDRESS_BITS, name=f"{name}_stride")
            # The address bits that must be zero, so that the check is one level of logic deep.
            above, detail = Signal(ADDRESS_BITS, name=f"{name}_above"), Signal(8, name=f"{name}_detail")
            mask: Value | int = 0
            named: Value | int = Check.NONE
            for number, depth, check in zip(numbers, self._depths, details, strict=False):
                mask = Mux(field == number, (1 << ADDRESS_BITS) - min(depth, 1 << ADDRESS_BITS), mask)
                named = Mux(field == number, check, named)
            with m.If(self.start):
                m.d.sync += [address.eq(self.firsts[at]), stride.eq(self.strides[at]), above.eq(mask), detail.eq(named)]
            with m.Elif(self.issue):
                m.d.sync += address.eq(address + stride)
            outside.append((address & above).any())
            which.append(detail)
            addresses.append(address)
        self._read(m, addresses)
        m.d.comb += [
            self.beyond.eq(outside[0] | outside[1] | outside[2]),
            self.detail.eq(Mux(outside[0], which[0], Mux(outside[1], which[1], which[2]))),
            self.target.eq(addresses[2]),
        ]
        return m

    def _read(self, m: Module, addresses: list[Signal]) -> None:
        """Of each memory the address of X or Y, whichever is read there."""
        for memory, source in enumerate((Source.V0, Source.V1)):
            from_x, from_y = Signal(name=f"x_from{memory}"), Signal(name=f"y_from{memory}")
            with m.If(self.start):
                m.d.sync += [from_x.eq(self.instruction.x_source == source), from_y.eq(self.instruction.y_source == source)]
            read: Value = self.issue & (from_x | from_y)
            address: Value = Mux(from_x, addresses[0], addresses[1])
            for stage in range(self._read_delay):
                registers = Signal(name=f"read{memory}_{stage}"), Signal(ADDRESS_BITS, name=f"address{memory}_{stage}", reset_less=True)
                m.d.sync += [registers[0].eq(read), registers[1].eq(address)]
                read, address = registers
            m.d.comb += [self.read[memory].eq(read), self.reads[memory].eq(address)]
