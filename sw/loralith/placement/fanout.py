"""Fan-out limiting by driver duplication: on a large part one register is far from most of its sinks, and Yosys duplicates none.

`split` groups sinks by name, as nothing is placed yet; `regroup` assigns them to the duplicates by position once a placement exists.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

__all__ = ["BLOCK_LIMIT", "CONTROL_LIMIT", "LIMIT", "regroup", "split"]

LIMIT = 64
"""Most sinks of one flip-flop or LUT."""
CONTROL_LIMIT = 256
"""The same of clock enables and resets: flip-flops of a slice share a control set, so that many small sets fragment the slices."""
BLOCK_LIMIT = 4
"""The same of block RAM and multipliers, whose sites are few and far apart."""

_CONTROL = ("CE", "LSR")
_BLOCKS = ("DP16KD", "MULT18X18D")

_OUTPUTS = {"TRELLIS_FF": "Q", "LUT4": "Z"}
_COPY = re.compile(r"(\$copy\d+)+$")
_PLACE = re.compile(r"X(\d+)/Y(\d+)/")
_PACKED_SUFFIX = re.compile(r"\$(CCU2_COMB|DPRAM_COMB|RAMW_BLOCK|RAMW_COMB)\d*$")
"""Suffix that nextpnr's packer adds where it splits a cell."""
_ROUNDS = 3
"""Duplicating a LUT raises the fan-out of its inputs, which may then need duplicates too."""


def split(module: dict[str, Any], limit: int = LIMIT, control_limit: int = CONTROL_LIMIT, block_limit: int = BLOCK_LIMIT) -> int:
    """Duplicates each flip-flop and LUT of Yosys's flat `module` with too many sinks; returns how many duplicates it made.

    Sinks of similar names, which mostly belong together, share a duplicate.
    """
    return sum(_split_once(module, limit, control_limit, block_limit) for _ in range(_ROUNDS))


def regroup(module: dict[str, Any], placed: dict[str, Any]) -> int:
    """Assigns sinks of the duplicates that `split` made in `module` to duplicates by position in `placed`, a placed netlist of it.

    Sinks that lie together share a duplicate; duplicates of one kind get about equal numbers. Returns how many sinks change their driver.
    """
    cells = module["cells"]
    position = _positions(placed)
    copies: dict[str, list[str]] = defaultdict(list)
    for name, cell in cells.items():
        if cell["type"] in _OUTPUTS:
            copies[_COPY.sub("", name)].append(name)
    families = {original: names for original, names in copies.items() if len(names) > 1}
    family_of = {
        cells[name]["connections"][_OUTPUTS[cells[name]["type"]]][0]: original for original in families for name in families[original]
    }
    readers: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] != "output":
                for index, bit in enumerate(bits):
                    if bit in family_of:
                        readers[bit].append((name, port, index))
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for bit, pins in readers.items():
        groups[family_of[bit], _kind(cells, pins[0])].append(bit)
    changed = 0
    for bits in groups.values():
        pins = [pin for bit in bits for pin in readers[bit] if pin[0] in position]
        for bit, group in zip(bits, _clusters(pins, position, len(bits)), strict=True):
            for reader, port, index in group:
                now = cells[reader]["connections"][port]
                changed += now[index] != bit
                now[index] = bit
    return changed


def _kind(cells: dict[str, Any], pin: tuple[str, str, int]) -> str:
    if cells[pin[0]]["type"] in _BLOCKS:
        return "block"
    return "control" if cells[pin[0]]["type"] == "TRELLIS_FF" and pin[1] in _CONTROL else "other"


def _clusters(pins: list[tuple[str, str, int]], position: dict[str, tuple[int, int]], count: int) -> list[list[tuple[str, str, int]]]:
    """`count` clusters of about equal size by recursive bisection across the wider side of the bounding box."""
    if count == 1 or not pins:
        return [pins] + [[]] * (count - 1)
    x, y = zip(*(position[pin[0]] for pin in pins), strict=True)
    axis = 0 if max(x) - min(x) >= max(y) - min(y) else 1
    ordered = sorted(pins, key=lambda pin: (position[pin[0]][axis], position[pin[0]], pin))
    half = count // 2
    cut = len(pins) * half // count
    return [*_clusters(ordered[:cut], position, half), *_clusters(ordered[cut:], position, count - half)]


def _positions(placed: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Tile of each cell by its name before packing, which splits adders and memories into several cells."""
    position = {}
    for name, cell in placed["cells"].items():
        if match := _PLACE.match(cell["attributes"].get("NEXTPNR_BEL", "")):
            position.setdefault(_PACKED_SUFFIX.sub("", name), (int(match[1]), int(match[2])))
    return position


def _split_once(module: dict[str, Any], limit: int, control_limit: int, block_limit: int) -> int:
    cells = module["cells"]
    drivers: dict[int, str] = {}
    readers: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    fixed = {bit for port in module["ports"].values() for bit in port["bits"]}
    highest = max(bit for net in module["netnames"].values() for bit in net["bits"] if isinstance(bit, int))
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                if _OUTPUTS.get(cell["type"]) == port:
                    drivers[bits[0]] = name
            else:
                for index, bit in enumerate(bits):
                    if isinstance(bit, int):
                        readers[bit].append((name, port, index))
    copies = 0
    for bit, pins in readers.items():
        if len(pins) <= block_limit or bit not in drivers or bit in fixed:
            continue
        name = drivers[bit]
        blocks = [pin for pin in pins if cells[pin[0]]["type"] in _BLOCKS]
        blocks = blocks if len({pin[0] for pin in blocks}) > block_limit else []
        control = [pin for pin in pins if cells[pin[0]]["type"] == "TRELLIS_FF" and pin[1] in _CONTROL] if len(pins) > limit else []
        grouped = {*blocks, *control}
        others = [pin for pin in pins if pin not in grouped]
        for group in [*_groups(blocks, block_limit), *_groups(control, control_limit), *_groups(others, limit)][1:]:
            highest += 1
            copies += 1
            copy = {**cells[name], "connections": {port: list(bits) for port, bits in cells[name]["connections"].items()}}
            copy["connections"][_OUTPUTS[copy["type"]]] = [highest]
            label = f"{name}$copy{highest}"
            cells[label] = copy
            module["netnames"][f"{label}$net"] = {"hide_name": 1, "bits": [highest], "attributes": {}}
            for reader, port, index in group:
                cells[reader]["connections"][port][index] = highest
    return copies


def _groups(pins: list[tuple[str, str, int]], limit: int) -> list[list[tuple[str, str, int]]]:
    """Groups of about equal size, each of at most `limit`."""
    ordered, count = sorted(pins, key=_natural_order), -(-len(pins) // limit)
    return [ordered[i * len(pins) // count : (i + 1) * len(pins) // count] for i in range(count)]


def _natural_order(pin: tuple[str, str, int]) -> list[tuple[int, str]]:
    """Numbers by their value; of the array's elements, `name_column_row`, the row first: what a row gives goes to one lane of results."""
    name = re.sub(r"_(\d\d)_(\d\d)(?=\D|$)", r"_\2_\1", pin[0])
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"(\d+)", name)]
