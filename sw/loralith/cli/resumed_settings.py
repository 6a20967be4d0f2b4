"""The settings of `loralith finetune --resume`: those of the checkpoint, and what the command line may change of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loralith.cli.finetune_options import OWN, field_of, options_of

if TYPE_CHECKING:
    from loralith.methods.settings import FinetuneSettings

__all__ = ["resumed"]

MAY_CHANGE = ("steps", "verify", "curve_every", "steps_per_submission", "memory_budget")
"""More steps go on from the last one; the others change no result."""
NO_SETTINGS = ("output", "resume", "json")


def resumed(args: argparse.Namespace, read: Mapping[str, Callable[[str], Any]]) -> FinetuneSettings | None:
    """The settings of the run in ``args.output``, with those of MAY_CHANGE that are on the command line; None where its folder holds none.

    read : how an option's text becomes the setting's value, by destination, where argparse does not say.

    Raises CheckpointError for an option that contradicts the run, by its name.
    """
    from loralith.formats.checkpoint import CheckpointError
    from loralith.training.resume import stored_settings

    found = stored_settings(args.output)
    if found is None:
        return None
    stored, identity = found
    if "method" not in args.given:
        args.method = stored.method
    options = options_of(args)  # refuses an option of another method, or out of its range
    own = {dest for fields in OWN.values() for dest in fields}
    changes: dict[str, Any] = {}
    for dest, option in args.given.items():
        if dest in NO_SETTINGS:
            continue
        if dest in own:
            there, here = (getattr(whose, field_of(dest)) for whose in (stored.options, options))
        else:
            value = getattr(args, dest)
            there, here = _pair(dest, read[dest](value) if dest in read else value, stored, identity)
        if dest in MAY_CHANGE or (dest in ("data", "model") and there == here):
            changes[dest] = getattr(args, dest)  # the same content at another place
        elif there != here:
            raise CheckpointError(f"{option} {_text(here)} contradicts the run in {args.output}, which has {_text(there)}; leave it out")
    return replace(stored, **changes)


def _pair(dest: str, value: Any, stored: FinetuneSettings, identity: Mapping[str, Any]) -> tuple[Any, Any]:
    """(what the run has, what the command line says), as they compare."""
    from loralith.diffusion.subject import folder_digest
    from loralith.diffusion.unet import model_digest

    if dest == "samples":
        return stored.evaluation.samples, value
    if dest == "data":
        return identity.get("data"), folder_digest(value)
    if dest == "model":
        return identity.get("model"), model_digest(value)
    if dest == "targets":
        return sorted(stored.targets), sorted(value)
    if dest == "start_from":
        return stored.start_from, value.absolute()
    return getattr(stored, dest), value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, dict):
        return ",".join(f"{name}={own}" for name, own in value.items()) or "none"
    return "none" if value is None else str(value)
