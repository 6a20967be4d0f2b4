"""A step's commands before they have an order and places on chip: tiles, in the order in which they may run one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from loralith.compiler.step.instructions import Program
from loralith.compiler.tokens.footprint import Footprint, Use
from loralith.spec.commands import Opcode

__all__ = ["Draft", "Tile", "Work"]


class Work(Enum):
    """What a command is part of: the innermost kernel, but of an optimizer's node always that."""

    COPY = "copy"
    CHAIN = "chain"
    REDUCTION = "reduction"
    PRODUCT = "product"
    CONVOLUTION = "convolution"
    OPTIMIZER = "optimizer"


@dataclass(eq=False)
class Draft:
    """A command whose places on chip count from the beginning of its tile's in each memory.

    Attributes: ``fields``, without those that a place decides alone (``first`` of a VECTOR); ``note``, ``work``, for the reader;
    ``program``, of a VECTOR, whose scalars count from the tile's first one; ``scalar``, whether it is a LOAD of one word of the scalar
    memory; ``tensor``, of a STORE, which one it writes a part of, once that was asked for; ``touched``: `uses_of`, once it was asked for.
    """

    opcode: Opcode
    fields: Mapping[str, int]
    note: str
    work: Work
    program: Program | None = None
    scalar: bool = False
    tensor: int = -1
    touched: tuple[list[Use], Footprint | None, int] | None = None


@dataclass(eq=False)
class Tile:
    """Commands that share places on chip. A tile brings all that it needs from DRAM, so that tiles that do not meet there may run in any
    order; what others have brought already is left out when they are placed.

    Attributes: ``drafts``, in an order in which they may run; ``scalars``, how many words of the scalar memory it takes; ``takes``, bytes
    of DRAM (first, how many) that belong to another tensor from here on; ``inside``, for each draft those it waits for on chip, once that
    was asked for.
    """

    drafts: list[Draft] = field(default_factory=list)
    scalars: int = 0
    takes: list[tuple[int, int]] = field(default_factory=list)
    inside: list[set[int]] | None = None
