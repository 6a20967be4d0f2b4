"""Copies of what drives very many: on a large part one register is far from most of its readers, and Yosys makes no copies."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

__all__ = ["LIMIT", "split"]

LIMIT = 128
"""Readers of one flip-flop or LUT."""

_OUTPUTS = {"TRELLIS_FF": "Q", "LUT4": "Z"}
_ROUNDS = 3
"""A copied LUT has its inputs read more often, so that these may need copies too."""


def split(module: dict[str, Any], limit: int = LIMIT) -> int:
    """Copies each flip-flop and LUT of Yosys's flat `module` that more than `limit` pins read; returns how many copies were made.

    Readers of like names, which most often belong together, share a copy.
    """
    return sum(_round(module, limit) for _ in range(_ROUNDS))


def _round(module: dict[str, Any], limit: int) -> int:
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
        if len(pins) <= limit or bit not in drivers or bit in fixed:
            continue
        name = drivers[bit]
        pins.sort(key=_natural)
        parts = -(-len(pins) // limit)
        for part in range(1, parts):
            highest += 1
            copies += 1
            copy = {**cells[name], "connections": {port: list(bits) for port, bits in cells[name]["connections"].items()}}
            copy["connections"][_OUTPUTS[copy["type"]]] = [highest]
            label = f"{name}$copy{bit}_{part}"
            cells[label] = copy
            module["netnames"][label] = {"hide_name": 1, "bits": [highest], "attributes": {}}
            for reader, port, index in pins[part * len(pins) // parts : (part + 1) * len(pins) // parts]:
                cells[reader]["connections"][port][index] = highest
    return copies


def _natural(pin: tuple[str, str, int]) -> list[tuple[int, str]]:
    """Numbers by their value."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"(\d+)", pin[0])]
