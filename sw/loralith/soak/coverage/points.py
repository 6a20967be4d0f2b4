"""The points that Verilator counts: lines of the emitted Verilog, and bits of its signals in both directions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from loralith.soak import SoakError

__all__ = ["KINDS", "Point", "blocks", "merge", "read_points"]

KINDS = {"line": "v_line", "branch": "v_branch", "toggle": "v_toggle"}
"""What the report counts, and Verilator's page of it."""
TOP = "loralith"


@dataclass(frozen=True, order=True)
class Point:
    """One thing that is counted.

    Attributes:
        kind: of `KINDS`. block: the path of the module in the design, the top module left out (``compute.array``).
        name: the signal's bit with its direction, or file and line with what is counted there. All instances of a module are one.
    """

    kind: str
    block: str
    name: str

    @property
    def text(self) -> str:
        """What a waiver's pattern is compared with."""
        return f"{self.kind} {self.block} {self.name}"


def read_points(text: str) -> Counter[Point]:
    """The counts of a file that Verilator wrote. Raises SoakError for any other text."""
    counts: Counter[Point] = Counter()
    head, _, body = text.partition("\n")
    if not head.startswith("# SystemC::Coverage"):
        raise SoakError(f"these are no counts of Verilator's coverage: they begin with {head[:40]!r}")
    for line in body.splitlines():
        found = re.fullmatch(r"C '(.*)' (\d+)", line)
        if found is None:
            raise SoakError(f"these are no counts of Verilator's coverage: {line[:80]!r}")
        fields = dict(field.split("\x02", 1) for field in found[1].split("\x01") if field)
        page, _, module = fields.get("page", "").partition("/")
        kind = next((kind for kind, name in KINDS.items() if name == page), None)
        if kind is None:
            continue
        # Verilog's own way of writing a name with dots in it: a backslash before and a space after.
        module = module.strip("\\ ").replace("\\", "")
        block = module.removeprefix(TOP).lstrip(".") or "top"
        name = fields.get("o", "") if kind == "toggle" else f"{fields.get('l', '')} {fields.get('o', '')}".strip()
        counts[Point(kind, block, name)] += int(found[2])
    return counts


def merge(total: Counter[Point], more: Mapping[Point, int]) -> None:
    """Adds counts; a point that nothing has reached stays in the total."""
    for point, count in more.items():
        total[point] = total[point] + count


def blocks(counts: Mapping[Point, int]) -> list[str]:
    """All blocks, in order."""
    return sorted({point.block for point in counts})
