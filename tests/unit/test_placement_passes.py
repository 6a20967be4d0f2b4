"""What is done to a netlist after Yosys: registers moved into blocks, LUTs into adders, copies of what drives very many."""

import random
from itertools import product

import pytest

from loralith.placement import carry, fanout, register_packing

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

    def flop(self, name: str, d: str, **pins: str) -> None:
        self.cell(name, "TRELLIS_FF", {"REGSET": "RESET"}, ("Q",), **{"CLK": "clk", "CE": "1", "LSR": "0", "DI": d, "Q": name} | pins)

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


@pytest.mark.parametrize("readers", [1, 2])
def test_an_inverse_moves_into_the_lut_in_front(readers: int) -> None:
    """The adder's LUT must give 0 where two of its inputs are 0: it does once the LUT in front, if nothing else reads it, is inverted."""
    netlist = Netlist(*INPUTS)
    netlist.lut("not_shifted", init(lambda a, b, c, d: not (a and c)), "v", "0", "y", "0")
    netlist.lut("chosen", init(lambda a, b, c, d: (a and b) or not c), "u", "x", "not_shifted", "0")
    netlist.adder("p", "chosen")
    if readers == 2:
        netlist.lut("other", init(lambda a, b, c, d: a), "not_shifted", "0", "0", "0")
    before = table(netlist)
    assert carry.absorb(netlist.module) == 2 - readers
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


def test_rows_of_the_array_share_copies() -> None:
    """Two columns, which the names tell first; six rows of two bits: a copy for two rows."""
    netlist = Netlist("clk", "d")
    netlist.cell("flop", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="d", Q="q")
    names = {(i, bit): [f"acc_{j:02}_{i:02}_FF_{bit}" for j in range(2)] for i in range(6) for bit in range(2)}
    for name in (name for pair in names.values() for name in pair):
        netlist.cell(name, "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="q", Q=f"{name}_q")
    assert fanout.split(netlist.module, limit=8) == 2
    rows: dict[int, set[int]] = {}
    for (i, _), pair in names.items():
        rows.setdefault(i, set()).update(netlist.module["cells"][name]["connections"]["DI"][0] for name in pair)
    assert all(len(drivers) == 1 for drivers in rows.values())
    assert rows[0] == rows[1] != rows[2] == rows[3] != rows[4] == rows[5]


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


def placed(**at: tuple[int, int]) -> dict:
    """What nextpnr writes of cells at places, as far as `regroup` looks at it."""
    return {"cells": {name.replace("__", "$"): {"attributes": {"NEXTPNR_BEL": f"X{x}/Y{y}/SLICEA.K0"}} for name, (x, y) in at.items()}}


def of_two_ends() -> tuple[Netlist, dict, dict]:
    """Eight readers of a flip-flop and its copy; even numbers are at one end of the part, odd ones at the other."""
    netlist = Netlist("clk", "d")
    netlist.cell("flop", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="d", Q="q")
    for i in range(7):
        netlist.cell(f"reader_{i}", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="q", Q=f"q{i}")
    netlist.cell("reader_7", "CCU2C", {}, ("S0",), A0="q", S0="q7")
    assert fanout.split(netlist.module, limit=4) == 1
    at = {f"reader_{i}": (5 + 80 * (i % 2), 5 + i) for i in range(7)} | {"reader_7__CCU2_COMB0": (85, 30), "reader_7__CCU2_COMB1": (85, 30)}
    return netlist, netlist.module["cells"], at


def driver(cells: dict, name: str) -> int:
    (bit,) = cells[name]["connections"]["DI" if "DI" in cells[name]["connections"] else "A0"]
    return bit


def test_readers_change_to_the_copy_that_others_near_them_read() -> None:
    netlist, cells, at = of_two_ends()
    before = {name: dict(cell["connections"]) for name, cell in cells.items() if not name.startswith("reader")}
    assert fanout.regroup(netlist.module, placed(**at)) == 4
    ends = [{driver(cells, f"reader_{i}") for i in range(end, 8, 2)} for end in range(2)]
    assert [len(end) for end in ends] == [1, 1]
    assert ends[0] != ends[1]
    assert {name: dict(cell["connections"]) for name, cell in cells.items() if not name.startswith("reader")} == before
    assert fanout.regroup(netlist.module, placed(**at)) == 0, "they are where they belong"


def test_a_reader_without_a_place_keeps_its_copy() -> None:
    netlist, cells, at = of_two_ends()
    del at["reader_1"]
    kept = driver(cells, "reader_1")
    fanout.regroup(netlist.module, placed(**at))
    assert driver(cells, "reader_1") == kept
    assert len({driver(cells, f"reader_{i}") for i in (3, 5, 7)}) == 1


def test_enables_and_data_do_not_change_places() -> None:
    """Copies for enables have limits of their own: a tile's flip-flops share them."""
    netlist = Netlist("clk", "d")
    netlist.cell("flop", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="d", Q="q")
    for i in range(8):
        netlist.cell(f"reader_{i}", "TRELLIS_FF", {}, ("Q",), CLK="clk", DI="q", CE="q", Q=f"q{i}")
    assert fanout.split(netlist.module, limit=4, control_limit=4) == 3
    cells = netlist.module["cells"]
    nets = {port: {cells[f"reader_{i}"]["connections"][port][0] for i in range(8)} for port in ("DI", "CE")}
    assert fanout.regroup(netlist.module, placed(**{f"reader_{i}": (5 + 80 * (i % 2), 5) for i in range(8)})) == 8
    for port in ("DI", "CE"):
        ends = [{cells[f"reader_{i}"]["connections"][port][0] for i in range(end, 8, 2)} for end in range(2)]
        assert [len(end) for end in ends] == [1, 1]
        assert ends[0] | ends[1] == nets[port]


def multiplier(netlist: Netlist, name: str, a: str, b: str) -> None:
    """Of one bit each; the second bits are constant and a copy of the first one, as signs are."""
    netlist.cell(name, "MULT18X18D", {}, ("P0", "P1"), A0=a, A1="0", B0=b, B1=b, P0=f"{name}_p0", P1=f"{name}_p1")


def test_registers_around_multipliers_become_their_own() -> None:
    netlist = Netlist("clk", "x", "y", "z")
    for name, d in (("a", "x"), ("b", "y"), ("c", "z")):
        netlist.flop(name, d)
    netlist.lut("reader", init(lambda a, b, c, d: a), "c", "0", "0", "0")
    for name, right in (("first", "b"), ("second", "c")):
        multiplier(netlist, name, "a", right)
        netlist.flop(f"{name}_q0", f"{name}_p0")
    cells, bits = netlist.module["cells"], netlist.bits
    assert register_packing.absorb(netlist.module) == 4  # c has another reader
    assert sorted(cells) == ["c", "first", "reader", "second"]
    for name, right in (("first", "y"), ("second", "z")):
        pins = cells[name]["connections"]
        assert [pins[port] for port in ("A0", "A1", "B0", "B1")] == [[bits["x"]], ["0"], [bits[right]], [bits[right]]]
        assert pins["P0"] == [bits[f"{name}_q0"]]
        assert (pins["CLK0"], pins["CE0"], pins["RST0"]) == ([bits["clk"]], ["1"], ["0"])
        assert {place: cells[name]["parameters"].get(f"REG_{place}_CLK") for place in ("INPUTA", "INPUTB", "OUTPUT")} == dict.fromkeys(
            ("INPUTA", "INPUTB", "OUTPUT"), "CLK0"
        )


@pytest.mark.parametrize(
    "pins",
    [{"CE": "x"}, {"LSR": "x"}, {"CLK": "z"}],
    ids=["enabled", "reset", "another clock"],
)
def test_registers_that_a_block_does_not_have_stay(pins: dict[str, str]) -> None:
    netlist = Netlist("clk", "x", "y", "z")
    netlist.flop("a", "x")
    netlist.flop("b", "y", **pins)
    multiplier(netlist, "product", "a", "b")
    netlist.flop("low", "product_p0")
    netlist.flop("high", "product_p1", **pins)
    netlist.lut("reader", init(lambda a, b, c, d: a and b), "low", "high", "0", "0")
    before = {name: dict(cell["connections"]) for name, cell in netlist.module["cells"].items()}
    assert register_packing.absorb(netlist.module) == 0
    assert {name: cell["connections"] for name, cell in netlist.module["cells"].items()} == before


def test_a_product_that_something_else_reads_stays_outside() -> None:
    netlist = Netlist("clk", "x", "y")
    multiplier(netlist, "product", "x", "y")
    netlist.flop("low", "product_p0")
    netlist.lut("reader", init(lambda a, b, c, d: a and b), "product_p0", "low", "0", "0")
    assert register_packing.absorb(netlist.module) == 0


def memory(netlist: Netlist) -> None:
    pins = {"CLKA": "clk", "CLKB": "clk", "RSTA": "0", "RSTB": "0", "OCEA": "0", "OCEB": "1"}
    netlist.cell("ram", "DP16KD", {"REGMODE_A": "NOREG", "REGMODE_B": "NOREG"}, ("DOA0", "DOB0"), DOA0="low", DOB0="high", **pins)


def test_a_register_behind_block_ram_becomes_its_own() -> None:
    netlist = Netlist("clk")
    memory(netlist)
    netlist.flop("low_q", "low")
    netlist.flop("high_q", "high")
    assert register_packing.absorb(netlist.module) == 2
    (cell,) = netlist.module["cells"].values()
    assert cell["parameters"] == {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"}
    names = ("DOA0", "DOB0", "OCEA", "OCEB")
    assert [cell["connections"][port] for port in names] == [[netlist.bits["low_q"]], [netlist.bits["high_q"]], ["1"], ["1"]]


def test_what_a_multiplier_takes_from_block_ram_through_registers_is_counted_as_its_reader() -> None:
    """The multiplier takes its operands where its registers did, which then are not the only ones there."""
    netlist = Netlist("clk")
    memory(netlist)
    netlist.flop("low_q", "low")
    netlist.flop("high_q", "high")
    multiplier(netlist, "product", "low_q", "high_q")
    netlist.lut("reader", init(lambda a, b, c, d: a), "low_q", "0", "0", "0")
    register_packing.absorb(netlist.module)
    cells = netlist.module["cells"]
    driven = {
        cell["connections"][port][0] for cell in cells.values() for port in cell["connections"] if cell["port_directions"][port] == "output"
    }
    read = {
        cell["connections"][port][0] for cell in cells.values() for port in cell["connections"] if cell["port_directions"][port] == "input"
    }
    assert {bit for bit in read if isinstance(bit, int)} - driven == {netlist.bits["clk"]}
    registered = cells["ram"]["parameters"]["REGMODE_A"] == "OUTREG"
    assert registered != ("REG_INPUTA_CLK" in cells["product"]["parameters"])
    assert ("low_q" in cells) != registered


def test_blocks_share_a_register_with_few_others() -> None:
    netlist = Netlist("clk", "d")
    netlist.flop("address", "d")
    for i in range(9):
        netlist.cell(f"ram_{i}", "DP16KD", {}, (), ADA0="address", ADA1="address")
    assert fanout.split(netlist.module, block_limit=4) == 4
    cells = netlist.module["cells"]
    drivers = [cells[f"ram_{i}"]["connections"][port][0] for i in range(9) for port in ("ADA0", "ADA1")]
    assert all(drivers.count(bit) <= 4 for bit in drivers)
