"""Boards: what `constraints/<board>/board.toml` says of a part, its package and its pins."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from .error import SynthError
from .flow import FLOWS

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
        tool: what places and routes, one of `FLOWS`.
        device, part, package, speed: the tool's name of the part, the vendor's, its package and speed grade.
        constraint_mhz: the clock that placement and routing aim at.
        config: preset that fits the part.
        pins: file with the pins of the harness, or the timing exceptions of Vivado's block design.
        available: how many of each of `RESOURCES` the part has.
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


def boards(folder: Path | None = None) -> list[str]:
    """Names of the boards in `folder` (default: the checkout's `constraints/`)."""
    return sorted(path.parent.name for path in (folder or _constraints()).glob("*/board.toml"))


def load_board(name: str, folder: Path | None = None) -> Board:
    """Raises SynthError for a board that is not there or whose file is not what it should be."""
    folder = folder or _constraints()
    if name not in boards(folder):
        known = ", ".join(boards(folder)) or f"none; {folder} holds no board.toml, and boards come with the checkout"
        raise SynthError(f"no board {name!r}; known are {known}")
    path = folder / name / "board.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SynthError(f"{path}: {error}") from None
    available = content.pop("available", {})
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
    pins = path.parent / content.pop("pins")
    if not pins.is_file():
        raise SynthError(f"{path}: pins names {pins.name}, which is not beside it")
    return Board(name=name, pins=pins, available=available, **content)


def _constraints() -> Path:
    return Path(__file__).resolve().parents[3] / "constraints"
