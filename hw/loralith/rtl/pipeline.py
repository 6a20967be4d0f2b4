"""Pipeline registers: a value, or the valid bit of an item, some cycles later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, ValueLike

__all__ = ["delayed", "valid_bits"]


def valid_bits(m: Module, valid: ValueLike, stages: int, *, name: str = "valid_r") -> Value:
    """Bit i is ``valid`` i cycles earlier, for i of 0 .. ``stages``; bit 0 is ``valid`` itself. A reset clears the registers.

    Raises:
        ValueError: ``stages`` is negative.
    """
    _check(stages)
    register = Signal(stages, name=name)
    bits = Cat(valid, register)
    if stages:
        m.d.sync += register.eq(bits[:stages])
    return bits


def delayed(
    m: Module, value: Any, stages: int, *, name: str, enables: Value | Sequence[ValueLike] | None = None, reset_less: bool = False
) -> list[Any]:
    """``value`` and its copies 1 .. ``stages`` cycles later: registers of its shape, a struct included, named ``<name>1``, ``<name>2``, ...

    With ``enables``, one bit for each register, register i + 1 changes only in a cycle with ``enables[i]``. Those are the ``valid_bits`` of
    the item that the value belongs to: registers that hold no item do not toggle, which saves power and a simulator's time.

    Raises:
        ValueError: ``stages`` is negative, or ``enables`` has fewer bits.
    """
    _check(stages)
    if enables is not None and len(enables) < stages:
        raise ValueError(f"{stages} registers of {name} need as many enables, not {len(enables)}")
    found = [value]
    for stage in range(stages):
        register = Signal.like(value, name=f"{name}{stage + 1}", reset_less=reset_less)
        if enables is None:
            m.d.sync += register.eq(found[-1])
        else:
            with m.If(enables[stage]):
                m.d.sync += register.eq(found[-1])
        found.append(register)
    return found


def _check(stages: int) -> None:
    if stages < 0:
        raise ValueError(f"a pipeline has no fewer than 0 stages, not {stages}")
