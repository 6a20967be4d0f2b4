"""The command that repeats a fine-tune, from its settings: what is as usual is left out."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from loralith.cli.method_options import OWN, field_of
from loralith.cli.pipeline_options import OF_PIPELINES

if TYPE_CHECKING:
    from loralith.diffusion.settings import FinetuneSettings

__all__ = ["run_command"]


def run_command(settings: FinetuneSettings, parser: argparse.ArgumentParser) -> str:
    """``parser``: of `loralith finetune`, whose options and defaults are those of the command."""
    words = ["loralith", "finetune"]
    for action in parser._actions:
        if not action.option_strings or action.dest in ("help", "json", "resume", *OF_PIPELINES):
            continue
        value = _value(settings, action.dest)
        usual = settings.options.usual.get(action.dest, action.default) if settings.options else action.default
        if value is None or _text(value) == _text(usual) or (action.dest == "targets" and value == "all"):
            continue
        words += [action.option_strings[0], *([] if action.nargs == 0 else [_text(value)])]
    return shlex.join(words)


def _value(settings: FinetuneSettings, dest: str) -> Any:
    """A setting as its option takes it; None where it is another method's, or the method's own default."""
    if dest == "samples":
        return settings.evaluation.samples
    for method, fields in OWN.items():
        if dest in fields:
            own = getattr(settings.options, field_of(dest)) if method == settings.method else None
            return None if own == getattr(type(settings.options), field_of(dest), None) else own
    if dest == "targets":
        from loralith.diffusion.settings import TARGETS

        return next((word for word, names in TARGETS.items() if sorted(names) == sorted(settings.targets)), ",".join(settings.targets))
    return getattr(settings, dest)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={_text(own)}" for name, own in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
