"""A compiled step on a device: written once, then per submission batches, scalars and keys of its steps, one list, and the losses."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.step import images
from loralith.compiler.step.compile import CompiledStep, compile_step
from loralith.compiler.step.memory import MemoryTooSmall
from loralith.compiler.step.views import Buffer
from loralith.device.list_device import ListDevice
from loralith.errors import LoralithError
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config
from loralith.spec.graph import Graph

from .submission import Slot, slot_bytes, slots_at, submission
from .tables import ADDRESS_BYTES, Table, loads_of, table_of

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
    makes the list one that may run in parallel (None: as the `reference` device runs it, one by one); ``most``, how many steps one
    submission may have; ``memory_budget``, bytes of device memory for tensors, or all that is free; ``tables``, of inputs that are written
    once: values [entries, ...], of which a step is given the number of one.

    Raises LoralithError before anything is written where the step does not fit or a value is missing or has another shape.

    Attributes: ``compiled``; ``traffic``; ``compile_seconds``; ``packed``, the list of ``most`` steps, and ``list_bytes``, its length;
    ``memory_bytes``, of device memory for tensors, batches and losses, ``table_bytes`` of them for tables.
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
        most: int = 1,
        memory_budget: int | None = None,
        tables: Arrays | None = None,
    ) -> None:
        if most < 1:
            raise LoralithError(f"a submission has at least one step, not {most}")
        self.device, self.graph, self.seed, self.most = device, graph, seed, most
        self._last = 0  # the slot of the latest step
        self._pointed: dict[str, int] = {}  # the entries of its tables
        began = time.monotonic()
        trial = compiled(graph, device, PAGE, _free(device), seed, verify)  # how much it takes does not depend on where it lies
        tables = tables or {}
        self.table_bytes = sum(pitch * entries for pitch, entries in (table_of(trial, name, tables[name]) for name in tables))
        self.memory_bytes = trial.peak + self.table_bytes + (most * slot_bytes(trial, tables) if most > 1 else 0)
        if memory_budget is not None and self.memory_bytes > memory_budget:
            raise MemoryTooSmall(
                f"the step takes {self.memory_bytes} bytes of device memory and the budget has {memory_budget}; the smallest that it can "
                f"be met with is {self.memory_bytes}, or a smaller batch"
            )
        self._places: list[int] = []
        try:
            self._prepare(trial.peak, verify, tokens, frozen, states, tables)
        except BaseException:
            self.free()
            raise
        self.compile_seconds = time.monotonic() - began
        self.traffic = Traffic()
        self._write_ahead(frozen, states, tables)

    def _alloc(self, nbytes: int) -> int:
        self._places.append(self.device.alloc(nbytes, PAGE))
        return self._places[-1]

    def _prepare(self, peak: int, verify: bool, tokens: Tokens | None, frozen: Arrays, states: Arrays, tables: Arrays) -> None:
        """The list, places for all, and values that are there and have their shapes; nothing is written."""
        device, most = self.device, self.most
        self.compiled = compiled(self.graph, device, self._alloc(peak), peak, self.seed, verify)
        compiled_step = self.compiled
        if most == 1:
            inputs = {name: view.buffer.address for name, view in compiled_step.inputs.items() if name not in tables}
            self.slots = [Slot(inputs, compiled_step.key, compiled_step.outputs["loss"].buffer.address)]
            commands = compiled_step.commands
        else:
            self.slots = slots_at(compiled_step, self._alloc(most * slot_bytes(compiled_step, tables)), most, tables)
            commands = submission(compiled_step, self.slots)
        self.packed = (commands if tokens is None else tokens(commands, device.config, compiled_step.static)).pack()
        self.list_bytes = len(self.packed)
        self._list = self._alloc(self.list_bytes)
        self.tables: dict[str, Table] = {}
        for name, values in tables.items():
            pitch, entries = table_of(compiled_step, name, values)
            self.tables[name] = Table(self._alloc(pitch * entries), pitch, entries)
        each = len(commands) // most
        self._picks = [loads_of(compiled_step, commands.commands[i * each : (i + 1) * each], list(tables)) for i in range(most)]
        for name in (*compiled_step.kernels, *compiled_step.frozen):
            self._checked(name, frozen)
        for name in compiled_step.states:
            self._checked(name, states)

    def _write_ahead(self, frozen: Arrays, states: Arrays, tables: Arrays) -> None:
        device = self.device
        device.write(self._list, self.packed)
        for address, data in self.compiled.static.items():
            device.write(address, data)
        for values, views in ((frozen, self.compiled.frozen), (states, self.compiled.states)):
            for name, view in views.items():
                device.write(view.buffer.address, images.image(view, values[name]))
        for name, (buffer, layout) in self.compiled.kernels.items():
            device.write(buffer.address, images.kernel_image(buffer, layout, frozen[name]))
        for name, table in self.tables.items():
            for entry, value in enumerate(tables[name]):
                device.write(table.address(name, entry), images.image(self.compiled.inputs[name], value))

    def _checked(self, name: str, values: Arrays) -> np.ndarray:
        if name not in values:
            raise LoralithError(f"{name}: no value was given for it")
        shape = self.graph[name].shape
        if tuple(values[name].shape) != shape:
            raise LoralithError(f"{name} must be {list(shape)}, not {list(values[name].shape)}")
        return values[name]

    def step(self, inputs: Arrays, step: int, timeout: float | None = None) -> float:
        """One step with the batch ``inputs``; ``step`` of stochastic rounding, from 0. The loss. Raises what the device raises."""
        return self.steps([inputs], step, timeout)[0]

    def steps(self, batches: Sequence[Arrays], step: int, timeout: float | None = None) -> list[float]:
        """A step with each of ``batches``, of which the first is number ``step``, from one submission; their losses.

        ``timeout``: seconds for the whole submission, or as the device has it. Raises LoralithError for more steps than were compiled, and
        for a batch that does not fit, before anything is written; and what the device raises.
        """
        count = len(batches)
        if not 1 <= count <= self.most:
            raise LoralithError(f"a submission of this program has 1 to {self.most} steps, not {count}")
        arrays = [{name: self._checked(name, batch) for name in self.compiled.inputs if name not in self.tables} for batch in batches]
        picked = [{name: self._picked(name, batch) for name in self.tables} for batch in batches]
        view = self.compiled.outputs["loss"]
        with self.device.lock:
            for number, (slot, batch) in enumerate(zip(self.slots, arrays, strict=False)):
                for name, array in batch.items():
                    self._write(slot.inputs[name], images.image(self.compiled.inputs[name], array))
                for name, address in picked[number].items():
                    self._point(number, name, address)
                self._write(slot.key, np.frombuffer(images.key_image(self.seed, step + number), np.uint8))
            length = self.list_bytes // COMMAND_BYTES // self.most * count
            self.device.run_placed(self._list, length, self.device.patience if timeout is None else timeout)
            raw = [self._read(slot.loss, view.buffer.nbytes) for slot in self.slots[:count]]
        self.traffic.steps += count
        self._last = count - 1
        return [float(images.values([view], [data])) for data in raw]

    def _picked(self, name: str, values: Arrays) -> int:
        """The address of the entry of a table that a step is given the number of."""
        if name not in values:
            raise LoralithError(f"{name}: no entry of its table was given")
        return self.tables[name].address(name, int(values[name]))

    def _point(self, slot: int, name: str, address: int) -> None:
        """The LOADs from a table's input, of the step in ``slot``, read from ``address``."""
        start = self._list + slot * (self.list_bytes // self.most)
        for place, offset in self._picks[slot][name]:
            self._write(start + place, np.frombuffer((address + offset).to_bytes(ADDRESS_BYTES, "little"), np.uint8))
        self._pointed[name] = address

    def _write(self, address: int, data: np.ndarray) -> None:
        self.device.write(address, data)
        self.traffic.written += data.size

    def _read(self, address: int, nbytes: int) -> np.ndarray:
        self.traffic.read += nbytes
        return self.device.read(address, nbytes)

    def state(self, name: str) -> np.ndarray:
        """The value of a state after the steps so far, float32."""
        view = self.compiled.states[name]
        return images.values([view], [self.device.read(view.buffer.address, view.buffer.nbytes)])

    def tensor(self, name: str) -> np.ndarray | None:
        """What a node holds after a step of a program that was compiled to be verified; None for a node that is not in memory, and for a
        view of a state, which has the next step's value."""
        views = self.compiled.tensors.get(name)
        states = {view.buffer for view in self.compiled.states.values()}
        if views is None or name in self.compiled.kernels or any(view.buffer in states for view in views):
            return None
        places = [self._place(view.buffer) for view in views]
        return images.values(views, [self.device.read(at, view.buffer.nbytes) for at, view in zip(places, views, strict=True)])

    def _place(self, buffer: Buffer) -> int:
        """Where a buffer lies: of an input, in the latest step's slot, or in its table."""
        name = next((name for name, view in self.compiled.inputs.items() if view.buffer is buffer), None)
        if name is None:
            return buffer.address
        return self._pointed[name] if name in self.tables else self.slots[self._last].inputs[name]

    def set_state(self, name: str, value: np.ndarray) -> None:
        """Another value of a state, such as a checkpoint's."""
        view = self.compiled.states[name]
        self.device.write(view.buffer.address, images.image(view, self._checked(name, {name: value})))

    def free(self) -> None:
        """Gives the device's memory back."""
        while self._places:
            self.device.free(self._places.pop())


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
