"""Boards: reads `constraints/<board>/board.toml`, which describes a part, its package and its pins."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralith.placement import Grid
from loralith.places import data

from .flow import FLOWS
from .synth_error import SynthError

__all__ = ["RESOURCES", "Board", "boards", "load_board"]

RESOURCES = ("lut", "ff", "dsp", "bram")
"""LUTs (carry and LUT RAM included), flip-flops, multipliers and block RAMs; `Flow.units` says of which kind."""

_TEXTS = ("title", "tool", "device", "part", "package", "pins", "config")
_NUMBERS = ("speed", "constraint_mhz")


@dataclass(frozen=True)
class Board:
    """A board and its FPGA.

    Attributes:
        name: folder below `constraints/`. title: for people.
        tool: places and routes, one of `FLOWS`.
        device, part, package, speed: the tool's name of the part, the vendor's, its package and speed grade.
        constraint_mhz: target clock of placement and routing.
        config: name of a preset that fits the part.
        pins: file with the pins of the harness, or the timing exceptions of Vivado's block design.
        soc_pins: file with the pins of the board's system on chip, where it has one.
        available: how many of each of `RESOURCES` the part has.
        grid: its tiles of LUTs, if `FLOWS` places and routes with `tool`.
    """

    name: str
    title: str
    tool: str
    device: str
    part: str
    package: str
    speed: int
    constraint_mhz: float
    config: str
    pins: Path
    available: dict[str, int]
    grid: Grid | None = None
    soc_pins: Path | None = None


def boards(folder: Path | None = None) -> list[str]:
    """Names of the boards in `folder` (default: `constraints/`)."""
    return sorted(path.parent.name for path in (folder or _constraints()).glob("*/board.toml"))


def load_board(name: str, folder: Path | None = None) -> Board:
    """Raises SynthError for an unknown board, and for a wrong or missing key in its file."""
    folder = folder or _constraints()
    if name not in boards(folder):
        known = ", ".join(boards(folder)) or f"none; {folder} holds no board.toml"
        raise SynthError(f"no board {name!r}; known are {known}")
    path = folder / name / "board.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SynthError(f"{path}: {error}") from None
    available, grid, soc_pins = content.pop("available", {}), content.pop("grid", None), content.pop("soc_pins", None)
    if not isinstance(soc_pins, str | None):
        raise SynthError(f"{path}: soc_pins must be a string, not {soc_pins!r}")
    for needed, values in (((*_TEXTS, *_NUMBERS), content), (RESOURCES, available)):
        if set(needed) != set(values):
            wrong = ", ".join(sorted(set(needed) ^ set(values)))
            raise SynthError(f"{path}: missing or unknown: {wrong}; a board has {', '.join(needed)}")
    for key in _TEXTS:
        if not isinstance(content[key], str):
            raise SynthError(f"{path}: {key} must be a string, not {content[key]!r}")
    for key, value in [*((key, content[key]) for key in _NUMBERS), *available.items()]:
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise SynthError(f"{path}: {key} must be a number above 0, not {value!r}")
    if content["tool"] not in FLOWS:
        raise SynthError(f"{path}: tool must be one of {', '.join(FLOWS)}, not {content['tool']!r}")
    if FLOWS[content["tool"]].places != (grid is not None):
        needs = "a [grid] of columns, rows and without" if grid is None else f"no [grid]: {content['tool']} places by itself"
        raise SynthError(f"{path}: a board of {content['tool']} has {needs}")
    pins = path.parent / content.pop("pins")
    if not pins.is_file():
        raise SynthError(f"{path}: pins names {pins.name}, which is not beside it")
    system = None if soc_pins is None else path.parent / soc_pins
    if system is not None and not system.is_file():
        raise SynthError(f"{path}: soc_pins names {system.name}, which is not beside it")
    placed = None if grid is None else _grid(path, grid)
    return Board(name=name, pins=pins, soc_pins=system, available=available, grid=placed, **content)


def _grid(path: Path, content: Any) -> Grid:
    if not isinstance(content, dict) or set(content) != {"columns", "rows", "without"}:
        raise SynthError(f"{path}: [grid] has columns, rows and without, not {content!r}")
    for key, values in content.items():
        are_rows = isinstance(values, list) and all(
            isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values
        )
        if not are_rows or (key != "without" and (len(values) != 2 or values[0] > values[1])):
            wanted = "a list of rows" if key == "without" else "the first and the last"
            raise SynthError(f"{path}: {key} of [grid] must be {wanted}, not {values!r}")
    (left, right), (top, bottom) = content["columns"], content["rows"]
    return Grid(range(left, right + 1), [row for row in range(top, bottom + 1) if row not in content["without"]])


def _constraints() -> Path:
    return data("constraints")
