"""CRC-32 of IEEE 802.3, as zlib has it."""

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Crc32"]

POLYNOMIAL = 0xEDB88320  # reflected: the least significant bit of a byte comes first


def next_crc(crc: Value, byte: Value) -> Value:
    """The CRC register after one more byte. The CRC is linear, so that each bit is a parity of bits of both."""
    state = [1 << i for i in range(32)]  # each bit of the register as a set of bits of the inputs: crc 0..31, byte 32..39
    for i in range(8):
        feedback = state[0] ^ 1 << (32 + i)
        state = [after ^ (feedback if POLYNOMIAL >> bit & 1 else 0) for bit, after in enumerate([*state[1:], 0])]
    inputs = Cat(crc, byte)
    return Cat(Cat(inputs[i] for i in range(40) if bits >> i & 1).xor() for bits in state)


class Crc32(wiring.Component):
    """The CRC of the bytes since ``clear``; one byte per cycle.

    Members:
        clear: begin anew; a byte of the same cycle is the first.
        en, byte: take a byte.
        register: all bytes before this cycle, not inverted: the CRC is its complement.
    """

    clear: In(1)
    en: In(1)
    byte: In(8)
    # amaranth-stubs knows the parameter by its name before 0.5, reset.
    register: Out(32, init=0xFFFF_FFFF)  # pyright: ignore[reportCallIssue]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.clear):
            m.d.sync += self.register.eq(0xFFFF_FFFF)
        with m.If(self.en):
            start = self.register | self.clear.replicate(32)
            m.d.sync += self.register.eq(next_crc(start, self.byte))
        return m
