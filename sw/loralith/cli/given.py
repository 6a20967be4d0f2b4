"""Which options stand on the command line, apart from those that have their default."""

import argparse
from typing import Any

__all__ = ["record_given"]


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
