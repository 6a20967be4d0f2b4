"""The order of a list: loads go ahead of products that they do not depend on.

The three queues are short and filled in list order, so that a load which comes late in the list is fetched late: a row of small products
before it fills the compute queue, and the load's latency shows when its data is needed. A load placed earlier costs nothing.
"""

from __future__ import annotations

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.tokens.footprint import Footprint, Use, footprint
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import Config

__all__ = ["LOOKAHEAD", "hoist_loads"]

LOOKAHEAD = 16
"""How many other commands a load may overtake."""


def hoist_loads(commands: CommandList, config: Config, lookahead: int = LOOKAHEAD) -> CommandList:
    """The list with every load up to `lookahead` commands earlier, loads among themselves and everything else in the order that they had.

    A load does not overtake a product that uses the rows it writes, or a store of bytes that it reads, so that the list means the same.
    """
    order: list[tuple[Command, str]] = []
    touched: list[tuple[list[Use], Footprint | None]] = []
    floor = 0  # the position after the last load
    for command, note in zip(commands.commands, commands.notes, strict=True):
        uses = footprint(command, config)
        position = len(order)
        if command.opcode is Opcode.LOAD:
            lowest = max(floor, position - lookahead)
            while position > lowest and not _depends(uses, touched[position - 1], order[position - 1][0].opcode):
                position -= 1
            floor = position + 1
        order.insert(position, (command, note))
        touched.insert(position, uses)
    return CommandList(tuple(command for command, _ in order), tuple(note for _, note in order))


def _depends(load: tuple[list[Use], Footprint | None], other: tuple[list[Use], Footprint | None], opcode: Opcode) -> bool:
    targets, source = load
    if opcode is Opcode.STORE:
        return source is not None and other[1] is not None and source.overlaps(other[1])
    return any(
        use.memory == target.memory and any(a < d and c < b for a, b in target.ranges for c, d in use.ranges)
        for target in targets
        for use in other[0]
    )
