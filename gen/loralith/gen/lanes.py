"""The vector unit's lanes by themselves: their Verilog, and a C++ header of what a test of them needs to know."""

from __future__ import annotations

from loralith.spec.vector import program, tables

__all__ = ["MODULE", "UNIT", "convert_lanes", "convert_unit", "facts"]

MODULE = "lane_group"
UNIT = "vector_unit"


def convert_lanes(lanes: int) -> str:
    """The Verilog text of `rtl.vector.lane_group` with so many lanes. Raises ValueError, see there."""
    from loralith.gen.verilog import text
    from loralith.rtl.vector.lane_group import LaneGroup

    return text(LaneGroup(lanes), MODULE)


def convert_unit(lanes: int) -> str:
    """The Verilog text of `rtl.vector.unit` with so many lanes. Raises ValueError, see there."""
    from loralith.gen.verilog import text
    from loralith.rtl.vector.unit import VectorUnit

    return text(VectorUnit(lanes), UNIT)


def facts(lanes: int) -> str:
    """A C++ header: cycles, the settings' bits, the codes of functions and formats, and the function tables."""
    from loralith.rtl.vector.lane import LaneTiming
    from loralith.rtl.vector.lane_settings import LaneSettings, OperandSelect, XSelect, YSelect

    lines = ["#pragma once", "namespace facts {", f"constexpr int lanes = {lanes};"]
    for name in ("vectors", "pack", "result"):
        lines.append(f"constexpr int {name} = {getattr(LaneTiming, name)};")
    ends = ", ".join(map(str, LaneTiming.faults))
    lines.append(f"constexpr int stage_end[] = {{{ends}}};")
    for name, field in LaneSettings.as_shape():
        lines.append(f"constexpr int {name}_bit = {field.offset}, {name}_bits = {field.width};")
    for choices in (XSelect, YSelect, OperandSelect, program.Function, program.Format):
        members = ", ".join(f"{member.name} = {int(member.value)}" for member in choices)
        lines.append(f"namespace {choices.__name__.lower()} {{ enum {{ {members} }}; }}")
    lines.append("struct Segment { int value, slope; };")
    for name in ("EXP2", "RECIP", "RSQRT", "PHI"):
        table = getattr(tables, f"{name}_TABLE")
        content = ", ".join(f"{{{value}, {slope}}}" for value, slope in table)
        lines.append(f"constexpr Segment {name.lower()}_table[{len(table)}] = {{{content}}};")
    return "\n".join([*lines, "}", ""])
