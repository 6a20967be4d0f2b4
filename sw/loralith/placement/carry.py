"""Merges LUTs into the carry chains that they feed: each bit of an ECP5 carry chain is a LUT4, of which Yosys's adders use two inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

__all__ = ["absorb"]

Function = dict[tuple[int, ...], int]
"""Truth table: input values -> output value."""

_ADDER = "1001011010101010"
"""INIT that Yosys gives both halves of a CCU2C: A + (B ^ C) where D is 1. With C and D 0 it is A, which the carry logic relies on."""


def absorb(module: dict[str, Any]) -> int:
    """Merges LUTs of Yosys's flat `module` whose only fan-out is an adder into that adder; returns how many cells it removed.

    A half of a CCU2C computes A + g(B, C, D) for any g that is 0 where C and D are 0: its carry out is A where A and g agree.
    """
    cells = module["cells"]
    drivers: dict[int, str] = {}
    reads: Counter[int] = Counter(bit for port in module["ports"].values() for bit in port["bits"])
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                drivers.update(dict.fromkeys(bits, name))
            else:
                reads.update(bits)
    removed = 0
    for cell in [cell for cell in cells.values() if cell["type"] == "CCU2C"]:
        for half in "01":
            a, b, c, d = (cell["connections"][port + half][0] for port in "ABCD")
            if cell["parameters"][f"INIT{half}"] != _ADDER or d != "1" or c not in ("0", "1"):
                continue
            # The operands may be swapped where B is not inverted.
            for other, bit in ((a, b), (b, a))[: 2 if c == "0" else 1]:
                name = drivers.get(bit)
                if name is None or reads[bit] != 1:
                    continue
                absorbed = _absorbable(cells, drivers, reads, name, c == "1")
                if absorbed is None:
                    continue
                inputs, function, dropped = absorbed
                init = [index & 1 ^ function[(index >> 1 & 1, index >> 2 & 1, index >> 3)] for index in range(16)]
                cell["parameters"][f"INIT{half}"] = "".join(str(value) for value in reversed(init))
                for port, pin in zip("ABCD", (other, *inputs), strict=True):
                    cell["connections"][port + half] = [pin]
                for lut in dropped:
                    del cells[lut]
                removed += len(dropped)
                break
    return removed


def _absorbable(
    cells: dict[str, Any], drivers: dict[int, str], reads: Counter[int], name: str, inverted: bool
) -> tuple[tuple[Any, ...], Function, list[str]] | None:
    """(inputs B, C and D, the half's function g of them, cells to remove) that replace the cell `name`; None where it cannot be merged."""
    cell = cells[name]
    if cell["type"] == "LUT4":
        variables, function = _lut(cell)
        if inverted:
            function = {values: 1 - value for values, value in function.items()}
        if len(variables) < 3:
            padded = (*variables, "0", "0")[:2]
            count = len(variables)
            return (*padded, "1"), {v: function[v[:count]] if v[2] else 0 for v in product((0, 1), repeat=3)}, [name]
        if len(variables) == 3:
            # An input driven by a LUT without other fan-out may be inverted there.
            invertible = [reads[pin] == 1 and pin in drivers and cells[drivers[pin]]["type"] == "LUT4" for pin in variables]
            for inverse in product(*((0, 1) if free else (0,) for free in invertible)):
                for order in permutations(range(3)):
                    permuted = {tuple(values[i] ^ inverse[i] for i in order): value for values, value in function.items()}
                    if not permuted[0, 0, 0] and not permuted[1, 0, 0]:
                        for pin in (pin for pin, invert in zip(variables, inverse, strict=True) if invert):
                            table = cells[drivers[pin]]["parameters"]
                            table["INIT"] = "".join("10"[int(bit)] for bit in table["INIT"])
                        return tuple(variables[i] for i in order), permuted, [name]
        return None
    if cell["type"] != "PFUMX":
        return None
    pins = {port: cell["connections"][port][0] for port in ("ALUT", "BLUT", "C0")}
    luts = [drivers[pins[port]] for port in ("ALUT", "BLUT") if pins[port] in drivers and reads[pins[port]] == 1]
    if len(luts) != 2 or any(cells[lut]["type"] != "LUT4" for lut in luts):
        return None
    (high_variables, high), (low_variables, low) = (_lut(cells[lut]) for lut in luts)
    variables = list(dict.fromkeys([pins["C0"], *high_variables, *low_variables]))

    def value(values: dict[Any, int]) -> int:
        chosen, names = (high, high_variables) if values[pins["C0"]] else (low, low_variables)
        return chosen[tuple(values[variable] for variable in names)] ^ inverted

    return None if len(variables) > 5 else _split(cells, variables, value, name, luts)


def _split(
    cells: dict[str, Any], variables: list[Any], value: Callable[[dict[Any, int]], int], name: str, luts: list[str]
) -> tuple[tuple[Any, ...], Function, list[str]] | None:
    """Decomposes a function of up to five variables: g of two of them and of one LUT of the others and the first; None where impossible."""
    for first, second in permutations(variables, 2):
        rest = [variable for variable in variables if variable not in (first, second)]
        points = list(product((0, 1), repeat=len(rest)))

        def part(s: int, x: int, rest=rest, points=points, first=first, second=second) -> tuple[int, ...]:
            return tuple(value({**dict(zip(rest, point, strict=True)), first: s, second: x}) for point in points)

        zero, one = (0,) * len(points), (1,) * len(points)
        if part(0, 0) != zero:
            continue
        inner_tables, function = {}, {}
        for s in (0, 1):
            parts = {x: part(s, x) for x in (0, 1)}
            inner = next((p for p in parts.values() if p not in (zero, one)), zero)
            flipped = tuple(1 - bit for bit in inner)
            kinds = {zero: (0, 0), one: (1, 1), flipped: (1, 0), inner: (0, 1)} if inner != zero else {zero: (0, 0), one: (1, 1)}
            if any(p not in kinds for p in parts.values()):
                break
            inner_tables[s] = inner
            function.update({(b, s, x): kinds[p][b] for x, p in parts.items() for b in (0, 1)})
        else:
            keep, drop = luts
            pins = (*rest, first)
            table: Function = {(*point, s): inner_tables[s][i] for i, point in enumerate(points) for s in (0, 1)}
            init = [table[tuple(index >> at & 1 for at in range(len(pins)))] for index in range(16)]
            cells[keep]["parameters"]["INIT"] = "".join(str(bit) for bit in reversed(init))
            for port, pin in zip("ABCD", (*pins, "0", "0", "0"), strict=False):
                cells[keep]["connections"][port] = [pin]
            return (cells[keep]["connections"]["Z"][0], first, second), function, [name, drop]
    return None


def _lut(cell: dict[str, Any]) -> tuple[list[Any], Function]:
    """The distinct non-constant inputs of a LUT4, and its truth table over them."""
    init = cell["parameters"]["INIT"][::-1]
    pins = [cell["connections"][port][0] for port in "ABCD"]
    variables = list(dict.fromkeys(pin for pin in pins if isinstance(pin, int)))
    function = {}
    for values in product((0, 1), repeat=len(variables)):
        known = dict(zip(variables, values, strict=True))
        index = sum((known[pin] if isinstance(pin, int) else pin == "1") << at for at, pin in enumerate(pins))
        function[values] = int(init[index])
    return variables, function
