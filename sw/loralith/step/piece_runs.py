"""A piece of a step on a device with random operands, compared with the interpretation of the piece's graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loralith.compiler.step import images
from loralith.compiler.step.compiled_step import CompiledStep
from loralith.compiler.step.pieces import compile_structure
from loralith.compiler.step.views import Buffer, View
from loralith.compiler.tokens.sync import synchronize
from loralith.device import open_device
from loralith.errors import LoralithError
from loralith.spec.commands import VectorFormat
from loralith.spec.config import Config
from loralith.spec.graph import Kind, Node, Op
from loralith.spec.numerics import Q8_MAX
from loralith.step.host import to_words
from loralith.verif.graph import interpret

__all__ = ["PieceRun", "run_piece"]

SCALAR = 2.0**-6
"""What a piece is given as a scale."""
LARGEST = 16.0
"""What it is given as the largest magnitude of a tensor of such words."""
SPARE = 1 << 22
"""Device memory beside a piece's tensors: its list."""
COMMAND = 128


@dataclass(frozen=True)
class PieceRun:
    """cycles: of the device's counter, 0 where it has none. elements: that were compared and equal."""

    cycles: int
    elements: int


class _Operands:
    """Random operands of a piece: bytes by address, values by node."""

    def __init__(self, step: CompiledStep, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.bytes: dict[int, np.ndarray] = {}
        self.values: dict[str, Tensor] = {}
        for name, (buffer, layout) in step.kernels.items():
            w = self.random.integers(-Q8_MAX, Q8_MAX + 1, step.graph[name].shape)
            self.bytes[buffer.address] = images.kernel_image(buffer, layout, w)
            self.values[name] = torch.tensor(w).double()
        for node in step.graph.nodes.values():
            if node.op in (Op.INPUT, Op.FROZEN, Op.STATE) and node.name not in step.kernels:
                self._one(node, step.tensors[node.name])

    def _one(self, node: Node, views: tuple[View, ...]) -> None:
        raw = []
        for view in views:
            address = view.buffer.address
            if address not in self.bytes:
                largest = node.attributes.get("largest", 0)
                self.bytes[address] = (
                    np.full(view.buffer.elements, LARGEST, np.float32).view(np.uint8) if largest else self._buffer(view.buffer, node)
                )
            raw.append(self.bytes[address])
        value = torch.tensor(images.values(views, raw)).reshape(node.shape)
        self.values[node.name] = value.double() if node.kind is Kind.INT8 else value.float()

    def _buffer(self, buffer: Buffer, node: Node) -> np.ndarray:
        """A whole buffer at random: words of about 1, or one scale."""
        if buffer.format is VectorFormat.INT8:
            return self.random.integers(-Q8_MAX, Q8_MAX + 1, buffer.elements).astype(np.int8).view(np.uint8)
        numbers = self.random.standard_normal(buffer.elements).astype(np.float32)
        words = to_words(torch.tensor(np.abs(numbers) if node.op is Op.STATE else numbers)).numpy()
        if buffer.elements == 1:
            words = np.full(1, SCALAR, np.float32)
        if buffer.format is VectorFormat.BF16:
            return (words.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return words.view(np.uint8)


def run_piece(text: str, config: Config, device_name: str, seed: int = 1, verify: bool = True) -> PieceRun:
    """Runs the structure ``text`` once and compares every tensor. Without ``verify`` the list leaves out what nobody reads, as in a step,
    and results alone are compared. Raises LoralithError, naming the node, for the first tensor that differs."""
    trial = compile_structure(text, config, seed=seed, verify=verify)
    size = trial.peak + COMMAND * len(trial.commands.commands) + SPARE
    with open_device(device_name, config, memory_bytes=size + SPARE) as device:
        step = compile_structure(text, config, device.alloc(trial.peak, 4096), seed, verify=verify)
        operands = _Operands(step, seed)
        wanted = interpret(step.graph, operands.values, seed, 0)
        for address, data in (*step.static.items(), *operands.bytes.items(), (step.key, images.key_image(seed, 0))):
            device.write(address, data)
        commands = synchronize(step.commands, config, step.static)
        cycles = device.run(commands, timeout=math.inf).counters.cycles if commands.commands else 0
        elements = 0
        places = _compared(step, verify)
        for node, value in wanted:
            views = places.get(node.name)
            if views is None:
                continue
            got = images.values(views, [device.read(view.buffer.address, view.buffer.nbytes) for view in views])
            if not np.array_equal(got.astype(np.float64).reshape(node.shape), value.double().numpy()):
                raise LoralithError(f"the device differs from the graph's interpretation at {node}")
            elements += value.numel()
        return PieceRun(cycles, elements)


def _compared(step: CompiledStep, verify: bool) -> dict[str, tuple[View, ...]]:
    """Where the values of nodes lie that are compared: of all that are kept, or of the results alone."""
    if verify:
        return {name: views for name, views in step.tensors.items() if step.graph[name].op is not Op.STATE}
    found = {}
    for what, name in step.graph.outputs.items():
        if what.startswith("state."):
            found[name] = step.tensors[what.removeprefix("state.")]  # the new value is where the old one was
            continue
        more = (step.outputs[f"{what}.{i}"] for i in range(1, len(step.outputs)) if f"{what}.{i}" in step.outputs)
        found[name] = (step.outputs[what], *more)
    return found
