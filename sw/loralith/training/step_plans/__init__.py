"""What each method's step is on a device: its graph, what the host writes for it, and what comes back.

- `plan`: what all have. `adapters`: LoRA and Hollowed Net. `scales`: TuneQDM. `tokens`: ZOODiP.
"""

from __future__ import annotations

from loralith.errors import LoralithError
from loralith.methods.hollow.hollow_method import HollowedNet
from loralith.methods.lora import Lora
from loralith.methods.training_method import Method
from loralith.methods.tuneqdm.tuneqdm_method import TuneQDM
from loralith.methods.zoodip.zoodip_method import Zoodip
from loralith.step.optimizer import Optimizer
from loralith.training.step_plans.adapters import AdapterPlan, HollowPlan
from loralith.training.step_plans.plan import StepPlan
from loralith.training.step_plans.scales import ScalesPlan
from loralith.training.step_plans.tokens import TokenPlan

__all__ = ["StepPlan", "plan_of"]


def plan_of(method: Method, seed: int, step: int, lr: float, optimizer: Optimizer | None) -> StepPlan:
    """The plan of a method whose next step is number ``step``. ``seed`` of stochastic rounding; ``optimizer``, in place of its own.

    Raises LoralithError for a method without a plan, an optimizer that it does not take, and a step that cannot be compiled.
    """
    if isinstance(method, HollowedNet):
        return HollowPlan(method, seed, step, lr, optimizer)
    if isinstance(method, Lora):
        return AdapterPlan(method, seed, step, lr, optimizer)
    if optimizer is not None:
        raise LoralithError(f"{method.label} has an optimizer of its own, and does not take {type(optimizer).__name__}")
    if isinstance(method, Zoodip):
        return TokenPlan(method, seed, step, lr)
    if isinstance(method, TuneQDM):
        return ScalesPlan(method, seed, step, lr)
    raise LoralithError(f"--map step has no step of {method.label}")
