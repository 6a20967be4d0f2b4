"""The generator's arguments and work, for `loralith gen` and `python -m loralith.gen` alike.

- no subcommand, or `all`: write every generated text and the Verilog of one configuration;
- `check` (or `--check`): compare the committed texts with what would be written;
- `verilog`: the Verilog of one configuration, to the file that is named, and nothing beside it that is not;
- `linked`: that of the accelerator behind a serial link, for simulation;
- `lanes`: that of the vector unit's lanes by themselves;
- `sdram`: that of the board's memory controller, by itself;
- `board`: that of the board's whole system, for simulation or for its FPGA;
- `baseline`: that of a floating-point array, which the INT8 one is compared with.

A text emitter is a module of this package named in `TEXTS`. Its `generate() -> dict[str, str]` gives the content of each generated file
that is committed, by its path from the checkout's root.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from loralith.files import FileError, check_output, write_text
from loralith.spec.config import ConfigError, load_config

TEXTS: tuple[str, ...] = ("c_header", "configuration", "link", "markdown", "svd", "description", "latencies", "mutants", "diagrams")
"""Modules of this package that emit committed texts."""

GENERATED: tuple[str, ...] = ("docs/generated", "sw/include")
"""Folders that hold nothing but generated texts."""


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments, `--json` apart, which the caller adds. `run(args)` does the work, whichever subcommand was named."""
    parser.add_argument("--check", action="store_true", help="compare the committed files with what would be written; 1 if one differs")
    parser.add_argument("--config", default="base", help="preset or JSON file for the Verilog (default: base)")
    parser.set_defaults(output=None, description=None)
    actions = parser.add_subparsers(dest="action", metavar="<what>")
    verilog = actions.add_parser("verilog", help="the Verilog of one configuration")
    verilog.add_argument("--config", default=argparse.SUPPRESS, help="preset or JSON file (default: base)")
    verilog.add_argument("--output", type=Path, help="the file to write (default: build/verilog/<name>.v)")
    verilog.add_argument(
        "--description",
        type=Path,
        metavar="FILE",
        help="write what it was made from, as JSON (without --output: build/verilog/<name>.json)",
    )
    baseline = actions.add_parser("baseline", help="the Verilog of a floating-point array that the INT8 one is compared with")
    baseline.add_argument("--format", choices=("fp16", "bf16", "fp32"), default="fp16", help="of operands; sums are FP32 (default: fp16)")
    baseline.add_argument("--rows", type=int, default=4, help="rows of elements (default: 4)")
    baseline.add_argument("--cols", type=int, default=4, help="columns of elements (default: 4)")
    baseline.add_argument("--output", type=Path, help="the file to write (default: build/verilog/<format>-<rows>x<cols>.v)")
    sdram = actions.add_parser("sdram", help="the Verilog of the board's memory controller, by itself")
    sdram.add_argument("--mhz", type=float, default=100, help="clock (default: 100)")
    sdram.add_argument("--cas", type=int, choices=(2, 3), default=3, help="CAS latency (default: 3)")
    sdram.add_argument("--output", type=Path, help="the file to write (default: build/verilog/sdram.v)")
    linked = actions.add_parser("linked", help="the Verilog of the accelerator behind a serial link, for simulation")
    linked.add_argument("--config", default=argparse.SUPPRESS, help="preset or JSON file (default: base)")
    linked.add_argument("--divider", type=int, default=4, help="clock cycles per bit of the serial line (default: 4)")
    linked.add_argument("--clock", type=int, default=100_000_000, help="clock in Hz, told to the host (default: 100000000)")
    linked.add_argument("--memory-base", type=lambda text: int(text, 0), default=0, help="first byte of memory (default: 0)")
    linked.add_argument("--memory-bytes", type=lambda text: int(text, 0), default=32 << 20, help="bytes of memory (default: 32 MiB)")
    linked.add_argument("--output", type=Path, help="the file to write (default: build/verilog/<name>-linked.v)")
    lanes = actions.add_parser("lanes", help="the Verilog of the vector unit's lanes by themselves, for tests of them")
    lanes.add_argument("--lanes", type=int, default=4, help="how many, an even number (default: 4)")
    lanes.add_argument("--unit", action="store_true", help="the whole vector unit with so many lanes")
    lanes.add_argument("--output", type=Path, help="the file to write (default: build/verilog/lanes-<n>.v)")
    lanes.add_argument("--header", type=Path, metavar="FILE", help="write a C++ header of cycles, codes and tables")
    board = actions.add_parser("board", help="the Verilog of the board's whole system, for simulation or for its FPGA")
    board.add_argument("--config", default=argparse.SUPPRESS, help="preset or JSON file, with a bus of 8 bytes (default: base)")
    board.add_argument("--mhz", type=float, default=80, help="clock (default: 80)")
    board.add_argument("--cas", type=int, choices=(2, 3), default=3, help="CAS latency (default: 3)")
    board.add_argument("--baud", type=float, default=3e6, help="of the serial line (default: 3000000)")
    board.add_argument("--fpga", action="store_true", help="with the ECP5's PLL and I/O cells, in place of plain ports")
    board.add_argument("--shell", action="store_true", help="with --fpga: leave the accelerator out, its outputs are 0")
    board.add_argument("--output", type=Path, help="the file to write (default: build/verilog/<name>-board.v)")
    actions.add_parser("all", help="every generated text, and the Verilog (the default)")
    actions.add_parser("check", help="the same as --check")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Exit status: 0, 1 where `check` found a difference, 2 for a configuration that cannot be built or a file that cannot be written.

    With `args.json`, stdout gets one object: `written` and `verilog`, the Verilog's description; or of a check `ok` and `stale`.
    """
    checks = args.check or args.action == "check"
    if (checks or args.action in (None, "all")) and not _in_checkout():
        print(
            "error: the generated texts are part of a checkout, and this is none; `loralith gen verilog` writes the Verilog",
            file=sys.stderr,
        )
        return 2
    if checks:
        stale = check()
        for path, why in stale.items():
            print(f"{path} {why}", file=sys.stderr)
        _report(args, {"ok": not stale, "stale": list(stale)})
        return 1 if stale else 0
    written: list[str] = []
    try:
        if args.action == "baseline":
            _report(args, {"written": [_baseline(args)]})
            return 0
        if args.action == "board":
            _report(args, {"written": [_board(args)]})
            return 0
        if args.action == "sdram":
            _report(args, {"written": [_sdram(args)]})
            return 0
        if args.action == "linked":
            _report(args, {"written": [_linked(args)]})
            return 0
        if args.action == "lanes":
            _report(args, {"written": _lanes(args)})
            return 0
        if args.action != "verilog":
            for path, text in texts().items():
                _write(root() / path, text)
                written.append(path)
        verilog = _verilog(args)
    except (ConfigError, FileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _report(args, {"written": written, "verilog": verilog})
    return 0


def root() -> Path:
    """The checkout's root folder: generated texts are part of the source tree. Of an installed package the working folder."""
    return Path(__file__).resolve().parents[3] if _in_checkout() else Path.cwd()


def _in_checkout() -> bool:
    return (Path(__file__).resolve().parents[3] / "pyproject.toml").is_file()


def texts() -> dict[str, str]:
    """The content of every generated text by its path from the checkout's root. Always the same bytes for the same `loralith.spec`."""
    found: dict[str, str] = {}
    for name in TEXTS:
        found.update(import_module(f"loralith.gen.{name}").generate())
    return found


def check() -> dict[str, str]:
    """What is wrong with the committed texts, by path; empty where all are as they would be written."""
    expected = texts()
    stale = {}
    for path, text in expected.items():
        if _read(root() / path) != text:
            stale[path] = "is not what its sources say; `loralith gen` writes it"
    for folder in GENERATED:
        for file in sorted((root() / folder).rglob("*")):
            path = file.relative_to(root()).as_posix()
            if file.is_file() and path not in expected:
                stale[path] = "is written by no emitter; remove it"
    return stale


def _verilog(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.gen.verilog import convert, describe

    config = load_config(args.config)
    output, description = args.output, args.description
    if output is None:
        output = root() / "build" / "verilog" / f"{config.name}.v"
        description = description or output.with_suffix(".json")
    inputs = [Path(args.config)] if Path(args.config).is_file() else []
    check_output(output, inputs)
    if description:
        check_output(description, [*inputs, output])
    text = convert(config)
    described = describe(config, text)
    _write(output, text)
    if description:
        _write(description, json.dumps(described, indent=2) + "\n")
    return {"path": str(output), "description": None if description is None else str(description), **described}


def _baseline(args: argparse.Namespace) -> str:
    from loralith.gen.verilog import convert_baseline

    if args.rows < 1 or args.cols < 1:
        raise ConfigError(f"rows and columns must be at least 1, not {args.rows} and {args.cols}")
    output = args.output or root() / "build" / "verilog" / f"{args.format}-{args.rows}x{args.cols}.v"
    check_output(output)
    _write(output, convert_baseline(args.format, args.rows, args.cols))
    return str(output)


def _board(args: argparse.Namespace) -> str:
    from loralith.gen.verilog import convert_board, convert_ulx3s
    from loralith.spec.link import divider

    config = load_config(args.config)
    output = args.output or root() / "build" / "verilog" / f"{config.name}-board.v"
    check_output(output, [Path(args.config)] if Path(args.config).is_file() else [])
    try:
        cycles = divider(1e6 * args.mhz, args.baud)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if args.shell and not args.fpga:
        raise ConfigError("--shell goes with --fpga: a simulated board has its accelerator")
    timing = (config, args.mhz, args.cas, cycles)
    _write(output, convert_ulx3s(*timing, accelerator=not args.shell) if args.fpga else convert_board(*timing))
    return str(output)


def _sdram(args: argparse.Namespace) -> str:
    from loralith.gen.verilog import convert_sdram

    output = args.output or root() / "build" / "verilog" / "sdram.v"
    check_output(output)
    _write(output, convert_sdram(args.mhz, args.cas))
    return str(output)


def _linked(args: argparse.Namespace) -> str:
    from loralith.gen.verilog import convert_linked

    config = load_config(args.config)
    output = args.output or root() / "build" / "verilog" / f"{config.name}-linked.v"
    check_output(output, [Path(args.config)] if Path(args.config).is_file() else [])
    _write(output, convert_linked(config, args.divider, args.memory_base, args.memory_bytes, args.clock))
    return str(output)


def _lanes(args: argparse.Namespace) -> list[str]:
    from loralith.gen.lanes import convert_lanes, convert_unit, facts

    if args.lanes < 2 or args.lanes % 2:
        raise ConfigError(f"lanes must be an even number of at least 2, not {args.lanes}")
    output = args.output or root() / "build" / "verilog" / f"lanes-{args.lanes}.v"
    check_output(output)
    if args.header:
        check_output(args.header, [output])
    _write(output, convert_unit(args.lanes) if args.unit else convert_lanes(args.lanes))
    if args.header:
        _write(args.header, facts(args.lanes))
    return [str(output), *([str(args.header)] if args.header else [])]


def _report(args: argparse.Namespace, result: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(result, indent=2))


def _read(path: Path) -> str | None:
    # Bytes: reading as text would take another line ending for the same.
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None


def _write(path: Path, text: str) -> None:
    write_text(text, path)
    print(f"wrote {path}", file=sys.stderr)
