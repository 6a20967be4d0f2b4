"""Trained scales in tables by group of time steps: a step's images pick theirs, and AdamW updates the groups that were there (TuneQDM)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loralith.spec.graph import Graph, Kind, Node, Op

from .builder import Builder
from .operator_programs import constant
from .optimizer import AdamW, moments_of, moved_by

__all__ = ["EXPERTS", "FIXED", "PRESENT", "RATES", "SCALES", "Layout", "expert_scalars", "with_tables"]

EXPERTS = "batch.experts"
"""Input [N, experts]: 1 where an image's time step is in the group, else 0."""
PRESENT = "step.present"
"""Input [experts, 1]: 1 for a group that an image of the step is in, else 0."""
RATES, CORRECTIONS = "step.rates", "step.corrections"
"""Inputs [experts, 1]: what a group's count of updates makes of the learning rate, 0 without an update, and of the second moment."""
SCALES, FIXED = "scales", "fixed"
"""States [experts, ...]: scales that are trained, and those that are not."""
RELATIVE = "relative"
"""Frozen [experts, ...]: the learning rate of each scale."""


ALIGN = 16
"""A layer's scales begin at a multiple of so many, and so at a bus word; where their number is no multiple, each stands so many times."""


@dataclass(frozen=True)
class Layout:
    """Where the scales of a layer stand in a row of a table: (first column, past the last one, columns of each) by name."""

    places: Mapping[str, tuple[int, int, int]]

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Layout:
        places, at = {}, 0
        for name, size in sizes.items():
            times = 1 if size % ALIGN == 0 else ALIGN
            places[name] = (at, at + size * times, times)
            at += size * times
        return cls(places)

    @property
    def width(self) -> int:
        return max((past for _, past, _ in self.places.values()), default=0)


def expert_scalars(optimizer: AdamW, counts: Sequence[int], present: Sequence[bool]) -> dict[str, list[list[float]]]:
    """The inputs [experts, 1] of an update, as words: ``counts`` of each group's updates, this one included, ``present`` in this one."""
    one, two = optimizer.betas
    rates = [constant(1.0 / (1.0 - one**n)) if there else 0.0 for n, there in zip(counts, present, strict=True)]
    corrections = [constant(1.0 / math.sqrt(1.0 - two**n)) if there else 1.0 for n, there in zip(counts, present, strict=True)]
    return {PRESENT: [[float(there)] for there in present], RATES: [[x] for x in rates], CORRECTIONS: [[x] for x in corrections]}


def with_tables(graph: Graph, experts: int, trained: Layout, fixed: Layout, optimizer: AdamW) -> Graph:
    """``graph``, whose scales [N, size] are sources and have gradients, with tables in their place and AdamW on the trained one.

    A table's row is added up over the groups, each times the image's 1 or 0, which is exact; a group's gradient is the sum over its images.
    A group that no image is in keeps its scales and its moments to the bit.
    """
    b = Builder()
    b.source, b.prefix = "the tables of scales", "scales"
    images = next(node.shape[0] for name, node in graph.nodes.items() if name in trained.places)
    chosen = b.node(Op.INPUT, Kind.WORD, (images, experts), name=EXPERTS)
    rows = {}
    for name, layout in ((SCALES, trained), (FIXED, fixed)):
        if layout.places:
            table = b.node(Op.STATE, Kind.WORD, (experts, layout.width), name=name)
            row = _picked(b, table, chosen)
            rows |= {own: (row, place) for own, place in layout.places.items()}
    for node in graph.nodes.values():
        if node.name in rows:
            row, (first, past, times) = rows[node.name]
            place = {"dim": 1, "start": first, "stop": past, "step": times}
            b.graph.add(Node(node.name, Op.SLICE, Kind.WORD, node.shape, (row.name,), place, b.source))
        else:
            b.graph.add(node)
    b.graph.set_output("loss", graph.outputs["loss"])
    b.source, b.prefix = type(optimizer).__name__, "update"
    parts = [_columns(b, b.graph[graph.outputs[f"gradient.{name}"]], times) for name, (_, _, times) in trained.places.items()]
    _update(b, b.node(Op.CONCAT, Kind.WORD, (images, trained.width), *parts, dim=1), chosen, optimizer)
    return b.graph


def _picked(b: Builder, table: Node, chosen: Node) -> Node:
    """[N, width]: each image's row of the table."""
    (experts, width), images = table.shape, chosen.shape[0]
    if experts == 1:
        return b.expand(table, (images, width))
    total: Node | None = None
    for expert in range(experts):
        own = b.multiply(b.slice(table, 0, expert, expert + 1), b.slice(chosen, 1, expert, expert + 1))
        total = own if total is None else b.add(total, own)
    assert total is not None
    return total


def _columns(b: Builder, part: Node, times: int) -> Node:
    """[N, times * size]: each column of ``part`` so many times."""
    images, size = part.shape
    if times == 1:
        return part
    return b.reshape(b.expand(b.reshape(part, (images, size, 1)), (images, size, times)), (images, size * times))


def _update(b: Builder, gradients: Node, chosen: Node, optimizer: AdamW) -> None:
    """AdamW of the groups that the step has images of; ``gradients`` [N, width]."""
    (images, experts), width = chosen.shape, gradients.shape[1]
    grad: Node | None = None
    for image in range(images):
        own = b.reshape(b.slice(chosen, 0, image, image + 1), (experts, 1))
        part = b.multiply(b.expand(b.slice(gradients, 0, image, image + 1), (experts, width)), own)
        grad = part if grad is None else b.add(grad, part)
    assert grad is not None
    present, rates, corrections = (b.node(Op.INPUT, Kind.WORD, (experts, 1), name=name) for name in (PRESENT, RATES, CORRECTIONS))
    value = b.graph[SCALES]
    m, s = (b.node(Op.STATE, Kind.WORD, value.shape, name=name) for name in moments_of(SCALES))
    rate = b.multiply(b.node(Op.FROZEN, Kind.WORD, value.shape, name=RELATIVE), rates)
    one, two = (constant(1.0 - beta) for beta in optimizer.betas)
    m = b.add(b.multiply(m, b.subtract(1.0, b.multiply(present, one))), b.multiply(grad, one))
    s = b.add(b.multiply(s, b.subtract(1.0, b.multiply(present, two))), b.multiply(b.multiply(grad, grad), two))
    moved = moved_by(b, m, s, corrections, optimizer.eps)
    for name, node in zip((SCALES, *moments_of(SCALES)), (b.subtract(value, b.multiply(moved, rate)), m, s), strict=True):
        b.graph.set_output(f"state.{name}", node.name)
