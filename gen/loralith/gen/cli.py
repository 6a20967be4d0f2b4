"""The generator's arguments and work, for `loralith gen` and `python -m loralith.gen` alike.

- no subcommand, or `all`: write every generated text and the Verilog of one configuration;
- `check` (or `--check`): compare the committed texts with what would be written;
- `verilog`: the Verilog of one configuration, wherever it is asked for.

A text emitter is a module of this package named in `TEXTS`. Its `generate() -> dict[str, str]` gives the content of each generated file
that is committed, by its path from the checkout's root.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from loralith.spec.config import ConfigError, load_config

TEXTS: tuple[str, ...] = ()
"""Modules of this package that emit committed texts."""


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments. `run(args)` does the work, whichever subcommand was named."""
    parser.add_argument("--check", action="store_true", help="compare the committed files with what would be written; 1 if one differs")
    parser.add_argument("--config", default="base", help="preset or JSON file for the Verilog (default: base)")
    parser.set_defaults(output=None)
    actions = parser.add_subparsers(dest="action", metavar="<what>")
    verilog = actions.add_parser("verilog", help="the Verilog of one configuration, with a JSON description beside it")
    verilog.add_argument("--config", default=argparse.SUPPRESS, help="preset or JSON file (default: base)")
    verilog.add_argument("--output", type=Path, help="the file to write (default: build/verilog/<name>.v)")
    actions.add_parser("all", help="every generated text, and the Verilog (the default)")
    actions.add_parser("check", help="the same as --check")


def run(args: argparse.Namespace) -> int:
    """Exit status: 0, 1 where `check` found a difference, 2 for a configuration that cannot be built."""
    try:
        if args.check or args.action == "check":
            return _check()
        if args.action != "verilog":
            for path, text in _texts().items():
                _write(root() / path, text)
        _verilog(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def root() -> Path:
    """The checkout's root folder: generated texts are part of the source tree."""
    return Path(__file__).resolve().parents[3]


def _texts() -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in TEXTS:
        texts.update(import_module(f"loralith.gen.{name}").generate())
    return texts


def _check() -> int:
    stale = [path for path, text in _texts().items() if _read(root() / path) != text]
    for path in stale:
        print(f"{path} differs from what loralith.spec says; `loralith gen` writes it", file=sys.stderr)
    return 1 if stale else 0


def _verilog(args: argparse.Namespace) -> None:
    from loralith.gen.verilog import emit

    config = load_config(args.config)
    output = args.output or root() / "build" / "verilog" / f"{config.name}.v"
    emit(config, output)
    print(f"wrote {output}", file=sys.stderr)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
