"""Arguments of `loralith finetune` that belong to one training method."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from loralith.methods.options import OPTIONS, Options, SettingsError

__all__ = ["OWN", "field_of", "method_arguments", "options_of", "usual_text"]

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
