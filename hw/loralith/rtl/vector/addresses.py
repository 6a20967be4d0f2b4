"""Address generators of X, Y and target, with their bounds checks."""

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
        start: take over ``instruction``, with first_addresses and strides of X, Y and target; strides are from word to word.
        issue: an element enters.
        out_of_bounds, detail: an address of the next element is beyond its memory; the first of X, Y and target is reported. Valid from the
            cycle after ``start``.
        target: where the element's result goes.
        read_en, read_address: read ports of V0 and V1, ``read_delay`` cycles after the element enters.
    """

    def __init__(self, depths: tuple[int, int, int], read_delay: int) -> None:
        self._depths, self._read_delay = depths, read_delay
        super().__init__(
            {
                "instruction": In(record_layout(INSTRUCTION)),
                "start": In(1),
                "first_addresses": In(ADDRESS_BITS).array(3),
                "strides": In(ADDRESS_BITS).array(3),
                "issue": In(1),
                "out_of_bounds": Out(1),
                "detail": Out(8),
                "target": Out(ADDRESS_BITS),
                "read_en": Out(2),
                "read_address": Out(ADDRESS_BITS).array(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        instruction = self.instruction
        fields = (instruction.x_source, instruction.y_source, instruction.target)
        memories = ((Source.V0, Source.V1, Source.OUT32), (Source.V0, Source.V1), (Target.V0, Target.V1))
        details = (Check.V0, Check.V1, Check.OUT)
        exceeds, checks, addresses = [], [], []
        for at, (name, field, numbers) in enumerate(zip(("x", "y", "target"), fields, memories, strict=True)):
            address, stride = Signal(ADDRESS_BITS, name=f"{name}_address"), Signal(ADDRESS_BITS, name=f"{name}_stride")
            # The address bits that must be zero, so that the check is one level of logic deep.
            above, detail = Signal(ADDRESS_BITS, name=f"{name}_above"), Signal(8, name=f"{name}_detail")
            mask: Value | int = 0
            code: Value | int = Check.NONE
            for number, depth, check in zip(numbers, self._depths, details, strict=False):
                mask = Mux(field == number, (1 << ADDRESS_BITS) - min(depth, 1 << ADDRESS_BITS), mask)
                code = Mux(field == number, check, code)
            with m.If(self.start):
                m.d.sync += [address.eq(self.first_addresses[at]), stride.eq(self.strides[at]), above.eq(mask), detail.eq(code)]
            with m.Elif(self.issue):
                m.d.sync += address.eq(address + stride)
            exceeds.append((address & above).any())
            checks.append(detail)
            addresses.append(address)
        self._read(m, addresses)
        m.d.comb += [
            self.out_of_bounds.eq(exceeds[0] | exceeds[1] | exceeds[2]),
            self.detail.eq(Mux(exceeds[0], checks[0], Mux(exceeds[1], checks[1], checks[2]))),
            self.target.eq(addresses[2]),
        ]
        return m

    def _read(self, m: Module, addresses: list[Signal]) -> None:
        """Of each memory the address of X or Y, whichever is read there."""
        for memory, source in enumerate((Source.V0, Source.V1)):
            x_reads, y_reads = Signal(name=f"x_reads{memory}"), Signal(name=f"y_reads{memory}")
            with m.If(self.start):
                m.d.sync += [x_reads.eq(self.instruction.x_source == source), y_reads.eq(self.instruction.y_source == source)]
            read: Value = self.issue & (x_reads | y_reads)
            address: Value = Mux(x_reads, addresses[0], addresses[1])
            for stage in range(self._read_delay):
                registers = Signal(name=f"read{memory}_{stage}"), Signal(ADDRESS_BITS, name=f"address{memory}_{stage}", reset_less=True)
                m.d.sync += [registers[0].eq(read), registers[1].eq(address)]
                read, address = registers
            m.d.comb += [self.read_en[memory].eq(read), self.read_address[memory].eq(address)]
