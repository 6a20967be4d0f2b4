"""What unit tests of RTL blocks share: a run of Amaranth's simulator, and a comparison of many values that names the first wrong one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import zip_longest
from typing import Any

__all__ = ["assert_each_equal", "simulate"]

Testbench = Callable[[Any], Coroutine[Any, Any, None]]

_MISSING = object()


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
