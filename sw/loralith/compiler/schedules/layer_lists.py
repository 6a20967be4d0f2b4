"""The lists of a LoRA layer, compiled once for a shape and process; each run sets addresses, scales, shifts and keys.

- *measuring*: H or dH alone, of which the largest accumulator is recorded.
- *forward*: H and Y. *backward*: dH, dX where it is asked for, dB and dA^T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

from loralith.compiler.lists.relocatable import Relocatable
from loralith.compiler.schedules.emit import Emitter, Exponent
from loralith.compiler.schedules.gradient import Gradient, compile_gradient
from loralith.compiler.schedules.passes import MEASURED_SLOT, Pass, compile_pass
from loralith.compiler.storage.layout import MatrixLayout, int_layout, row_major, skinny_shape
from loralith.compiler.tokens.order import LOOKAHEAD
from loralith.spec.config import Config
from loralith.spec.numerics import MANTISSA_MIN, Requantization

__all__ = ["ListShape", "Operand", "PassShape", "compile_layer", "compile_measuring", "placed"]


class Operand(IntEnum):
    """The operands of a layer's lists. LEFT is X or dY; SKINNY_RIGHT A^T or B; SKINNY H or dH; ADAPTER B^T or A; OUTPUT Y or dX; X and H
    are those of the forward pass, which the gradients read."""

    LEFT = 0
    WEIGHT = 1
    SKINNY_RIGHT = 2
    STATISTICS = 3
    ZEROS = 4
    SKINNY = 5
    ADAPTER = 6
    OUTPUT = 7
    X = 8
    H = 9
    DB = 10
    DA = 11


@dataclass(frozen=True)
class PassShape:
    """A pass over T tokens. ``forward``: W [O, I] is read transposed. ``weight_bits``: 8, or 4 with two elements per byte."""

    T: int
    I: int
    O: int
    rank: int
    weight_bits: int
    forward: bool

    def left(self, config: Config) -> MatrixLayout:
        return row_major(self.T, self.I if self.forward else self.O, config)

    def output(self, config: Config) -> MatrixLayout:
        return row_major(self.T, self.O if self.forward else self.I, config, 4)


@dataclass(frozen=True)
class ListShape:
    """What decides the commands of a forward or backward list, beside the values that `Relocatable.at` sets.

    ``output``: whether Y or dX is computed. ``base_first``, ``shifted``: its chain; a chain that starts with the adapter counts as shifted,
    by 0 too. ``stochastic``: how H or dH rounds. ``bounded``: the
    device sets their scale; then the list measures first.
    """

    of: PassShape
    output: bool
    base_first: bool
    shifted: bool
    stochastic: bool
    bounded: bool


def placed(addresses: Mapping[Operand, int]) -> list[int]:
    """Addresses in the order of `Operand`, as `Relocatable.at` takes them; 0 for operands that a list does not have."""
    return [addresses.get(operand, 0) for operand in Operand]


_SCALE = Requantization(MANTISSA_MIN, 1)
"""Values that each run replaces are compiled as other than zero."""
_KEY = (1, 1)


def _measuring(shape: PassShape, config: Config, scale: Requantization | None) -> Pass:
    at = Relocatable.base
    weight = int_layout(shape.O, shape.I, shape.weight_bits, config).at(at(Operand.WEIGHT))
    left = shape.left(config).at(at(Operand.LEFT))
    right = skinny_shape(shape.rank, config).right(left.cols, config).at(at(Operand.SKINNY_RIGHT))
    statistics, zeros = at(Operand.STATISTICS), at(Operand.ZEROS)
    return Pass(left, weight, shape.forward, right, None, None, None, True, 0, scale, None, statistics, zeros)


@lru_cache(maxsize=128)
def compile_measuring(shape: PassShape, config: Config) -> Relocatable:
    """The list that measures H or dH. Raises DoesNotFit, and ValueError for a reduction over 131071."""
    emitter = Emitter(config)
    compile_pass(emitter, _measuring(shape, config, None), shape.rank)
    return Relocatable.of(emitter.finish(LOOKAHEAD))


@lru_cache(maxsize=256)
def compile_layer(shape: ListShape, config: Config) -> Relocatable:
    """The list of a forward or backward pass. Raises as `compile_measuring`.

    Values that a run sets: scale_m and scale_n; key0 and key1 where stochastic; shift where shifted; t_low and t_high where bounded.
    """
    of, at = shape.of, Relocatable.base
    skinny, output = skinny_shape(of.rank, config), of.output(config)
    emitter = Emitter(config)
    measuring = _measuring(of, config, _SCALE)
    exponent = None
    if shape.bounded:
        compile_pass(emitter, measuring, of.rank)
        exponent = Exponent(MEASURED_SLOT, 1, 1, up=not shape.base_first)
    work = replace(
        measuring,
        adapter=row_major(of.rank, output.cols, config).at(at(Operand.ADAPTER)) if shape.output else None,
        output=output.at(at(Operand.OUTPUT)) if shape.output else None,
        skinny=skinny.packed(of.T, config).at(at(Operand.SKINNY)),
        base_first=shape.base_first,
        shift=int(shape.shifted),
        stochastic=_KEY if shape.stochastic else None,
        exponent=exponent,
    )
    compile_pass(emitter, work, of.rank)
    if not of.forward:
        h, dh = (skinny.right(of.T, config).at(at(operand)) for operand in (Operand.H, Operand.SKINNY))
        x = row_major(of.T, of.I, config).at(at(Operand.X))
        db, da = (row_major(rows, of.rank, config, 4).at(at(to)) for rows, to in ((of.O, Operand.DB), (of.I, Operand.DA)))
        compile_gradient(emitter, Gradient(work.left, h, db), of.rank, "dB")
        compile_gradient(emitter, Gradient(x, dh, da), of.rank, "dA")
    return Relocatable.of(emitter.finish(LOOKAHEAD))
