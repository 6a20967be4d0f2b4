"""The command line: `loralith <command>`.

A command is a module of this package with two functions:

- `register(subparsers)`: adds the command's parser, with `set_defaults(run=run)`;
- `run(args) -> int`: does the work and returns the exit status.

At its top a command's module imports only the standard library, `loralith.spec` and its neighbours here; what is heavy (torch,
amaranth) or belongs to another part is imported inside `register` or `run`, so that one command never pays for another's imports.

Exit status: what `run` returns (0 for success); 130 after Ctrl-C, also where the work ends in good order and can be resumed; 2 for wrong
usage, an error of `EXPECTED`, and what the outside world answers: files, memory, packages that are not installed (`outside.reason`). Each
of these is one line on stderr.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import loralith
from loralith.cli import output, outside
from loralith.errors import INTERRUPTED, LoralithError
from loralith.spec.config import ConfigError
from loralith.spec.fields import FieldError
from loralith.spec.scheme import SchemeError
from loralith.spec.version import VERSION

EXPECTED = (LoralithError, ConfigError, FieldError, SchemeError)
"""Errors with a message for the person at the command line. Those of `loralith.spec` are no LoralithError: spec imports nothing of sw."""

# In the order in which `loralith --help` lists them; a module's name is its command's, with _ for -.
COMMANDS = (
    "doctor",
    "gen",
    "disasm",
    "explain",
    "plan",
    "bench",
    "soak",
    "mutate",
    "pretrain",
    "emoji",
    "finetune",
    "adapter",
    "sim",
    "sim-board",
    "bring-up",
    "flash",
    "study",
    "capture",
    "synth",
    "report",
)


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser with the named commands registered; imports exactly their modules."""
    parser = argparse.ArgumentParser(prog="loralith", description="INT8 LoRA training accelerator: generate, simulate, train, report.")
    interface = ".".join(map(str, VERSION))
    about = f"loralith {loralith.__version__}, interface {interface} (what VERSION of the hardware reads: commands, registers and numbers)"
    parser.add_argument("--version", action="version", version=about)
    subparsers = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    for name in commands:
        import_module(f"loralith.cli.{name.replace('-', '_')}").register(subparsers)
    for subparser in subparsers.choices.values():
        output.add_json_option(subparser)
        subparser.set_defaults(parser=subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status and raises SystemExit only for `--help`, `--version` and wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS
    try:
        args = build_parser(named).parse_args(arguments)
        import_module("loralith.cli.argument_checks").check(args)  # here, since a parser alone has no need of it
        output.show_progress()
        status = args.run(args)
        sys.stdout.flush()  # a full disk is told here, and not by the interpreter at its end
        return status
    except EXPECTED as error:
        output.error(str(error))
        return getattr(error, "exit_status", 2)
    except KeyboardInterrupt:
        output.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()  # its reader has gone (`| head`)
        return 141
    except Exception as error:
        message = outside.reason(error)
        if message is None:
            raise
        output.error(message)
        _drop_stdout()
        return 2


def _drop_stdout() -> None:
    """Where stdout takes no more: what it still holds would make the interpreter complain once more when it flushes at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
