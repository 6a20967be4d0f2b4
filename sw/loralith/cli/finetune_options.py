"""Options of `loralith finetune`: those of one training method, which of all stand on the command line, and the command of a run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loralith.cli.pipeline_options import OF_PIPELINES
from loralith.methods.options import OPTIONS, Options, SettingsError

if TYPE_CHECKING:
    from loralith.methods.settings import FinetuneSettings

__all__ = ["OWN", "field_of", "method_arguments", "options_of", "record_given", "run_command", "usual_config", "usual_text"]

OWN: Mapping[str, Mapping[str, str]] = {
    "hollowed-net": {"hollow": "--hollow", "samples_stored": "--boundary-samples", "boundary": "--boundary", "train": "--train"},
    "tuneqdm": {"bits": "--bits", "experts": "--experts", "input_scales": "--input-scales"},
    "zoodip": {
        "token": "--token",
        "perturbations": "--perturbations",
        "mu": "--mu",
        "tau": "--tau",
        "nu": "--nu",
        "correlation": "--correlation",
    },
}
"""Arguments of one method, by their destination."""


def field_of(dest: str) -> str:
    """The field of a method's options that an argument of OWN sets."""
    return {"samples_stored": "samples"}.get(dest, dest)


def usual_text(name: str) -> str:
    """A shared setting's default, with those of methods that have another."""
    own = {method: options.usual[name] for method, options in OPTIONS.items()}
    others = [f"{method} {value}" for method, value in own.items() if value != own["lora"]]
    return ", ".join([str(own["lora"]), *others])


def method_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `methods.options`: an argument's destination is the field's name, None where it was not given."""
    hollow = parser.add_argument_group("hollowed-net")
    hollow.add_argument("--hollow", metavar="PART", help="blocks left out, with commas, or a share of the parameters (default: mid_block)")
    hollow.add_argument("--boundary-samples", dest="samples_stored", type=int, metavar="K", help="draws that are stored (default: 512)")
    hollow.add_argument("--boundary", choices=("fp32", "int8"), help="how they are stored (default: fp32)")
    hollow.add_argument("--train", choices=("kept", "behind"), help="layers with adapters: all kept, or those behind (default: kept)")
    tuneqdm = parser.add_argument_group("tuneqdm")
    tuneqdm.add_argument("--bits", type=int, help="of the frozen codes, 4 or 8 (default: 4)")
    tuneqdm.add_argument("--experts", type=int, metavar="N", help="groups of time steps with scales of their own (default: 4)")
    tuneqdm.add_argument("--input-scales", choices=("trained", "fixed"), help="fixed, with one expert, is PEQA (default: trained)")
    zoodip = parser.add_argument_group("zoodip")
    zoodip.add_argument("--token", metavar="WORD", help="word of the captions whose embedding is trained (default: their digit)")
    zoodip.add_argument("--perturbations", type=int, metavar="N", help="directions of a step (default: 2)")
    zoodip.add_argument("--mu", type=float, help="perturbation (default: the smallest of 0.001, 0.01, 0.1 that correlates)")
    zoodip.add_argument("--tau", type=int, help="steps between two subspaces (default: 128)")
    zoodip.add_argument("--nu", type=float, help="share of the variance that a subspace leaves out (default: 0.001)")
    zoodip.add_argument("--correlation", type=float, help="least correlation of finite and true derivative (default: 0.95)")


def options_of(args: argparse.Namespace) -> Options:
    """The method's own settings. Raises SettingsError for a value out of range and for one of another method."""
    given = {name: getattr(args, name) for fields in OWN.values() for name in fields if getattr(args, name) is not None}
    for method, fields in OWN.items():
        for name in fields:
            if name in given and method != args.method:
                raise SettingsError(f"{fields[name]} is a setting of {method}, not of {args.method}")
    return OPTIONS[args.method](**{field_of(name): value for name, value in given.items()})


class _Record:
    """Mixin of an argparse action: ``args.given`` holds the option as it was written, by destination."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        super().__call__(parser, namespace, values, option)  # type: ignore[misc]
        namespace.given = {**getattr(namespace, "given", {}), self.dest: option}  # type: ignore[attr-defined]


class _Store(_Record, argparse._StoreAction):
    pass


class _Append(_Record, argparse._AppendAction):
    pass


class _StoreTrue(_Record, argparse._StoreTrueAction):
    pass


def record_given(parser: argparse.ArgumentParser) -> None:
    """``args.given`` of what ``parser`` parses: {destination: option} of options on the command line. Call it before they are added."""
    parser.register("action", None, _Store)
    parser.register("action", "store", _Store)
    parser.register("action", "append", _Append)
    parser.register("action", "store_true", _StoreTrue)
    parser.set_defaults(given={})


def usual_config(modules: str) -> str:
    """The configuration of a run that names none: a whole step takes one with a vector unit."""
    return "base-vector" if modules == "step" else "base"


def run_command(settings: FinetuneSettings, parser: argparse.ArgumentParser) -> str:
    """The command that repeats a fine-tune; what is as usual is left out.

    ``parser``: of `loralith finetune`, whose options and defaults are those of the command.
    """
    words = ["loralith", "finetune"]
    for action in parser._actions:
        if not action.option_strings or action.dest in ("help", "json", "resume", *OF_PIPELINES):
            continue
        value = _value(settings, action.dest)
        usual = settings.options.usual.get(action.dest, action.default) if settings.options else action.default
        if action.dest == "config":
            usual = usual_config(settings.modules)
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
        from loralith.methods.settings import TARGETS

        return next((word for word, names in TARGETS.items() if sorted(names) == sorted(settings.targets)), ",".join(settings.targets))
    return getattr(settings, dest)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={_text(own)}" for name, own in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
