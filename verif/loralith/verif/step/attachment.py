"""A PEFT model's whole training step in the device's numbers, as a study or a training loop uses it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from peft.tuners.lora import Linear
from torch import Tensor, nn

from loralith.spec.scheme import SchemeError
from loralith.spec.step import StepScheme

from .mode import StepMode
from .optimizer import StepAdamW
from .products import Operands

__all__ = ["StepAttachment"]


class StepAttachment:
    """Nothing of the model is changed: `computing` puts the numbers in place while a pass runs.

    Parameters: ``model``, with float32 LoRA linears as PEFT makes them; ``scheme``. Raises SchemeError where it has none.
    """

    def __init__(self, model: nn.Module, scheme: StepScheme) -> None:
        layers = [module for module in model.modules() if isinstance(module, Linear)]
        if not layers:
            raise SchemeError("the model has no LoRA layers")
        adapters: list[tuple[Tensor, Tensor | None]] = []
        for module in layers:
            name = next(iter(module.active_adapters))
            adapters.append((module.lora_A[name].weight, None))  # type: ignore[arg-type]
            adapters.append((module.lora_B[name].weight, module.get_base_layer().weight))  # type: ignore[arg-type]
        trained = {id(tensor) for tensor, _ in adapters}
        frozen = [p.detach() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) for p in [m.weight] if id(p) not in trained]
        self.scheme = scheme
        self.mode = StepMode(Operands(scheme, frozen, adapters))

    def step_begin(self, step: int) -> None:
        """Start of step ``step``, or of a forward pass alone."""
        self.mode.begin(step)

    def computing(self) -> AbstractContextManager[object]:
        """While it is entered, torch computes in the device's numbers."""
        return self.mode

    def optimizer(self, parameters: Sequence[Tensor], lr: float) -> StepAdamW:
        return StepAdamW(parameters, self.scheme, lr)

    def detach(self) -> None:
        """The model is as it was; nothing to undo."""
