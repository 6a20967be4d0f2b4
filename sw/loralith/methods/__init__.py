"""Training methods of `loralith finetune`, one module or package each.

- `training_method`: what a method is (`Method`), and what the training loop lends it (`Bench`).
- `settings`: what a run is told (`FinetuneSettings`); `options`: what each method is told beside it.
- `lora`: fully quantized LoRA. `hollow`: Hollowed Net. `tuneqdm`: scales of quantized weights. `zoodip`: one token, forward only.

A further method is a subclass of `Method`, its options, and a line in `TABLE` here, in `options.OPTIONS` and in
`training/method_memory.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loralith.diffusion.subject import Subject
    from loralith.methods.settings import FinetuneSettings
    from loralith.methods.training_method import Method

__all__ = ["TABLE", "make_method", "method_class"]

TABLE = {
    "lora": ("loralith.methods.lora", "Lora"),
    "tuneqdm": ("loralith.methods.tuneqdm.tuneqdm_method", "TuneQDM"),
    "zoodip": ("loralith.methods.zoodip.zoodip_method", "Zoodip"),
    "hollowed-net": ("loralith.methods.hollow.hollow_method", "HollowedNet"),
}
"""Where a method's class stands; imported where it is used, since each brings models along."""


def method_class(name: str) -> type[Method]:
    """The class of a method of `TABLE`."""
    module, attribute = TABLE[name]
    return getattr(import_module(module), attribute)


def make_method(settings: FinetuneSettings, subject: Subject) -> Method:
    """The settings' method, with its model at its first values. Raises LoralithError for settings that do not fit the model."""
    made: Any = method_class(settings.method)
    return made(settings, subject)
