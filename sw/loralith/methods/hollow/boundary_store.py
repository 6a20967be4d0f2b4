"""Boundary tensors on disk: safetensors shards, each whole or absent, each with the identity of what made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralith.errors import LoralithError
from loralith.formats.checkpoint import describe_difference, digest, write_tensors
from loralith.lora.quantize import quantize

__all__ = ["FORMAT", "BoundaryStore", "StoreError"]

FORMAT = "loralith-boundary-1"
SHARD = 8
"""Batches in a shard: what is made again at most after an interruption."""


class StoreError(LoralithError):
    """A boundary store that cannot be used: damaged, of another model or of other settings."""


class BoundaryStore:
    """The boundary tensors of ``batches`` batches in ``folder``.

    Parameters: ``identity``, JSON values that decide the tensors' bits; ``int8``, stored as INT8 with a scale for each sample.
    Raises StoreError for a folder with shards of another identity, naming what differs.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], batches: int, *, int8: bool) -> None:
        self.folder, self.identity, self.batches, self.int8 = folder, dict(identity), batches, int8
        self._pending: list[Tensor] = []
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".*.part"):
            path.unlink(missing_ok=True)
        self.done = 0
        while self.done < batches and self._path(self.done).exists():
            self._check(self.done)
            self.done += min(SHARD, batches - self.done)

    def _path(self, batch: int) -> Path:
        return self.folder / f"shard-{batch // SHARD:05d}.safetensors"

    def _check(self, batch: int) -> None:
        path = self._path(batch)
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["loralith"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            form, identity, wanted = header["format"], header["identity"], header["digest"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise StoreError(f"{path} is damaged or no boundary store ({error}); remove {self.folder}") from error
        if form != FORMAT or identity != json.loads(json.dumps(self.identity)):
            difference = describe_difference(identity, self.identity) or f"format is {form!r} there and {FORMAT!r} here"
            raise StoreError(f"{path} holds boundary tensors of other settings: {difference}; give another --output or remove it")
        if digest(tensors) != wanted:
            raise StoreError(f"{path} is damaged: its tensors do not match the hash in it; remove {self.folder}")

    @property
    def complete(self) -> bool:
        return self.done >= self.batches

    @property
    def next(self) -> int:
        """The batch that `add` takes next."""
        return self.done + len(self._pending)

    def add(self, value: Tensor) -> None:
        """The boundary tensor [N, C, H, W] of batch `next`; a shard is written when it is full or the last batch came."""
        self._pending.append(value.clone())
        if len(self._pending) == SHARD or self.next == self.batches:
            tensors = self._packed(torch.stack(self._pending))
            header = {"format": FORMAT, "identity": self.identity, "digest": digest(tensors)}
            write_tensors(tensors, self._path(self.done), {"loralith": json.dumps(header, sort_keys=True)})
            self.done += len(self._pending)
            self._pending = []

    def _packed(self, values: Tensor) -> dict[str, Tensor]:
        """values [batches, N, C, H, W]; to INT8 to nearest, as docs/numerics.md rounds a tensor, one scale for each sample."""
        if not self.int8:
            return {"boundary": values}
        samples = values.reshape(-1, *values.shape[2:])
        parts = [quantize(sample.numpy()) for sample in samples]
        q = torch.from_numpy(np.stack([part[0] for part in parts])).reshape(values.shape)
        return {"boundary": q, "scale": torch.tensor([part[1] for part in parts], dtype=torch.float32).reshape(values.shape[:2])}

    def read(self, batch: int) -> Tensor:
        """FP32 [N, C, H, W] of a batch."""
        place = batch % SHARD
        with safe_open(self._path(batch), framework="pt") as file:
            value = file.get_slice("boundary")[place : place + 1][0]
            if not self.int8:
                return value
            return value.float() * file.get_slice("scale")[place : place + 1][0][:, None, None, None]

    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(path.stat().st_size for path in self.folder.glob("shard-*.safetensors"))
