"""Flip-flops beside multipliers and block RAM, moved into them: the blocks have registers of their own, which Yosys does not use.

Without them a multiplier takes 4 ns between two wires, and block RAM 6 ns of a period.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

__all__ = ["absorb"]


def absorb(module: dict[str, Any]) -> int:
    """Moves into the blocks of Yosys's flat `module` the plain flip-flops at their pins; returns how many are gone.

    Plain ones have neither enable nor reset and start as 0, as the blocks' registers do: a block's enables and resets are few, and shared
    with its neighbours. Of a multiplier both operands or none, and the product; of block RAM what it reads. A flip-flop that others read
    stays for them; one operand may go into many multipliers.
    """
    before = sum(cell["type"] == "TRELLIS_FF" for cell in module["cells"].values())
    netlist = _Netlist(module)
    for name, cell in list(module["cells"].items()):
        if cell["type"] == "MULT18X18D":
            netlist.multiplier(name, cell)
        elif cell["type"] == "DP16KD":
            netlist.memory(name, cell)
    netlist.sweep()
    return before - sum(cell["type"] == "TRELLIS_FF" for cell in module["cells"].values())


class _Netlist:
    """Who drives and who reads each bit of a module's plain flip-flops."""

    def __init__(self, module: dict[str, Any]) -> None:
        self.cells = module["cells"]
        self.plain: dict[int, str] = {}  # by what they drive
        self.readers: dict[Any, set[tuple[str, str]]] = defaultdict(set)
        self.ports = {bit for port in module["ports"].values() for bit in port["bits"]}
        for name, cell in self.cells.items():
            pins = cell["connections"]
            if cell["type"] == "TRELLIS_FF" and self._is_plain(cell):
                self.plain[pins["Q"][0]] = name
            for port, bits in pins.items():
                if cell["port_directions"][port] != "output":
                    self.readers[bits[0]].add((name, port))

    @staticmethod
    def _is_plain(cell: dict[str, Any]) -> bool:
        parameters, pins = cell["parameters"], cell["connections"]
        enabled = parameters.get("CEMUX", "CE") == "1" or pins.get("CE", ["1"]) == ["1"]
        return (
            enabled and pins.get("LSR", ["0"]) == ["0"] and parameters.get("REGSET") == "RESET" and parameters.get("CLKMUX", "CLK") == "CLK"
        )

    def _clock(self, flipflops: list[str]) -> list[Any] | None:
        """The one clock of the flip-flops."""
        clocks = [self.cells[name]["connections"]["CLK"] for name in flipflops]
        return clocks[0] if clocks and all(clock == clocks[0] for clock in clocks) else None

    def multiplier(self, name: str, cell: dict[str, Any]) -> None:
        pins = cell["connections"]
        operands = {side: [port for port in pins if port[0] == side and port[1:].isdigit()] for side in "AB"}
        bits = [pins[port][0] for side in "AB" for port in operands[side] if isinstance(pins[port][0], int)]
        ones = any(pins[port] == ["1"] for side in "AB" for port in operands[side])  # a register would start with 0 there
        clock = self._clock([self.plain[bit] for bit in bits]) if not ones and all(bit in self.plain for bit in bits) else None
        if clock is not None:
            for side in "AB":
                for port in operands[side]:
                    bit = pins[port][0]
                    if isinstance(bit, int):
                        pins[port] = list(self.cells[self.plain[bit]]["connections"]["DI"])
                        self.readers[bit].discard((name, port))
                        self.readers[pins[port][0]].add((name, port))
                self._register(cell, f"INPUT{side}", clock)
        products = [port for port in pins if port[0] == "P" and port[1:].isdigit()]
        clock = self._into(cell, products)
        if clock is not None:
            self._register(cell, "OUTPUT", clock)

    @staticmethod
    def _register(cell: dict[str, Any], place: str, clock: list[Any]) -> None:
        cell["parameters"] |= {f"REG_{place}_CLK": "CLK0", f"REG_{place}_CE": "CE0", f"REG_{place}_RST": "RST0"}
        cell["connections"] |= {"CLK0": clock, "CE0": ["1"], "RST0": ["0"]}
        cell["port_directions"] |= dict.fromkeys(("CLK0", "CE0", "RST0"), "input")

    def memory(self, name: str, cell: dict[str, Any]) -> None:
        pins = cell["connections"]
        if self._into(cell, [port for port in pins if port[:3] in ("DOA", "DOB")]) == pins["CLKB"]:
            cell["parameters"] |= {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"}
            pins |= {"OCEA": ["1"], "OCEB": ["1"]}
            assert pins["RSTA"] == pins["RSTB"] == ["0"], name

    def _into(self, cell: dict[str, Any], outputs: list[str]) -> list[Any] | None:
        """Where nothing but one plain flip-flop reads each of the outputs: puts those in their places; returns their clock."""
        pins = cell["connections"]
        behind = {}
        for port in outputs:
            readers = self.readers[pins[port][0]]
            if not readers and pins[port][0] not in self.ports:
                continue
            ((name, pin), *others) = readers or {("", "")}
            if others or pin != "DI" or self.cells[name]["type"] != "TRELLIS_FF" or not self._is_plain(self.cells[name]):
                return None
            behind[port] = name
        clock = self._clock(list(behind.values()))
        if clock is not None:
            for port, name in behind.items():
                pins[port] = list(self.cells.pop(name)["connections"]["Q"])
                self.plain.pop(pins[port][0], None)
        return clock

    def sweep(self) -> None:
        """Takes out plain flip-flops that nothing reads any more, and those before them."""
        read = {
            bit
            for cell in self.cells.values()
            for port, (bit, *_) in cell["connections"].items()
            if cell["port_directions"][port] != "output"
        }
        gone = [name for bit, name in self.plain.items() if bit not in read and bit not in self.ports and name in self.cells]
        for name in gone:
            del self.cells[name]
        if gone:
            self.sweep()
