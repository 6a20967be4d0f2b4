"""The board's LEDs."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LIGHTS", "Lights"]

LIGHTS = ("clock", "memory", "receive", "transmit", "list", "read", "write", "irq")
"""What each LED tells, from the first: the clock runs (about once a second), the memory chip is started, the line from and to the host is
in use, the accelerator asks for memory, memory is read, memory is written, the accelerator's interrupt."""


class Lights(wiring.Component):
    """``led`` is what `LIGHTS` says. An event is visible for a sixteenth of a second or so.

    Parameter: clock_hz. Members: memory, irq: levels. receive, transmit: the line's levels, which rest high. list, read, write: events.
    """

    def __init__(self, clock_hz: float) -> None:
        self._bits = max(round(clock_hz).bit_length() - 1, 6)
        super().__init__({name: In(1) for name in LIGHTS[1:]} | {"led": Out(len(LIGHTS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        time = Signal(self._bits)
        frame = Signal()
        m.d.sync += [time.eq(time + 1), frame.eq(time[: self._bits - 4] == 0)]

        def stretched(event, name: str) -> Signal:
            recent, lit = Signal(name=f"{name}_now"), Signal(name=f"{name}_shown")
            with m.If(event):
                m.d.sync += recent.eq(1)
            with m.Elif(frame):
                m.d.sync += recent.eq(0)
            with m.If(frame):
                m.d.sync += lit.eq(recent)
            return lit

        events = {"receive": ~self.receive, "transmit": ~self.transmit, "list": self.list, "read": self.read, "write": self.write}
        lit = {name: stretched(event, name) for name, event in events.items()}
        levels = {"clock": time[-1], "memory": self.memory, "irq": self.irq}
        m.d.sync += self.led.eq(Cat((lit | levels)[name] for name in LIGHTS))
        return m
