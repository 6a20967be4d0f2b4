"""Generic mutants for a campaign: those of a block that change its netlist, as many as are asked for."""

from __future__ import annotations

import warnings

from .change import MutationError
from .emission import Emission
from .generic import draw
from .mutant_list import CATALOGUE, Mutant, read_catalogue
from .tested_blocks import rtl_imports

__all__ = ["drawn"]

UNIT_TESTS = CATALOGUE.parents[1] / "unit" / "rtl"
HELPERS = CATALOGUE.parents[1] / "helpers"


def drawn(block: str, count: int, seed: int) -> list[Mutant]:
    """Up to `count` mutants in the order of `seed`: the first ones stay when more are asked for. A small block has fewer.

    One that is no hardware, or the same hardware as the original or an earlier one, is passed over. Raises MutationError for an unknown
    block, and for one that the accelerator of configuration tiny has not.
    """
    emission = Emission()
    mutants: list[Mutant] = []
    seen: set[str] = set()
    unit: tuple[str, ...] = ()
    for change in draw(block, seed):
        if not emission.has(block):
            raise MutationError(f"block must be one that the accelerator is made of, not {block!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a mutant's widths
            try:
                netlist = emission.difference(change.edit)
            except Exception:  # whatever Amaranth or the block itself says against it
                continue
        if netlist and netlist not in seen:
            seen.add(netlist)
            mutants.append(Mutant(f"generic: {change.label}", change, unit or _unit_tests(change.edit.module)))
            unit = mutants[0].unit
        if len(mutants) == count:
            break
    return mutants


def _unit_tests(module: str) -> tuple[str, ...]:
    """The block's own tests: those that import its module, and those that the catalogue's mutants of it name."""
    names = {name for mutant in read_catalogue() if mutant.change and mutant.module == module for name in mutant.unit}
    for path in UNIT_TESTS.glob("test_*.py"):
        if any(found == f"loralith.rtl.{module}" for found, _ in rtl_imports(path, HELPERS)):
            names.add(path.name)
    return tuple(sorted(names))
