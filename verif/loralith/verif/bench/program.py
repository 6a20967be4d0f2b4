"""A program: memory before, a command list in it, and the memory that it must leave."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from loralith.spec.commands import COMMAND_BYTES

__all__ = ["Program"]


@dataclass(frozen=True)
class Program:
    """One list with its memory, as exchanged between devices, golden files and simulations.

    Attributes:
        base: address of the first byte of both images; all of the image is the DRAM window.
        list_base, list_length: the command list, which lies inside the image.
        before, after: uint8 [bytes], memory before the list and once it has ended without a fault.
        counters: machine counters by name that must come out, those that are left out are not compared.
        trace: a recorded ready/valid pattern of the memory, one byte per cycle from the doorbell on; empty for none.
    """

    base: int
    list_base: int
    list_length: int
    before: np.ndarray
    after: np.ndarray
    counters: dict[str, int] = field(default_factory=dict)
    trace: bytes = b""

    def __post_init__(self) -> None:
        start = self.list_base - self.base
        if self.before.shape != self.after.shape or self.before.dtype != np.uint8 or self.after.dtype != np.uint8:
            raise ValueError("before and after must be uint8 images of one size")
        if start < 0 or start + self.list_length * COMMAND_BYTES > self.before.size:
            raise ValueError(f"the list at {self.list_base:#x} lies outside the image at {self.base:#x}")

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        header = {"base": self.base, "list_base": self.list_base, "list_length": self.list_length, "counters": self.counters}
        tensors = {"before": self.before, "after": self.after, "trace": np.frombuffer(self.trace, np.uint8)}
        save_file(tensors, str(path), metadata={"program": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> Program:
        """Read what `save` wrote. Raises ValueError for any other file."""
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            if "program" not in metadata:
                raise ValueError(f"{path} holds no program")
            header = json.loads(metadata["program"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(before=tensors["before"], after=tensors["after"], trace=tensors["trace"].tobytes(), **header)

    def difference(self, memory: np.ndarray) -> str:
        """Where `memory` first differs from `after`, for a person; empty where it does not."""
        wrong = np.flatnonzero(memory != self.after)
        if not wrong.size:
            return ""
        i = int(wrong[0])
        return f"{wrong.size} bytes differ, the first at {self.base + i:#x}: {memory[i]:#04x} and not {self.after[i]:#04x}"
