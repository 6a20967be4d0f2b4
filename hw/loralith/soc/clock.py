"""The board's clocks: a PLL of the ECP5, and the reset that it gives."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import ClockDomain, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BoardClock", "PllSettings"]

VCO_MHZ = (400.0, 800.0)
DETECTOR_MHZ = (3.125, 400.0)
EIGHTHS = 8
"""Steps of a cycle of the VCO in which an output can be shifted."""


@dataclass(frozen=True)
class PllSettings:
    """Dividers of an EHXPLLL with feedback from its first output, and the second output's shift against it.

    Attributes: input, feedback, output: divisors of the input, the feedback and both outputs. shift: eighths of a cycle of the VCO.
    """

    input: int
    feedback: int
    output: int
    shift: int

    @classmethod
    def of(cls, input_mhz: float, output_mhz: float, phase: float) -> PllSettings:
        """For a second output that is ``phase`` degrees late, to the nearest step.

        Raises ValueError for a frequency that cannot be had exactly.
        """
        found = []
        for divisor in range(1, 41):
            for feedback in range(1, 81):
                if abs(input_mhz / divisor * feedback - output_mhz) > 1e-9 or not DETECTOR_MHZ[0] <= input_mhz / divisor <= DETECTOR_MHZ[1]:
                    continue
                for output in range(1, 129):
                    if VCO_MHZ[0] <= output_mhz * output <= VCO_MHZ[1]:
                        found.append((divisor, abs(output_mhz * output - 600), feedback, output))
        if not found:
            raise ValueError(f"a PLL makes no {output_mhz:g} MHz of {input_mhz:g} MHz")
        divisor, _, feedback, output = min(found)
        return cls(divisor, feedback, output, round(phase / 360 * output * EIGHTHS))

    @property
    def parameters(self) -> dict[str, object]:
        """Of the instance."""
        middle = (self.output - 1) // 2  # a duty cycle of one half begins here
        coarse, fine = divmod(self.shift, EIGHTHS)
        return {
            "p_CLKI_DIV": self.input,
            "p_CLKFB_DIV": self.feedback,
            "p_FEEDBK_PATH": "CLKOP",
            "p_CLKOP_ENABLE": "ENABLED",
            "p_CLKOP_DIV": self.output,
            "p_CLKOP_CPHASE": middle,
            "p_CLKOP_FPHASE": 0,
            "p_CLKOS_ENABLE": "ENABLED",
            "p_CLKOS_DIV": self.output,
            "p_CLKOS_CPHASE": middle + coarse,
            "p_CLKOS_FPHASE": fine,
            "p_PLLRST_ENA": "DISABLED",
            "p_INTFB_WAKE": "DISABLED",
            "p_STDBY_ENABLE": "DISABLED",
            "p_DPHASE_SOURCE": "DISABLED",
            "p_OUTDIVIDER_MUXA": "DIVA",
            "p_OUTDIVIDER_MUXB": "DIVB",
        }


RESET_CYCLES = 16


class BoardClock(wiring.Component):
    """A PLL, and the reset for the domain that it drives.

    Members: i: the board's oscillator. clock: for the system. reset: of its domain, until the clock is stable, in that clock. o: the memory
        chip's clock pin.
    """

    def __init__(self, settings: PllSettings) -> None:
        self._settings = settings
        super().__init__({"i": In(1), "clock": Out(1), "reset": Out(1, init=1), "o": Out(1)})  # pyright: ignore[reportCallIssue]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.memory = ClockDomain("memory", reset_less=True, local=True)
        m.domains.start = ClockDomain("start", reset_less=True, local=True)
        locked = Signal()
        m.submodules.pll = Instance(
            "EHXPLLL",
            **self._settings.parameters,
            i_CLKI=self.i,
            i_CLKFB=self.clock,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            i_ENCLKOS=Const(0),
            o_CLKOP=self.clock,
            o_CLKOS=ClockSignal("memory"),
            o_LOCK=locked,
        )
        m.submodules.forward = Instance("ODDRX1F", i_SCLK=ClockSignal("memory"), i_RST=Const(0), i_D0=Const(1), i_D1=Const(0), o_Q=self.o)
        seen, count = Signal(2), Signal(range(RESET_CYCLES), init=RESET_CYCLES - 1)
        m.d.comb += ClockSignal("start").eq(self.clock)
        m.d.start += seen.eq(seen << 1 | locked)
        with m.If(~seen[1]):
            m.d.start += [count.eq(RESET_CYCLES - 1), self.reset.eq(1)]
        with m.Elif(count != 0):
            m.d.start += count.eq(count - 1)
        with m.Else():
            m.d.start += self.reset.eq(0)
        return m
