"""Whole models on a device: which layers of a torch model run there, how, and what that takes.

- `select`: which modules are mapped, and why the others are not; `multiplies`: which modules multiply though nothing maps them.
- `attach_model`: `attach` and `detach`; `attachment`: the modules of one model on one device, until they are detached.
- `mapped`: what all mapped modules have in common; `kinds`: one kind of them each.
- `pass_records`: what a forward pass leaves for its backward pass, and for how long; `inputs`: X that layers share; `weight`: a frozen W
  that torch may change; `forward`: what stands in `forward`'s place; `tensors`: torch's tensors as numpy arrays, and back;
  `torch_kernels`: exact INT8 products and convolutions by torch's kernels.
- `planning`: what a step costs.
"""

from __future__ import annotations

from typing import Any

__all__ = ["attach", "detach"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from loralith.mapping import attach_model as module

        function = getattr(module, name)
        globals()[name] = function
        return function
    raise AttributeError(f"module 'loralith.mapping' has no attribute {name!r}")
