"""What unit tests of RTL blocks share: a run of Amaranth's simulator, and a comparison of many values that names the first wrong one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import zip_longest
from typing import Any

__all__ = ["Design", "assert_each_equal", "design", "simulate"]

Testbench = Callable[[Any], Coroutine[Any, Any, None]]

_MISSING = object()


class Design:
    """A block in a simulator that is made once for any number of runs, since a large block takes longer to elaborate than to test.

    Attributes: dut, the block.
    """

    def __init__(self, dut: Any) -> None:
        from amaranth.sim import Simulator

        self.dut = dut
        self._simulator = Simulator(dut)
        self._simulator.add_clock(1e-6, if_exists=True)
        self._wakers = [list(slot.wakers) for slot in self._slots()]

    def _slots(self) -> list[Any]:
        return self._simulator._engine.state.slots  # type: ignore[attr-defined]

    def simulate(self, *testbenches: Testbench, background: Iterable[Testbench] = ()) -> None:
        """Runs ``testbenches`` from reset until all have returned, each after those in ``background`` within a cycle, and without anything
        that earlier runs have left."""
        engine: Any = self._simulator._engine
        engine._testbenches.clear()
        engine._active_triggers.clear()
        for slot, wakers in zip_longest(self._slots(), self._wakers, fillvalue=()):
            slot.wakers[:] = wakers
        self._simulator.reset()
        for testbench in background:
            self._simulator.add_testbench(testbench, background=True)
        for testbench in testbenches:
            self._simulator.add_testbench(testbench)
        self._simulator.run()


@functools.lru_cache(maxsize=8)
def design(make: Callable[..., Any], *arguments: Any) -> Design:
    """The design of ``make(*arguments)``, the same one each time for the same arguments, so nobody may change the block itself."""
    return Design(make(*arguments))


def simulate(dut: Any, *testbenches: Testbench, background: Iterable[Testbench] = ()) -> None:
    """Runs ``testbenches``, each a coroutine function of the simulator's context, until all but those in ``background`` have returned."""
    from amaranth.sim import Simulator

    simulator = Simulator(dut)
    simulator.add_clock(1e-6, if_exists=True)  # a combinational block has no clock
    for testbench in testbenches:
        simulator.add_testbench(testbench)
    for testbench in background:
        simulator.add_testbench(testbench, background=True)
    simulator.run()


def assert_each_equal(what: str, got: Sequence[Any], want: Sequence[Any], stimuli: Sequence[Any] = ()) -> None:
    """Both sequences are equal, value by value.

    Raises:
        AssertionError: names the first value that differs or is missing, by its place, and the stimulus of the same place, if there is one.
    """
    for place, (one, other) in enumerate(zip_longest(got, want, fillvalue=_MISSING)):
        if one is _MISSING or other is _MISSING or one != other:
            shown = ["nothing" if value is _MISSING else repr(value) for value in (one, other)]
            stimulus = f"; stimulus: {stimuli[place]!r}" if place < len(stimuli) else ""
            raise AssertionError(f"{what} {place} of {len(want)}: got {shown[0]}, want {shown[1]}{stimulus}")
