"""What a harness is written with: a block whose inputs are free, and claims about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from amaranth.hdl import Assert, Assume, ClockDomain, Cover, Elaboratable, Fragment, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

__all__ = ["Claim", "Harness"]

T = TypeVar("T", bound=wiring.Component)


@dataclass(frozen=True)
class Claim:
    """One property. ``cover``: it says that something can happen, and is reached; the others say what always holds, and are proved."""

    name: str
    says: str
    cover: bool


class _Statement(Elaboratable):
    """A statement in a module of its own, so that the solver's report names it."""

    def __init__(self, statement) -> None:
        self._statement = statement

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self._statement
        return m


class _Ready(Elaboratable):
    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment

    def elaborate(self, platform: object) -> Fragment:
        return self._fragment


class Harness:
    """Builds the top module of one proof.

    Parameters:
        only: names of the claims to make; None makes all. Assumptions are always made.
        invariants: make invariants too.

    Attributes:
        m: the module. reset: its reset. ports: its free inputs; the solver chooses them in every cycle. claims: what was said, by name.
    """

    def __init__(self, only: Collection[str] | None = None, invariants: bool = True) -> None:
        self.m = Module()
        self.m.domains.sync = domain = ClockDomain()
        # A clock that is no port never ticks, and everything is proved. The reset is free as well: it may come at any time.
        self.ports: list[Value] = [domain.clk, domain.rst]
        self.reset = domain.rst
        self.claims: dict[str, Claim] = {}
        self._only, self._invariants = only, invariants
        self._count = 0
        self._inner: dict[int, dict[str, Signal]] = {}

    def block(self, component: T, name: str = "dut", **tied: int) -> T:
        """Adds a block under proof, elaborated now (a mutant is in force now), its inputs free but those ``tied``. Returns it."""
        fragment = Fragment.get(component, None)
        self._inner[id(component)] = dict(_driven(fragment))
        self.m.submodules[name] = _Ready(fragment)
        for path, member, value in component.signature.flatten(component):
            if member.flow is In and path[0] in tied:
                self.m.d.comb += Value.cast(value).eq(tied[path[0]])
            elif member.flow is In:
                self.ports.append(Value.cast(value))
        return component

    def inside(self, component: wiring.Component, name: str) -> Signal:
        """A register or wire of the block itself, by name (``gate.burst`` in a part of it named gate), for invariants of an induction."""
        return self._inner[id(component)][name]

    def free(self, shape: ShapeLike, name: str) -> Signal:
        """A value that the solver chooses anew in every cycle."""
        signal = Signal(shape, name=name)
        self.ports.append(signal)
        return signal

    def past(self, value, *, init: int = 0) -> Signal:
        """``value`` one cycle ago; ``init`` in the first cycle and in the one after a reset."""
        value = Value.cast(value)
        self._count += 1
        signal = Signal(value.shape(), name=f"past{self._count}", init=init)
        self.m.d.sync += signal.eq(value)
        return signal

    def after_reset(self) -> Signal:
        """The first cycle, and every one after a cycle of reset."""
        self._count += 1
        signal = Signal(name=f"after_reset{self._count}", init=1, reset_less=True)
        self.m.d.sync += signal.eq(self.reset)
        return signal

    def assume(self, condition) -> None:
        """The surroundings keep to ``condition``."""
        self._count += 1
        self.m.submodules[f"assumed{self._count}"] = _Statement(Assume(condition, None))

    def hold(self, value) -> None:
        """A free input keeps the value that it has in the first cycle, across resets too."""
        value = Value.cast(value)
        self._count += 1
        known, kept = Signal(name=f"known{self._count}", reset_less=True), Signal(value.shape(), name=f"kept{self._count}", reset_less=True)
        self.m.d.sync += [known.eq(1), kept.eq(value)]
        self.assume(~known | (value == kept))

    def invariant(self, condition) -> None:
        """Holds in every cycle, says nothing that a claim does not, and is what an induction needs."""
        if self._invariants:
            self._count += 1
            self.m.submodules[f"invariant{self._count}"] = _Statement(Assert(condition, None))

    def always(self, name: str, says: str, condition) -> None:
        """Claims that ``condition`` holds in every cycle."""
        self._claim(Claim(name, says, False), Assert, condition)

    def reach(self, name: str, says: str, event) -> None:
        """Claims that ``event`` can happen: shows that the assumptions leave what the other claims are about."""
        self._claim(Claim(name, says, True), Cover, event)

    def _claim(self, claim: Claim, kind, condition) -> None:
        assert claim.name not in self.claims, f"{claim.name} is claimed twice"
        self.claims[claim.name] = claim
        if self._only is None or claim.name in self._only:
            self.m.submodules[claim.name] = _Statement(kind(condition, None))

    def counter(self, name: str, limit: int, *, up, down, clear=0) -> Signal:
        """A model's count of 0..limit."""
        count = Signal(range(limit + 1), name=name)
        with self.m.If(clear):
            self.m.d.sync += count.eq(0)
        with self.m.Elif(Value.cast(up) ^ Value.cast(down)):
            self.m.d.sync += count.eq(Mux(up, count + 1, count - 1))
        return count


def _driven(fragment: Fragment, prefix: str = "") -> Iterator[tuple[str, Signal]]:
    for statements in fragment.statements.values():
        for signal in statements._lhs_signals():
            yield prefix + signal.name, signal
    for part, name, _ in fragment.subfragments:
        if name is not None:
            yield from _driven(part, f"{prefix}{name}.")
