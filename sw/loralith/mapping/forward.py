"""What stands in a mapped module's place of `forward`."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = ["DeviceForward", "OpaqueForward", "is_mapped"]


class DeviceForward:
    """`forward` of a mapped module, from `install` to `remove`. A copy or a pickle of the module has the module's own: it runs in torch."""

    def __init__(self, module: nn.Module, run: Callable[..., Any]) -> None:
        self._module = weakref.ref(module)
        self._before = module.__dict__.get("forward")
        self.run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    @property
    def module(self) -> nn.Module:
        module = self._module()
        if module is None:
            raise ReferenceError("the module of this forward function is gone")
        return module

    @property
    def plain(self) -> Callable[..., Any]:
        """The module's own forward."""
        return self._before or partial(type(self.module).forward, self.module)

    def install(self) -> None:
        self.module.forward = self  # type: ignore[method-assign]

    def remove(self) -> None:
        """Where another function has been put around this one, that stays, around the module's own."""
        module = self.module
        if module.__dict__.get("forward") is self:
            del module.forward
            if self._before is not None:
                module.forward = self._before  # type: ignore[method-assign]
        self.run = self.plain

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._before is not None:
            return copy.deepcopy(self._before, memo)
        module = self.module
        return partial(type(module).forward, memo.get(id(module)) or copy.deepcopy(module, memo))

    def __reduce__(self) -> Any:
        if self._before is not None:
            return copy.copy, (self._before,)
        return partial, (type(self.module).forward, self.module)


class OpaqueForward(DeviceForward):
    """One that torch.compile does not look into."""

    @torch.compiler.disable
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


def is_mapped(module: nn.Module) -> bool:
    """Whether `loralith.attach` has taken over the module."""
    return isinstance(module.__dict__.get("forward"), DeviceForward)
