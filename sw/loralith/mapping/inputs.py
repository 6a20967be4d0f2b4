"""INT8 X on the device, shared by the layers that read the same tensor."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from loralith.device.device import Device
from loralith.lora.layer import Activation
from loralith.lora.quantize import Quantized, finite32, quantize
from loralith.lora.rotation import rotate
from loralith.mapping.pass_records import fingerprint
from loralith.mapping.tensors import float32
from loralith.spec.scales import rotation_block

__all__ = ["Inputs"]

IDLE = 8
"""Entries that stay though no pass reads them: the next layer may. More would be those of prompts that a loop keeps for later."""


@dataclass(frozen=True)
class _Entry:
    tensor: weakref.ref[Tensor]
    state: tuple[int, int]
    activation: Activation


def _state(x: Tensor) -> tuple[int, int]:
    return x._version, fingerprint(x)


def _drop(entries: dict[int, _Entry], device: Device, key: int, _: object = None) -> None:
    entry = entries.pop(key, None)
    if entry is not None:
        device.defer(entry.activation.release)


def _clear(entries: dict[int, _Entry], device: Device) -> None:
    for key in list(entries):
        _drop(entries, device, key)


class Inputs:
    """INT8 X of tensors that several layers read, quantized and placed once: to_q, to_k and to_v of self-attention share one, the K and V
    of all cross attention another. Under a scheme with ``rotation`` X is rotated first. An entry lives at most as long as its tensor; those
    that no pass has saved go after `IDLE` others."""

    def __init__(self, device: Device, rotation: int = 0) -> None:
        self.device, self.rotation = device, rotation
        self._entries: dict[int, _Entry] = {}  # the latest used is the last
        weakref.finalize(self, _clear, self._entries, device).atexit = False

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, x: Tensor) -> Activation | None:
        """X [T, I] of ``x`` [..., I], to nearest. The caller is not a holder. None for a tensor of inference mode, whose changes torch
        does not count."""
        if x.is_inference():
            return None
        key, state = id(x), _state(x)
        entry = self._entries.pop(key, None)
        if entry is not None and entry.tensor() is x and entry.state == state:
            self._entries[key] = entry
            return entry.activation
        if entry is not None:
            self.device.defer(entry.activation.release)
        array = finite32(float32(x).reshape(-1, x.shape[-1]), "X")
        array = rotate(array, rotation_block(self.rotation, array.shape[1]), name="X")
        activation = Activation.place(self.device, Quantized(*quantize(array)))
        gone = partial(_drop, self._entries, self.device, key)
        self._entries[key] = _Entry(weakref.ref(x, gone), state, activation)
        self._trim(IDLE)
        return activation

    def _trim(self, most: int) -> None:
        idle = [key for key, entry in list(self._entries.items()) if entry.activation.holders == 1]
        for key in idle[: max(0, len(idle) - most)]:
            _drop(self._entries, self.device, key)

    def trim(self) -> None:
        """Lets go of what no pass has saved."""
        self.device.run_deferred()
        self._trim(0)
        self.device.run_deferred()

    def clear(self) -> None:
        _clear(self._entries, self.device)
        self.device.run_deferred()
