"""Why a command list stopped: the codes of the STATUS register."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Check", "Code", "Unit"]


class Code(IntEnum):
    """STATUS.code, sticky until the next doorbell. The first fault of a list wins."""

    OK = 0
    """No fault."""
    BAD_OPCODE = 1
    """The opcode is not one of the command set."""
    BAD_FIELD = 2
    """A reserved bit is set, or a field has a value that it may not have."""
    MISALIGNED = 3
    """An address or stride is not aligned as the command needs."""
    SCRATCHPAD_BOUNDS = 4
    """An operand, a result or a slot lies outside its on-chip memory."""
    DRAM_WINDOW = 5
    """The command would reach DRAM outside the window registers."""
    AXI_READ_ERROR = 6
    """A read response was not OKAY; ERROR_ADDRESS is the beat's address."""
    AXI_WRITE_ERROR = 7
    """A write response was not OKAY; ERROR_ADDRESS is the first address of the burst."""
    WATCHDOG = 8
    """Nothing moved for WATCHDOG cycles: tokens that are never met, or a memory that does not answer."""
    HOST_ABORT = 9
    """CONTROL.abort was written."""
    VECTOR_RANGE = 10
    """A number left the vector unit's range; ERROR_ADDRESS is the number of the instruction, or 0 of a load."""


class Unit(IntEnum):
    """STATUS.unit: which part of the machine stopped the list."""

    NONE = 0
    """No fault, or one that no single unit is to blame for."""
    FETCH = 1
    """Command fetch, and the checks of the list itself."""
    LOAD = 2
    COMPUTE = 3
    STORE = 4
    HOST = 5
    """The host's abort."""
    VECTOR = 6


class Check(IntEnum):
    """STATUS.detail: which check failed."""

    NONE = 0
    """The code says all."""
    RESERVED = 1
    """A reserved bit is not zero."""
    ENUM = 2
    """A choice field (memory, fold, mode) has no such value."""
    SIZE = 3
    """A count or length is zero or over its limit."""
    ADDRESS = 4
    """The DRAM address."""
    STRIDE = 5
    """The DRAM row stride."""
    LEFT = 6
    """The left operand's region."""
    LEFT2 = 7
    """The second segment's left operand's region."""
    RIGHT = 8
    """The right operand's region."""
    RIGHT2 = 9
    """The second segment's right operand's region."""
    OUT = 10
    """The region in the output buffer."""
    ACC = 11
    """The region in the accumulate buffer."""
    SCALE = 12
    """The scale vector."""
    STAT = 13
    """The statistics slot."""
    LEFT_RESULT = 14
    """The region of a result in the left scratchpad."""
    LIST = 15
    """The command list itself."""
    PROGRAM = 16
    """Instructions beyond the program memory, or an instruction that has no meaning; ERROR_ADDRESS is its number."""
    V0 = 17
    """The region in the first vector scratchpad."""
    V1 = 18
    """The region in the second vector scratchpad."""
    SCALAR = 19
    """Scalars, or the hash key."""
