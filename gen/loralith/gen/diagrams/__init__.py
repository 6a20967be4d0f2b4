"""Diagrams as SVG: block diagrams from their texts beside this file, timing diagrams from simulations of the blocks.

A new block diagram is a file `<name>.toml` here (`block_diagram` says what it holds), a new timing diagram a function of `waveforms`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

__all__ = ["generate"]


@cache
def generate() -> dict[str, str]:
    from . import block_diagram, timing_diagram, waveforms

    found = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        try:
            found[f"docs/generated/{path.stem}.svg"] = block_diagram.draw(tomllib.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
    for name, waves in waveforms.WAVEFORMS.items():
        found[f"docs/generated/{name}.svg"] = timing_diagram.draw(waves())
    return found
