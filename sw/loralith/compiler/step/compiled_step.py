"""What compiling a step gives: a list, what the host writes, and the places of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.step.tiles import Work
from loralith.compiler.step.views import Buffer, View
from loralith.spec.config import Config
from loralith.spec.graph import Graph

__all__ = ["CompiledStep"]


@dataclass(frozen=True, eq=False)
class CompiledStep:
    """A step as commands and the places of its tensors.

    Attributes:
        commands: without tokens, in an order in which they may run one by one.
        static: bytes by address that the host writes once.
        inputs, frozen, states: views of what the host writes, by node.
        kernels: of convolutions' frozen weights, [O, h, w, C up to the bus], by node.
        outputs: what the graph names its results, as views.
        tensors: of every node that lies in memory at the end of the step; complete only where the step was compiled to be verified.
        key: address of the step's hash key.
        peak: bytes of device memory.
        works: what each command is part of.
    """

    graph: Graph
    config: Config
    commands: CommandList
    static: Mapping[int, bytes]
    inputs: Mapping[str, View]
    frozen: Mapping[str, View]
    states: Mapping[str, View]
    kernels: Mapping[str, tuple[Buffer, tuple[int, ...]]]
    outputs: Mapping[str, View]
    tensors: Mapping[str, tuple[View, ...]]
    key: int
    base: int
    peak: int
    works: tuple[Work, ...] = ()
