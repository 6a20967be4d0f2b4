"""Chains of elementwise operations as instructions of the vector unit: as many operations of a chain in one instruction as its stages take.

An instruction computes y = f(x a + b) c + d and rounds y to a format. A chain's value is stream X; a second tensor is stream Y, from V1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from loralith.compiler.step.emitter import Emitter, Region, kernel
from loralith.compiler.step.instructions import Program, instruction
from loralith.compiler.step.tiles import Work
from loralith.compiler.step.views import View
from loralith.spec.commands import StoreSource, VectorFormat
from loralith.spec.graph import Op
from loralith.spec.vector.program import Format, Function, Operand, Reduce, Source, Target

__all__ = ["Instruction", "LaneRegister", "Prepared", "Scalar", "Step", "TensorOperand", "instructions_of", "emit_chain"]


class Scalar(NamedTuple):
    """A word at ``address`` in device memory, the same for every element; ``key`` tells values apart."""

    key: object
    address: int


Prepared: TypeAlias = "Mapping[int, tuple[Sequence[Step], Sequence[View]]]"
"""By the number of a kernel's operand the steps that it goes through before, on chip, and what they read."""


class TensorOperand(NamedTuple):
    """Operand number ``index`` of the kernel, a tensor."""

    index: int


class LaneRegister(NamedTuple):
    """Lane register ``number``, which has a word that is the same in all columns of a product."""

    number: int


@dataclass(frozen=True)
class Step:
    """One operation on a chain's value.

    op: ADD, SUBTRACT, MULTIPLY with ``operand`` (None: the chain's value itself), a function, BRAIN, or QUANTIZE with its scale as
    ``operand``. ``reverse``: the operand minus the value. ``stochastic``: of QUANTIZE.
    """

    op: Op
    operand: Scalar | TensorOperand | LaneRegister | None = None
    reverse: bool = False
    stochastic: bool = False


FUNCTIONS = {
    Op.EXP2: Function.EXP2,
    Op.RECIPROCAL: Function.RECIPROCAL,
    Op.RSQRT: Function.RSQRT,
    Op.PHI: Function.PHI,
    Op.SCALE: Function.SCALE,
}
_A, _B, _F, _C, _D, _PACK = range(6)


@dataclass
class Instruction:
    """An instruction while it fills; ``at``: the first stage that is still free."""

    fields: dict[str, int] = field(default_factory=dict)
    tile: int | None = None
    scalars: dict[str, Scalar] = field(default_factory=dict)
    at: int = _A

    def take(self, step: Step) -> bool:
        """Whether ``step`` found a stage."""
        if step.op in FUNCTIONS:
            return self._function(FUNCTIONS[step.op])
        if step.op is Op.BRAIN:
            return self._pack(Format.BRAIN)
        if step.op is Op.QUANTIZE:
            if not isinstance(step.operand, Scalar) or self.at > _PACK:
                return False
            self.scalars["s2"] = step.operand
            return self._pack(Format.INT8_STOCHASTIC if step.stochastic else Format.INT8)
        if step.op is Op.MULTIPLY:
            return self._multiply(step)
        return self._add(step)

    def _function(self, function: Function) -> bool:
        if self.at > _F:
            return False
        self.fields["function"] = function
        self.at = _C
        return True

    def _pack(self, format: Format) -> bool:
        if self.at > _PACK:
            return False
        self.fields["format"] = format
        self.at = _PACK + 1
        return True

    def _multiply(self, step: Step) -> bool:
        if step.operand is None:  # the square of what X brings
            if self.at > _A:
                return False
            self.fields["a"] = Operand.X
            self.at = _B
            return True
        for stage, name, scalar in ((_A, "a", "s0"), (_C, "c", "s1")):
            if self.at <= stage and self._operand(name, scalar, step.operand):
                self.at = stage + 1
                return True
        return False

    def _add(self, step: Step) -> bool:
        assert step.operand is not None
        for stage, name, scalar in ((_B, "b", "s0"), (_D, "d", "s1")):
            if step.reverse and stage == _D:
                continue
            if self.at <= stage and self._operand(name, scalar, step.operand):
                if step.reverse:
                    self.fields["a_negate"] = 1
                elif step.op is Op.SUBTRACT:
                    self.fields[f"{name}_negate"] = 1
                self.at = stage + 1
                return True
        return False

    def _operand(self, name: str, scalar: str, operand: Scalar | TensorOperand | LaneRegister) -> bool:
        if isinstance(operand, LaneRegister):
            self.fields[name] = Operand.L0 + operand.number
            return True
        if isinstance(operand, TensorOperand):
            if self.tile not in (None, operand.index):
                return False
            self.tile = operand.index
            self.fields[name] = Operand.Y
            return True
        if self.scalars.get(scalar, operand).key != operand.key:
            return False
        self.scalars[scalar] = operand
        self.fields[name] = Operand.SCALAR
        return True


_VALUE = Scalar("the chain's value", -1)


def instructions_of(steps: Sequence[Step], source: Scalar | None = None) -> list[Instruction]:
    """The chain in as few instructions as a greedy choice finds; one that does nothing where there is no step.

    ``source``: X of the first one is a scalar, and that of each other one the result before it, so that s0 is taken.
    """
    found = [Instruction(scalars={"s0": source} if source else {})]
    for step in steps:
        if not found[-1].take(step):
            found.append(Instruction(scalars={"s0": _VALUE} if source else {}))
            if not found[-1].take(step):
                raise ValueError(f"no instruction takes {step}")
    return found


@kernel(Work.CHAIN)
def scalar_chain(e: Emitter, name: str, source: Scalar, steps: Sequence[Step]) -> View:
    """The chain of one word: from scalar to scalar, and to memory. A new FP32 tensor without dimensions."""
    first, last = e.scalar(source.key, source.address), e.scalar_result()
    chain = instructions_of(steps, source)
    code: list[bytes] = []
    for number, one in enumerate(chain):
        fields = {name: e.scalar(scalar.key, scalar.address) for name, scalar in one.scalars.items() if name != "s0"}
        x = first if number == 0 else last
        code.append(instruction(x_source=Source.SCALAR, once=1, target=Target.SCALAR, s3=last, **{**one.fields, **fields, "s0": x}))
    e.vector(tuple(code), [])
    result = e.buffer(name, VectorFormat.FP32, 1)
    e.store(StoreSource.SCALARS, result.address, 1, 4, 0, last)
    e.end_tile()
    return View(result, (), ())


REGIONS_OF_TILES = (1, 2)
SCALARS_OF_KERNEL = 8


def parts_of(chain: Sequence[Instruction]) -> list[list[Instruction]]:
    """The chain cut so that each part reads two tensors and eight scalars at most, what one VECTOR takes."""
    parts: list[list[Instruction]] = [[]]
    for one in chain:
        own = [*parts[-1], one]
        tiles = {i.tile for i in own if i.tile is not None}
        keys = {s.key for i in own for s in i.scalars.values()}
        if len(tiles) > len(REGIONS_OF_TILES) or len(keys) > SCALARS_OF_KERNEL:
            parts.append([])
        parts[-1].append(one)
    return parts


def emit_chain(
    e: Emitter,
    chain: Sequence[Instruction],
    source: Source,
    x: Region,
    tiles: Sequence[Region],
    work: Region,
    outer: int,
    inner: int,
    lanes: int = 0,
    key: tuple[int, int] = (0, 0),
    index: tuple[int, int, int] = (0, 0, 0),
    top: int | None = None,
    keep: bool = True,
    second: bool = False,
) -> None:
    """VECTOR commands for a tile: X from ``source`` at ``x``, operands in V1 at ``tiles``, the result to V0 at ``work``; with ``second``
    the result in V1 and operands in V0.

    ``outer`` rows of ``inner`` words, of whose last one ``lanes`` lanes are in the tensor (0: all); ``key``, ``index``: see
    `Emitter.vector`. ``top``: a scalar that takes the largest magnitude of the results. ``keep``: whether V0 takes them.
    """
    parts = parts_of(chain)
    target, rest, other = (Target.V1, Source.V1, Source.V0) if second else (Target.V0, Source.V0, Source.V1)
    for number, part in enumerate(parts):
        places: dict[int, int] = {}
        code: list[bytes] = []
        regions = [x if number == 0 else work, Region(0), Region(0), work]
        for position, one in enumerate(part):
            first = number == 0 and position == 0
            fields: dict[str, int] = {
                "x_source": source if first else rest,
                "x_region": 0 if first else 3,
                "target": target,
                "target_region": 3,
                **one.fields,
            }
            if one.tile is not None:
                if one.tile not in places:
                    places[one.tile] = REGIONS_OF_TILES[len(places)]
                    regions[places[one.tile]] = tiles[one.tile]
                fields |= {"y_source": other, "y_region": places[one.tile]}
            for name, scalar in one.scalars.items():
                fields[name] = e.scalar(scalar.key, scalar.address)
            if number == len(parts) - 1 and position == len(part) - 1:
                if top is not None:
                    fields |= {"reduce": Reduce.MAX_ALL, "over_outer": 1, "reduce_to": 1, "s3": top}
                if not keep:
                    fields["target"] = Target.NONE
            code.append(instruction(**fields))
        program: Program = tuple(code)
        e.visit(program, regions, outer, inner, lanes, key, index)
