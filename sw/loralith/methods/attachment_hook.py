"""The hook by which an accelerator takes over the LoRA layers of a model while it trains."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from loralith.methods.settings import FinetuneSettings


class Attachment(Protocol):
    """What `attach` returns: the layers run on a device until `detach`.

    An attachment may also have `state_dict()` and `load_state_dict(state)`: a mapping of names to tensors or JSON values that a resumed
    run needs for the same bits (such as the history of delayed scales).
    """

    def step_begin(self, step: int) -> None:
        """Called before the forward pass of each step, counted from 0; stochastic rounding draws from this number."""
        ...

    def counters(self) -> Mapping[str, Any]:
        """Counts since this attachment was made (integers, such as `cycles` and `macs`), and figures (booleans such as `bit_exact`,
        floats such as `utilization`, texts)."""
        ...

    def detach(self) -> None:
        """Gives the layers back to torch. Also called when the run fails."""
        ...


Attach = Callable[[nn.Module, FinetuneSettings], Attachment]


def split_state(attachment: Attachment | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The attachment's state as tensors and as JSON values; empty where it has none."""
    read = getattr(attachment, "state_dict", None)
    state: Mapping[str, Any] = read() if read else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def merge_counters(earlier: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Counters of a run in several sessions: integers add up, booleans must all hold, those in a dictionary likewise, anything else is the
    latest."""
    merged = dict(earlier)
    for name, value in current.items():
        if isinstance(value, bool):
            merged[name] = value and bool(earlier.get(name, True))
        elif isinstance(value, int):
            merged[name] = value + int(earlier.get(name, 0))
        elif isinstance(value, Mapping):
            merged[name] = merge_counters(earlier.get(name, {}), value)
        else:
            merged[name] = value
    return merged
