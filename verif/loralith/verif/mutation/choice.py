"""What stands in a rewritten source in place of an expression: the original, or that of the mutant which a signal selects.

`schemata` writes `choose(kind, lambda: original, (number, lambda: mutant), ...)` for each expression that mutants change. It runs where the
block is elaborated. Only an expression that is a value of the hardware can be selected by a signal; what is an integer or a list there
stays as it is, and its mutants are no mutants of this kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, ValueCastable
from amaranth.hdl._ast import Part, Slice

__all__ = ["SELECTED", "SELECTED_BITS", "choose", "outcomes", "restrict", "select", "share_wires"]

SELECTED_BITS = 14
SELECTED = Signal(SELECTED_BITS, name="selected_mutant")
"""The number of the mutant in force, 0 for none. Whoever elaborates a design of rewritten sources drives it, or makes it an input."""

outcomes: dict[int, Counter[str]] = {}
"""By mutant, what its expression was each time that it was made: "selectable", "same" as the original, or "none" of the hardware."""

_wires: list[tuple[Signal, Value]] = []
"""Values that may be used more than once, with a signal for each: without it a chain of them would be written out again at every use."""

_only: Collection[int] | None = None
_fixed: int | None = None


def restrict(numbers: Collection[int] | None) -> None:
    """From now on only these mutants are made; None: all."""
    global _only
    _only = numbers


def select(number: int | None) -> None:
    """From now on this mutant is made in place of the original, without a signal; None: those of `restrict`, by `SELECTED`."""
    global _fixed
    _fixed = number


class _Impure(Exception):
    """A mutant's expression adds to a module; the original has done so already."""


def choose(sized: bool, original: Callable[[], Any], *mutants: tuple[int, Callable[[], Any]]) -> Any:
    """The original's value, or a multiplexer of it and its mutants.

    Parameters: sized, the value must keep the original's shape, as its bits are not assigned to anything at once.
    """
    value = original()
    if not _hardware(value, sized):
        for number, _ in mutants:
            _count(number, "none")
        return value
    made = value
    text = None
    for number, mutant in mutants:
        if (number != _fixed) if _fixed is not None else (_only is not None and number not in _only):
            continue
        text = repr(Value.cast(value)) if text is None else text
        try:
            with _pure():
                other = Value.cast(mutant())
        except Exception:  # whatever Amaranth, the block or Python itself says against it
            _count(number, "none")
            continue
        if repr(other) == text:
            _count(number, "same")
            continue
        _count(number, "selectable")
        other = _shaped(other, value) if sized else other
        made = other if _fixed is not None else Mux(number == SELECTED, other, Value.cast(made))
    if made is value:
        return value
    return _typed(made, value) if sized else made


def _count(number: int, what: str) -> None:
    outcomes.setdefault(number, Counter())[what] += 1


def _hardware(value: Any, sized: bool) -> bool:
    """Whether it is a value of the hardware; an integer is one where it is assigned to one."""
    if isinstance(value, Value | ValueCastable):
        return not sized or not isinstance(Value.cast(value), Signal | Slice | Part)  # a piece of a signal may be assigned to
    return not sized and isinstance(value, int | Enum)


def _shaped(other: Value, like: Any) -> Value:
    """The bits of ``other`` as those of ``like``: with the same number of them, and as signed."""
    shape = Value.cast(like).shape()
    bits = other[: shape.width] if len(other) > shape.width else other
    if len(bits) < shape.width:
        bits = _extended(bits, shape.width)
    return bits.as_signed() if shape.signed else bits.as_unsigned()


def _extended(bits: Value, width: int) -> Value:
    """``bits`` with their sign, if they have one, up to ``width``."""
    more = width - len(bits)
    return Cat(bits, bits[-1].replicate(more) if bits.shape().signed and len(bits) else Const(0, more))


def _typed(made: Value, like: Any) -> Any:
    """``made`` as the structure that the original is."""
    shape = Value.cast(like).shape()
    plain = _shaped(made, like) if made.shape() != shape else made
    if _fixed is None:
        wire = Signal(shape, name="chosen")
        _wires.append((wire, plain))
        plain = wire
    structure = like.shape()
    return plain if isinstance(structure, Shape) else structure(plain)


def share_wires() -> None:
    """From now on in this process, a module that is elaborated drives the wires of the expressions that were chosen for it."""
    elaborate = Module.elaborate

    def with_wires(self: Module, platform: object) -> Any:
        if _wires:
            driver = Module()
            driver.d.comb += [wire.eq(value) for wire, value in _wires]
            _wires.clear()
            self.submodules += driver
        return elaborate(self, platform)

    Module.elaborate = with_wires  # type: ignore[method-assign]


@contextmanager
def _pure() -> Iterator[None]:
    """Nothing is added to a module meanwhile."""

    def refuse(*_: Any, **__: Any) -> None:
        raise _Impure

    names = ("_add_statement", "_add_submodule", "_add_domain", "_check_context")
    before = {name: getattr(Module, name) for name in names}
    for name in names:
        setattr(Module, name, refuse)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(Module, name, function)
