"""A frozen weight that torch may change while its module is mapped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from loralith.lora.loss import NOTHING, row_loss
from loralith.lora.quantize import QuantizedWeight, quantize_weight
from loralith.lora.rotation import rotate
from loralith.mapping.base_files import file_weight
from loralith.mapping.pass_records import fingerprint
from loralith.mapping.select import AttachError
from loralith.mapping.tensors import float32
from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, SchemeError

__all__ = ["FrozenWeight"]


class FrozenWeight:
    """W [O, I] of the module named ``name``, on the device as it is in torch.

    Parameters: ``read`` gives the tensor, whose first dimension is O; ``state``, what else says that it may have changed.

    `loss`: what its quantization lost, once it is `quantized`.

    `generation` counts the changes. Seen are those that torch counts, another tensor or storage in its place, and writes past torch's
    count (`.data`, numpy) that change most of it.
    """

    def __init__(self, name: str, read: Callable[[], Tensor], scheme: FQT, state: Callable[[], Any] = lambda: None) -> None:
        self.name, self.read, self.scheme, self.state = name, read, scheme, state
        self.generation, self.loss, self._in_file = 0, NOTHING, False
        self._seen = self._now()

    def moved(self) -> None:
        """The tensor's values lie in a file now (`mapping.originals`). A pass looks at fewer of its pages from now on."""
        self._in_file = True
        self._seen = self._now()

    def quantized(self) -> QuantizedWeight:
        """Notes what it loses, as `loss`. Raises AttachError for values that cannot be quantized."""
        original = self.read()
        weight, kernel = float32(original).reshape(len(original), -1), math.prod(original.shape[2:])
        try:
            quantized = file_weight(original, self.scheme) or quantize_weight(weight, self.scheme, kernel)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        block = rotation_block(self.scheme.rotation, original.shape[1])
        rotated = rotate(weight.reshape(len(weight), -1, kernel), block, 1).reshape(weight.shape)
        self.loss = row_loss(rotated, quantized.scale)
        return quantized

    def _now(self) -> tuple[Any, ...]:
        w = self.read()
        version = 0 if w.is_inference() else w._version
        return id(w), w.data_ptr(), version, fingerprint(w, runs=self._in_file), self.state()

    def current(self, replace: Callable[[QuantizedWeight], None]) -> int:
        """The generation of W now; ``replace`` puts it on the device where it has changed. Raises AttachError where it is trained, or has
        another shape."""
        w = self.read()
        if w.requires_grad and torch.is_grad_enabled():
            raise AttachError(f"{self.name}: its weight is trained since the model was attached; freeze it, or detach and attach again")
        now = self._now()
        if now != self._seen:
            try:
                replace(self.quantized())
            except SchemeError as error:
                raise AttachError(f"{self.name}: {error}; detach and attach again") from None
            self._seen, self.generation = now, self.generation + 1
        return self.generation

    def check(self, generation: int) -> None:
        """Raises AttachError in a backward pass through a forward pass with another W."""
        if generation != self.generation or self._now() != self._seen:
            raise AttachError(f"{self.name}: its frozen weight was changed between the forward pass and its backward pass")
