"""LoRA layers on a device. `attach` and `detach` need torch and PEFT; the rest is numpy and runs on a board."""

from __future__ import annotations

from typing import Any

__all__ = ["attach", "detach"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from loralith.lora import attachment as module

        function = getattr(module, name)
        globals()[name] = function
        return function
    raise AttributeError(f"module 'loralith.lora' has no attribute {name!r}")
