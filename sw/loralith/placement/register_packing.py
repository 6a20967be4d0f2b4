"""Register packing: flip-flops at the pins of multipliers and block RAM move into the blocks' own pipeline registers.

Yosys does not use these. Without them a multiplier's combinational delay is 4 ns, and block RAM takes 6 ns of a period.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

__all__ = ["absorb"]


def absorb(module: dict[str, Any]) -> int:
    """Packs plain flip-flops of Yosys's flat `module` into the blocks at their pins; returns how many flip-flops it removed.

    A plain flip-flop has neither enable nor reset and starts as 0: a block's enables and resets are few and shared with its neighbours.
    A multiplier gets registers at both operands or at none, and at its product; block RAM at its read data. A flip-flop with other fan-out
    stays for that; one operand may be packed into many multipliers.
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
    """Driver and fan-out of each bit of a module's plain flip-flops."""

    def __init__(self, module: dict[str, Any]) -> None:
        self.cells = module["cells"]
        self.plain: dict[int, str] = {}  # by the net that they drive
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
        """The common clock of the flip-flops; None where they have several."""
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
        clock = self._absorb_outputs(cell, products)
        if clock is not None:
            self._register(cell, "OUTPUT", clock)

    @staticmethod
    def _register(cell: dict[str, Any], place: str, clock: list[Any]) -> None:
        cell["parameters"] |= {f"REG_{place}_CLK": "CLK0", f"REG_{place}_CE": "CE0", f"REG_{place}_RST": "RST0"}
        cell["connections"] |= {"CLK0": clock, "CE0": ["1"], "RST0": ["0"]}
        cell["port_directions"] |= dict.fromkeys(("CLK0", "CE0", "RST0"), "input")

    def memory(self, name: str, cell: dict[str, Any]) -> None:
        pins = cell["connections"]
        if self._absorb_outputs(cell, [port for port in pins if port[:3] in ("DOA", "DOB")]) == pins["CLKB"]:
            cell["parameters"] |= {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"}
            pins |= {"OCEA": ["1"], "OCEB": ["1"]}
            assert pins["RSTA"] == pins["RSTB"] == ["0"], name

    def _absorb_outputs(self, cell: dict[str, Any], outputs: list[str]) -> list[Any] | None:
        """Packs the flip-flops behind `outputs` where one plain one is the only fan-out of each; returns their clock, else None."""
        pins = cell["connections"]
        output_registers = {}
        for port in outputs:
            readers = self.readers[pins[port][0]]
            if not readers and pins[port][0] not in self.ports:
                continue
            ((name, pin), *others) = readers or {("", "")}
            if others or pin != "DI" or self.cells[name]["type"] != "TRELLIS_FF" or not self._is_plain(self.cells[name]):
                return None
            output_registers[port] = name
        clock = self._clock(list(output_registers.values()))
        if clock is not None:
            for port, name in output_registers.items():
                pins[port] = list(self.cells.pop(name)["connections"]["Q"])
                self.plain.pop(pins[port][0], None)
        return clock

    def sweep(self) -> None:
        """Removes plain flip-flops without fan-out, and those that only they read."""
        read = {
            bit
            for cell in self.cells.values()
            for port, (bit, *_) in cell["connections"].items()
            if cell["port_directions"][port] != "output"
        }
        unread = [name for bit, name in self.plain.items() if bit not in read and bit not in self.ports and name in self.cells]
        for name in unread:
            del self.cells[name]
        if unread:
            self.sweep()
