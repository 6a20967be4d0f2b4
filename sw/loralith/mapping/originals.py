"""Weights that torch keeps of mapped modules, in a file in place of memory."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from loralith.mapping.select import AttachError

__all__ = ["Originals", "in_memory_order"]

PAGE = mmap.ALLOCATIONGRANULARITY


def in_memory_order(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """``tensor`` with its dimensions in the order in which they lie in memory, and where each of them was."""
    order = sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), axis))
    return tensor.permute(order), order


class Originals:
    """Parameters whose values lie in a file of ``folder``, read from there when somebody looks at them.

    Each parameter stays the same object with the same values, so state_dict, pickle, copies, merging and saving find what they always
    found. A write to one makes a copy of its pages in memory. The file has no name where the system allows that, and is gone with the last
    tensor that reads from it. `back` returns the values to memory.

    Raises AttachError, before a parameter is touched: for one that is not in plain memory of the CPU, named by ``names``, for a folder that
    is missing or cannot be written, and for too little room there.
    """

    def __init__(self, parameters: Sequence[Tensor], names: Sequence[str], folder: Path) -> None:
        own = {id(one): (name, one) for name, one in zip(names, parameters, strict=True)}
        for name, one in own.values():
            if one.device.type != "cpu" or one.is_shared():
                where = "shared memory" if one.device.type == "cpu" else str(one.device)
                raise AttachError(f"{name}: its weight is in {where}; only weights in the CPU's own memory can lie in a file")
        self._moved = [one for _, one in own.values() if one.numel()]
        places, size = [], 0
        for one in self._moved:
            places.append(size)
            size += -(-one.nbytes // PAGE) * PAGE
        self._map = _written(self._moved, places, size, folder)
        with suppress(AttributeError, OSError):
            self._map.madvise(mmap.MADV_RANDOM)  # else a look at a few values reads all that is beside them
        base = torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()
        self._range = range(base, base + size)
        for one, place in zip(self._moved, places, strict=True):
            laid, order = in_memory_order(one.data)
            values = torch.frombuffer(self._map, dtype=one.dtype, count=one.numel(), offset=place).view(laid.shape)
            one.data = values.permute([order.index(axis) for axis in range(one.ndim)])

    def back(self) -> None:
        """Returns to memory what still lies in the file."""
        with suppress(AttributeError, OSError):
            self._map.madvise(mmap.MADV_SEQUENTIAL)
        for one in self._moved:
            if one.data_ptr() in self._range:
                one.data = one.data.clone()
        self._moved = []


def _written(parameters: Sequence[Tensor], places: Sequence[int], size: int, folder: Path) -> mmap.mmap:
    """A private map of a file with the values at ``places``."""
    try:
        free = shutil.disk_usage(folder).free
        if free < size:
            raise AttachError(f"originals: {folder} has {free} bytes free, and the frozen weights take {size}; give another folder")
        with tempfile.TemporaryFile(dir=folder, prefix="loralith-") as file:
            for one, place in zip(parameters, places, strict=True):
                file.seek(place)
                file.write(in_memory_order(one.detach())[0].contiguous().reshape(-1).view(torch.uint8).numpy().data)
            file.truncate(max(size, PAGE))
            file.flush()
            return mmap.mmap(file.fileno(), max(size, PAGE), access=mmap.ACCESS_COPY)
    except OSError as error:
        why = error.strerror or error
        raise AttachError(f"originals: {folder} cannot hold the frozen weights: {why}; give a folder on a disk") from error
