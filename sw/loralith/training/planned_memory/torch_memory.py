"""What torch keeps for a backward pass, counted on the meta device: all that autograd saves, or checkpoints and the largest block alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["checkpointed_elements", "saved_elements"]


def saved_elements(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Elements that the backward pass of ``loss()`` keeps, each storage once, parameters and buffers left out."""
    return sum(_saved(model, loss, ()).values())


def checkpointed_elements(model: nn.Module, loss: Callable[[], Tensor], units: tuple[type[nn.Module], ...]) -> int:
    """The same where each module of a class in ``units`` keeps its inputs alone and runs again in the backward pass: inputs of all of them,
    what is kept outside of them, and what the largest one keeps while it runs again."""
    found = _saved(model, loss, units)
    inside = [size for unit, size in found.items() if isinstance(unit, nn.Module)]
    return sum(size for unit, size in found.items() if not isinstance(unit, nn.Module)) + max(inside, default=0)


OUTSIDE, INPUTS = "outside", "inputs"


def _saved(model: nn.Module, loss: Callable[[], Tensor], units: tuple[type[nn.Module], ...]) -> dict[nn.Module | str, int]:
    """Elements kept by each unit, by none (OUTSIDE), and as inputs of units (INPUTS)."""
    fixed = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    running: list[nn.Module] = []
    kept: dict[nn.Module | str, dict[int, Tensor]] = {OUTSIDE: {}, INPUTS: {}}

    def keep(where: nn.Module | str, tensor: Tensor) -> None:
        key = tensor.untyped_storage()._cdata
        if key not in fixed and tensor.is_floating_point():
            kept.setdefault(where, {}).setdefault(key, tensor)

    def pack(tensor: Tensor) -> Tensor:
        keep(running[0] if running else OUTSIDE, tensor)
        return tensor

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not running:
            for value in (*args, *kwargs.values()):
                if isinstance(value, Tensor):
                    keep(INPUTS, value)
        running.append(module)

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        running.pop()

    handles = []
    for module in model.modules():
        if isinstance(module, units):
            handles += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss()
    finally:
        for handle in handles:
            handle.remove()
    # What a unit keeps of its inputs, or a second unit of a first one's, counts where it was first.
    seen: set[int] = set()
    sizes: dict[nn.Module | str, int] = {}
    for where in (INPUTS, OUTSIDE, *(unit for unit in kept if isinstance(unit, nn.Module))):
        mine = {key: tensor for key, tensor in kept[where].items() if key not in seen}
        if not isinstance(where, nn.Module):
            seen |= mine.keys()
        sizes[where] = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in mine.values())
    return sizes
