"""The registers of the system on chip around the accelerator, behind the serial link at `spec.link.SOC_BASE`."""

from __future__ import annotations

from .registers import Access, Bits, Register

__all__ = ["SOC_ADDRESS_BITS", "SOC_ID", "SOC_REGISTERS"]

SOC_ID = 0x31434F53
"""'SOC1' in ASCII."""
SOC_ADDRESS_BITS = 5

SOC_REGISTERS: tuple[Register, ...] = (
    Register("ID", 0x00, Access.RO, "'SOC1'"),
    Register(
        "STATUS",
        0x04,
        Access.RO,
        "what the system does",
        bits=(
            Bits("started", 0, 1, "the memory chip is started"),
            Bits("irq", 1, 1, "the accelerator's interrupt"),
        ),
    ),
    Register("CYCLES", 0x08, Access.RO, "clock cycles since the reset, modulo 2**32"),
    Register("SCRATCH", 0x0C, Access.RW, "what was written, for tests"),
    Register("READ_BEATS", 0x10, Access.RO, "bus words read from memory, modulo 2**32"),
    Register("WRITE_BEATS", 0x14, Access.RO, "bus words written to memory, modulo 2**32"),
)
