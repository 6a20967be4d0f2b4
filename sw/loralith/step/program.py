"""A compiled step on a device: written once, then per step the batch, the step's scalars and its key, one list, and the loss."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.step import images
from loralith.compiler.step.compile import CompiledStep, compile_step
from loralith.compiler.step.views import View
from loralith.device.list_device import ListDevice
from loralith.errors import LoralithError
from loralith.spec.config import Config
from loralith.spec.graph import Graph

__all__ = ["Arrays", "StepProgram", "Traffic"]

Arrays = Mapping[str, np.ndarray]
"""Values by node: words as float32, integers of any type."""
PAGE = 4096
Tokens = Callable[[CommandList, Config, Mapping[int, bytes]], CommandList]


@dataclass
class Traffic:
    """Bytes that the host wrote and read for steps so far, and the steps."""

    written: int = 0
    read: int = 0
    steps: int = 0


class StepProgram:
    """A step graph compiled for a device, whose memory holds its tensors from then on.

    Parameters: ``device``; ``graph``; ``seed`` of stochastic rounding; ``frozen``, the frozen tensors' values; ``states``, the first values
    of what is trained and of the optimizer's moments; ``verify``: every tensor stays in memory after a step, to be compared; ``tokens``,
    makes the list one that may run in parallel (None: as the `reference` device runs it, one by one).

    Raises LoralithError before anything is written where the step does not fit or a value is missing or has another shape.

    Attributes: ``compiled``; ``traffic``; ``compile_seconds``; ``list_bytes``.
    """

    def __init__(
        self,
        device: ListDevice,
        graph: Graph,
        seed: int,
        frozen: Arrays,
        states: Arrays,
        *,
        verify: bool = False,
        tokens: Tokens | None = None,
    ) -> None:
        self.device, self.graph, self.seed = device, graph, seed
        began = time.monotonic()
        room = _free(device)
        trial = compiled(graph, device, PAGE, room, seed, verify)  # how much it takes does not depend on where it lies
        self._base = device.alloc(trial.peak, PAGE)
        self.compiled = compiled(graph, device, self._base, trial.peak, seed, verify)
        commands = self.compiled.commands if tokens is None else tokens(self.compiled.commands, device.config, self.compiled.static)
        self._list = commands.pack()
        self.compile_seconds = time.monotonic() - began
        self.list_bytes = len(self._list)
        self.traffic = Traffic()
        for name in self.compiled.kernels:
            self._checked(name, frozen)
        writes = [(view, self._checked(name, frozen)) for name, view in self.compiled.frozen.items()]
        writes += [(view, self._checked(name, states)) for name, view in self.compiled.states.items()]
        for address, data in self.compiled.static.items():
            device.write(address, data)
        for view, array in writes:
            device.write(view.buffer.address, images.image(view, array))
        for name, (buffer, layout) in self.compiled.kernels.items():
            device.write(buffer.address, images.kernel_image(buffer, layout, frozen[name]))

    def _checked(self, name: str, values: Arrays) -> np.ndarray:
        if name not in values:
            raise LoralithError(f"{name}: no value was given for it")
        shape = self.graph[name].shape
        if tuple(values[name].shape) != shape:
            raise LoralithError(f"{name} must be {list(shape)}, not {list(values[name].shape)}")
        return values[name]

    def step(self, inputs: Arrays, step: int, timeout: float = 600.0) -> float:
        """One step with the batch ``inputs``; ``step`` of stochastic rounding, from 0. The loss. Raises what the device raises."""
        writes = [(view, self._checked(name, inputs)) for name, view in self.compiled.inputs.items()]
        with self.device.lock:
            for view, array in writes:
                self._write(view.buffer.address, images.image(view, array))
            self._write(self.compiled.key, np.frombuffer(images.key_image(self.seed, step), np.uint8))
            self.device.run(self._list, timeout)
            (raw,) = self._read([self.compiled.outputs["loss"]])
        self.traffic.steps += 1
        return float(images.values([self.compiled.outputs["loss"]], [raw]))

    def _write(self, address: int, data: np.ndarray) -> None:
        self.device.write(address, data)
        self.traffic.written += data.size

    def _read(self, views: list[View]) -> list[np.ndarray]:
        found = [self.device.read(view.buffer.address, view.buffer.nbytes) for view in views]
        self.traffic.read += sum(data.size for data in found)
        return found

    def state(self, name: str) -> np.ndarray:
        """The value of a state after the steps so far, float32."""
        view = self.compiled.states[name]
        return images.values([view], [self.device.read(view.buffer.address, view.buffer.nbytes)])

    def tensor(self, name: str) -> np.ndarray | None:
        """What a node holds after a step of a program that was compiled to be verified; None for a node that is not in memory."""
        views = self.compiled.tensors.get(name)
        if views is None or name in self.compiled.kernels:
            return None
        return images.values(views, [self.device.read(view.buffer.address, view.buffer.nbytes) for view in views])

    def set_state(self, name: str, value: np.ndarray) -> None:
        """Another value of a state, such as a checkpoint's."""
        view = self.compiled.states[name]
        self.device.write(view.buffer.address, images.image(view, self._checked(name, {name: value})))

    def free(self) -> None:
        """Gives the device's memory back."""
        self.device.free(self._base)


_CACHE: dict[str, CompiledStep] = {}
_CACHED = 4


def compiled(graph: Graph, device: ListDevice, base: int, nbytes: int, seed: int, verify: bool) -> CompiledStep:
    """`compile_step`, remembered by content for the latest few graphs of this process."""
    content = f"{device.config.hash} {base} {nbytes} {seed} {verify}\n{graph}"
    key = hashlib.sha256(content.encode()).hexdigest()
    if key not in _CACHE:
        while len(_CACHE) >= _CACHED:
            del _CACHE[next(iter(_CACHE))]
        _CACHE[key] = compile_step(graph, device.config, base, nbytes, seed, verify)
    return _CACHE[key]


def _free(device: ListDevice) -> int:
    """Bytes of device memory that no one else has taken."""
    return device.memory_bytes - device.heap.used - PAGE
