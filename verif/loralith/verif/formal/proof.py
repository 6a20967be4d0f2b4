"""A proof: harness, method and mutants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.back import rtlil
from amaranth.hdl import Fragment

from loralith.verif.mutation import Change
from loralith.verif.mutation.force import in_force

from .harness import Claim, Harness

__all__ = ["Method", "Mutant", "Proof"]


@dataclass(frozen=True)
class Mutant:
    """A change of the block, and the claim that then fails."""

    kills: str
    change: Change


@dataclass(frozen=True)
class Method:
    """How claims are proved.

    Attributes:
        mode, engine: sby's.
        depth: cycles from reset of a bounded proof or an induction; PDR knows none.
        formula: where depth comes from, for the table's reader.
    """

    mode: str
    engine: str
    depth: int
    formula: str = ""

    @classmethod
    def reachability(cls) -> Method:
        """For every number of cycles, by property-directed reachability."""
        return cls("prove", "abc pdr", 0)

    @classmethod
    def induction(cls, depth: int, formula: str = "") -> Method:
        """For every number of cycles: the first ``depth`` from reset, and one more after any ``depth`` that keep the claims."""
        return cls("prove", "smtbmc yices", depth, formula)

    @classmethod
    def bounded(cls, depth: int, formula: str = "") -> Method:
        """For the first ``depth`` cycles."""
        return cls("bmc", "smtbmc yices", depth, formula)

    def __str__(self) -> str:
        if self.mode == "bmc":
            return f"bounded, {self.formula or self.depth} cycles"
        return "unbounded, PDR" if self.engine == "abc pdr" else f"unbounded, induction k = {self.formula or self.depth}"


@dataclass(frozen=True)
class Proof:
    """One harness.

    Attributes:
        name: of the proof, unique. block: the module of ``loralith.rtl`` that it is about.
        build: adds blocks and claims to a harness.
        method: how its claims are proved.
        only: the claims that this proof is about; all where empty.
        mutants: at least one per claim that is no cover.
        search: cycles from reset in which each mutant fails and each cover is reached.
        prepare: Yosys commands between elaboration and ``prep``, such as a cut.
        slow: too long for every run of the tests.
        bound: a number for the table's reader, where a proof is of a smaller block than the real one.
    """

    name: str
    block: str
    build: Callable[[Harness], None]
    method: Method
    mutants: tuple[Mutant, ...] = ()
    only: tuple[str, ...] = ()
    search: int = 12
    prepare: tuple[str, ...] = ()
    slow: bool = False
    bound: str = ""

    def claims(self) -> dict[str, Claim]:
        """The claims, by name."""
        harness = Harness()
        self.build(harness)
        Fragment.get(harness.m, None)  # or Amaranth warns that its statements are used nowhere
        return {name: claim for name, claim in harness.claims.items() if name in (self.only or harness.claims)}

    def netlist(self, only: str | None = None, mutant: Mutant | None = None) -> str:
        """RTLIL of module ``top``. Parameters: only, the one claim to make; mutant, in force in the block."""
        induction = self.method.mode == "prove" and self.method.depth > 0
        harness = Harness((only,) if only else self.only or None, invariants=induction and only is None)
        with in_force(mutant.change.edit if mutant else None):
            self.build(harness)
        return rtlil.convert(harness.m, name="top", ports=harness.ports)
