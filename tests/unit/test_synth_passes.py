"""What is done to a netlist after Yosys: LUTs moved into adders, copies of what drives very many."""

import random
from itertools import product

import pytest

from loralith.synth import carry, fanout

ADDER = "1001011010101010"
INPUTS = ("p", "u", "v", "w", "x", "y")


class Netlist:
    """A module in the form of Yosys's JSON, made cell by cell; bits have names."""

    def __init__(self, *inputs: str) -> None:
        self.bits: dict[str, int] = {}
        self.module: dict = {"ports": {}, "cells": {}, "netnames": {}}
        for name in inputs:
            self.module["ports"][name] = {"direction": "input", "bits": [self.bit(name)]}

    def bit(self, name: str) -> int | str:
        if name in ("0", "1"):
            return name
        number = self.bits.setdefault(name, len(self.bits) + 2)
        self.module["netnames"][name] = {"bits": [number]}
        return number

    def cell(self, name: str, kind: str, parameters: dict[str, str], outputs: tuple[str, ...], **pins: str) -> None:
        self.module["cells"][name] = {
            "type": kind,
            "parameters": parameters,
            "port_directions": {port: "output" if port in outputs else "input" for port in pins},
            "connections": {port: [self.bit(net)] for port, net in pins.items()},
        }

    def lut(self, name: str, init: str, a: str, b: str, c: str, d: str) -> None:
        self.cell(name, "LUT4", {"INIT": init}, ("Z",), A=a, B=b, C=c, D=d, Z=name)

    def adder(self, a: str, b: str, c: str = "0") -> None:
        pins = {"A0": a, "B0": b, "C0": c, "D0": "1", "A1": "0", "B1": "0", "C1": "0", "D1": "1", "CIN": "p", "S0": "s", "COUT": "carry"}
        self.cell("add", "CCU2C", {"INIT0": ADDER, "INIT1": ADDER}, ("S0", "COUT"), **pins)

    def half(self, values: dict[str, int]) -> tuple[int, int]:
        """(sum without carry in, carry out of a half with carry in 0) of the adder's lower half, as the ECP5's model has them."""
        drivers = {cell["connections"]["Z"][0]: cell for cell in self.module["cells"].values() if "Z" in cell["connections"]}
        known = {self.bits[name]: value for name, value in values.items()}

        def value(bit: int | str) -> int:
            if isinstance(bit, str):
                return int(bit)
            if bit in known:
                return known[bit]
            cell = drivers[bit]
            pins = {port: value(bits[0]) for port, bits in cell["connections"].items() if port != "Z"}
            if cell["type"] == "PFUMX":
                return pins["ALUT"] if pins["C0"] else pins["BLUT"]
            return int(cell["parameters"]["INIT"][::-1][pins["A"] | pins["B"] << 1 | pins["C"] << 2 | pins["D"] << 3])

        cell = self.module["cells"]["add"]
        a, b, c, d = (value(cell["connections"][port + "0"][0]) for port in "ABCD")
        init = cell["parameters"]["INIT0"][::-1]
        propagate = int(init[a | b << 1 | c << 2 | d << 3])
        return propagate, int(init[a | b << 1]) if not propagate else 0


def table(netlist: Netlist) -> list[tuple[int, int]]:
    return [netlist.half(dict(zip(INPUTS, values, strict=True))) for values in product((0, 1), repeat=len(INPUTS))]


def init(function) -> str:
    return "".join(str(int(function(i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3))) for i in reversed(range(16)))


def test_an_element_s_accumulator_is_chosen_in_a_lut_and_its_adder() -> None:
    """Kept, cleared, shifted by one or by four (u, 0, v, w) by (x, y), to which p is added: two LUTs and a multiplexer become one LUT."""
    netlist = Netlist(*INPUTS)
    netlist.lut("kept", init(lambda a, b, c, d: a and not b), "u", "x", "0", "0")
    netlist.lut("shifted", init(lambda a, b, c, d: b if c else a), "v", "w", "x", "0")
    netlist.cell("chosen", "PFUMX", {}, ("Z",), ALUT="shifted", BLUT="kept", C0="y", Z="chosen")
    netlist.adder("p", "chosen")
    before = table(netlist)
    assert carry.absorb(netlist.module) == 2
    assert [cell["type"] for cell in netlist.module["cells"].values()] == ["LUT4", "CCU2C"]
    assert table(netlist) == before


@pytest.mark.parametrize("seed", range(40))
def test_an_adder_s_sum_and_carry_stay_what_they_are(seed: int) -> None:
    rng = random.Random(seed)
    netlist = Netlist(*INPUTS)

    def lut(name: str) -> None:
        count = rng.randint(1, 4)
        pins = [rng.choice(INPUTS[1:]) for _ in range(count)] + ["0"] * (4 - count)
        netlist.lut(name, f"{rng.choice((rng.getrandbits(16), 0x8888, 0xE4E4, 0x2222)):016b}", *pins)

    sides = []
    for side in "ab":
        kind = rng.choice(("pin", "lut", "wide"))
        if kind == "pin":
            sides.append("p")
            continue
        lut(f"{side}0")
        if kind == "wide":
            lut(f"{side}1")
            netlist.cell(f"{side}2", "PFUMX", {}, ("Z",), ALUT=f"{side}0", BLUT=f"{side}1", C0=rng.choice(INPUTS[1:]), Z=f"{side}2")
        sides.append(f"{side}{2 if kind == 'wide' else 0}")
    netlist.adder(*sides, rng.choice("01"))
    before = table(netlist)
    carry.absorb(netlist.module)
    assert table(netlist) == before


def test_what_others_read_stays() -> None:
    netlist = Netlist(*INPUTS)
    netlist.lut("both", init(lambda a, b, c, d: a and b), "u", "v", "0", "0")
    netlist.lut("other", init(lambda a, b, c, d: a), "both", "0", "0", "0")
    netlist.adder("p", "both")
    assert carry.absorb(netlist.module) == 0


def test_a_register_read_by_many_is_copied_with_all_that_it_takes() -> None:
    netlist = Netlist("clk", "d", "reset")
    netlist.cell("flop", "TRELLIS_FF", {"REGSET": "SET"}, ("Q",), CLK="clk", DI="d", LSR="reset", Q="q")
    for i in range(10):
        netlist.cell(f"reader_{i}", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="q", Q=f"q{i}")
    cells = netlist.module["cells"]
    original = cells["flop"]["connections"]["Q"]
    assert fanout.split(netlist.module, limit=4) == 2
    assert len(cells) == 13
    copies = [cell for name, cell in cells.items() if name.startswith("flop$")]
    assert all(copy["parameters"] == cells["flop"]["parameters"] for copy in copies)
    assert all(copy["connections"][port] == cells["flop"]["connections"][port] for copy in copies for port in ("CLK", "DI", "LSR"))
    driven = [original, *(copy["connections"]["Q"] for copy in copies)]
    assert len({bits[0] for bits in driven}) == 3
    read = [cells[f"reader_{i}"]["connections"]["DI"] for i in range(10)]
    assert read == sorted(read, key=driven.index)
    assert all(1 <= read.count(bits) <= 4 for bits in driven)
    # Enables have a limit of their own, and ports are no registers.
    for i in range(10):
        cells[f"reader_{i}"]["connections"]["CE"] = list(original)
        cells[f"reader_{i}"]["port_directions"]["CE"] = "input"
    assert fanout.split(netlist.module, limit=4, control_limit=10) == 1
    assert len({cells[f"reader_{i}"]["connections"]["CE"][0] for i in range(10)}) == 1
    assert all(cell["connections"]["CLK"] == [netlist.bits["clk"]] for cell in cells.values())


def test_copies_of_copies_have_names_of_their_own() -> None:
    """Copies of the LUTs read the register more often, which then is copied in the next round: each net keeps its driver."""
    netlist = Netlist("clk", "d")
    netlist.cell("flop", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="d", Q="q")
    for i in range(5):
        netlist.lut(f"lut_{i}", init(lambda a, b, c, d: not a), "q", "0", "0", "0")
        for j in range(9):
            netlist.cell(f"reader_{i}_{j}", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI=f"lut_{i}", Q=f"q{i}_{j}")
    copies = fanout.split(netlist.module, limit=4)
    cells = netlist.module["cells"].values()
    driven = [cell["connections"][port][0] for cell in cells for port in ("Q", "Z") if port in cell["connections"]]
    assert len(driven) == len(set(driven)) == 1 + 5 + 45 + copies
    assert not netlist.module["cells"].keys() & {name for name in netlist.module["netnames"] if "$" in name}  # one name space in Yosys
    inputs = {cell["connections"][port][0] for cell in cells for port in ("DI", "A") if port in cell["connections"]}
    assert inputs - set(driven) == {netlist.bits["d"]}
    assert all(sum(bit in cell["connections"].get(port, []) for cell in cells for port in ("DI", "A")) <= 4 for bit in driven)
