"""Small step graphs that are compiled, run on the reference device and compared with their interpretation."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loralith.compiler.step import images
from loralith.compiler.step.compile import compile_step
from loralith.device.reference import ReferenceDevice
from loralith.spec.config import PRESETS, Config
from loralith.spec.graph import Kind, Op
from loralith.step.builder import Builder
from loralith.step.host import to_words
from loralith.verif.graph import interpret

CONFIGS = {name: replace(PRESETS[name], vector_lanes=lanes) for name, lanes in (("tiny", 4), ("ecp5", 4), ("base", 16))}
BASE, SIZE = 0x1000_0000, 1 << 26
Given = dict[str, Tensor]


def words(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed + sum(shape))
    return to_words(scale * torch.randn(shape, generator=random))


def integers(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(-127, 128, shape, generator=random).double()


class Case:
    """A graph that grows by its builder, with the values of its inputs."""

    def __init__(self) -> None:
        self.b, self.given = Builder(), {}

    def input(self, name: str, value: Tensor) -> Any:
        self.given[name] = value.float()
        return self.b.node(Op.INPUT, Kind.WORD, value.shape, name=name)

    def frozen(self, name: str, value: Tensor, kind: Kind = Kind.INT8) -> Any:
        self.given[name] = value
        return self.b.node(Op.FROZEN, kind, value.shape, name=name)

    def run(self, config: Config, *results: Any, seed: int = 3, step: int = 5) -> int:
        """Runs what was built with ``results`` as outputs; how many tensors were compared."""
        graph = self.b.graph
        for i, node in enumerate(results):
            graph.set_output("loss" if i == 0 else f"result{i}", node.name)
        given = {name: value.numpy() for name, value in self.given.items()}
        with ReferenceDevice(config, memory_bytes=SIZE) as device:
            compiled = compile_step(graph, config, device.alloc(SIZE // 2), SIZE // 2, seed, verify=True)
            write(device, compiled, given, seed, step)
            device.run(compiled.commands)
            return compare(device, compiled, self.given, seed, step)


def write(device: ReferenceDevice, compiled: Any, given: dict[str, np.ndarray], seed: int, step: int) -> None:
    for address, data in compiled.static.items():
        device.write(address, data)
    for group in (compiled.inputs, compiled.frozen, compiled.states):
        for name, view in group.items():
            device.write(view.buffer.address, images.image(view, given[name]))
    for name, (buffer, layout) in compiled.kernels.items():
        device.write(buffer.address, images.kernel_image(buffer, layout, given[name]))
    device.write(compiled.key, images.key_image(seed, step))


def compare(device: ReferenceDevice, compiled: Any, given: Given, seed: int, step: int) -> int:
    count = 0
    for node, value in interpret(compiled.graph, given, seed, step):
        views = compiled.tensors.get(node.name)
        if views is None or node.op is Op.STATE:
            continue
        got = images.values(views, [device.read(view.buffer.address, view.buffer.nbytes) for view in views])
        np.testing.assert_array_equal(got.astype(np.float64), value.double().numpy(), err_msg=str(node))
        count += 1
    return count
