"""`loralith soak --lists`: random raw command lists, legal and illegal, on the RTL and the reference device, compared with an oracle."""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.reports import result_files as results
from loralith.spec.config import Config, load_config

if TYPE_CHECKING:
    from loralith.soak.list_runner import Difference
    from loralith.verif.lists.case import Case

ILLEGAL = 4
"""Every so many cases one is illegal."""
SHRINK = 600
"""Most runs that make a failing case smaller."""
EVERY = 20.0
"""Seconds between two lines of progress."""


class SoakError(LoralithError):
    """A soak that cannot be run, or a file that is none of its own."""


def register(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("raw command lists")
    group.add_argument("--lists", action="store_true", help="run random command lists in place of products")
    group.add_argument("--commands", type=int, default=20_000, metavar="N", help="how many commands, at least (default: 20000)")
    group.add_argument("--seconds", type=float, metavar="S", help="stop after this time, whatever the number of commands")
    group.add_argument(
        "--configs",
        metavar="LIST",
        help="presets, JSON files, narrow and random:SEED, separated by commas, in turn (default: that of --config)",
    )
    group.add_argument("--state", type=Path, metavar="FILE", help="keep how far it came in this file, and go on from there")
    group.add_argument("--failure", type=Path, metavar="FILE", help="write the first case that differs there, made small, as JSON")
    group.add_argument("--replay", type=Path, metavar="FILE", help="run the case that --failure wrote")


def run(args: argparse.Namespace) -> int:
    """Returns 1 where a device does not do what the oracle says."""
    if args.replay:
        return _replay(args)
    for name in ("commands", "seconds"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise SoakError(f"--{name} must be over 0, not {value:g}")
    for file in (args.state, args.failure):
        if file is not None and (file.is_dir() or not _folder(file.parent)):
            raise SoakError(f"{file} cannot be written: {'it is' if file.is_dir() else f'{file.parent} is not'} a folder")
    from loralith.soak.list_runner import Machines

    names = (args.configs or args.config).split(",")
    configs = [_config(name) for name in names]
    tally = _tally(args, names)
    output.log(f"seed {tally['seed']}")
    machines = []
    try:
        for config in configs:
            output.log(f"configuration {config.name}: {config.rows} x {config.cols}, {config.bus_bytes} bytes of bus")
            machines.append(Machines(config, native=args.device == "verilator"))
        difference = _soak(args, tally, configs, machines)
    finally:
        for each in machines:
            each.close()
    if args.output:
        _record(args, names, configs, tally)
    if args.json:
        output.emit_json(tally)
    elif difference is None:
        print(
            f"{tally['commands']} commands in {tally['lists']} legal and {tally['illegal']} illegal lists, all as the oracle says "
            f"(seed {tally['seed']}, {tally['cycles']} cycles, {tally['seconds']:.0f} s)"
        )
    else:
        print(f"case {tally['cases'] - 1} of seed {tally['seed']} differs: {difference}")
    return 0 if difference is None else 1


def _folder(path: Path) -> bool:
    """Whether it is a folder, made where nothing is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _config(name: str) -> Config:
    from loralith.verif.lists.drawn_configs import NARROW, random_config

    if name == NARROW.name:
        return NARROW
    kind, _, seed = name.partition(":")
    if kind != "random":
        return load_config(name)
    if not seed.isdecimal():
        raise SoakError(f"a random configuration is random:SEED with a number, not {name!r}")
    return random_config(int(seed))


def _tally(args: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """The figures so far: those of the state file, or zeros."""
    settings = {"configs": names, "device": args.device}
    if args.state and args.state.is_file():
        try:
            tally = json.loads(args.state.read_text(encoding="utf-8"))
            same = all(tally[key] == value for key, value in settings.items()) and args.seed in (None, tally["seed"])
        except (ValueError, KeyError, TypeError):
            raise SoakError(f"{args.state} is not the state of a soak of lists") from None
        if not same:
            raise SoakError(f"{args.state} is the state of a soak of {tally['configs']} on {tally['device']} with seed {tally['seed']}")
        return tally
    seed = secrets.randbits(32) if args.seed is None else args.seed
    figures = dict.fromkeys(("cases", "lists", "illegal", "commands", "cycles"), 0)
    return {"seed": seed, **settings, **figures, "seconds": 0.0, "cpu_seconds": 0.0, "difference": None}


def cases(seed: int, first: int, configs: list[Config]) -> Iterator[tuple[int, Case]]:
    """Which configuration and case comes from the ``first`` on; the same for the same seed, always."""
    from loralith.verif.lists.generate import generate
    from loralith.verif.lists.illegal import illegal

    number = first
    while True:
        at = number % len(configs)
        draw = illegal if number // len(configs) % ILLEGAL == ILLEGAL - 1 else generate
        yield at, draw(configs[at], (seed << 24) + number)
        number += 1


def _soak(args: argparse.Namespace, tally: dict[str, Any], configs: list[Config], machines: list) -> Difference | None:
    started, cpu, before = time.monotonic(), time.process_time(), dict(tally)
    shown, difference = started, None
    for at, case in cases(tally["seed"], tally["cases"], configs):
        now = time.monotonic()
        if tally["commands"] >= args.commands or (args.seconds is not None and now - started >= args.seconds):
            break
        cycles = machines[at].cycles
        difference = machines[at].compare(case)
        tally["cases"] += 1
        legal = machines[at].legal
        tally["lists"] += len(case.lists) if legal else 0
        tally["illegal"] += not legal
        tally["commands"] += case.commands
        tally["cycles"] += machines[at].cycles - cycles
        tally["seconds"] = round(before["seconds"] + time.monotonic() - started, 1)
        tally["cpu_seconds"] = round(before["cpu_seconds"] + time.process_time() - cpu, 1)
        if difference is not None:
            tally["difference"] = str(difference)
            _keep(args, case, difference, machines[at])
            break
        if now - shown >= EVERY:
            shown = now
            output.log(f"{tally['commands']} of {args.commands} commands, {tally['seconds']:.0f} s")
            _save(args, tally)
    if difference is None:
        _save(args, tally)
    return difference


def _save(args: argparse.Namespace, tally: dict[str, Any]) -> None:
    if args.state:
        args.state.write_text(json.dumps(tally, indent=2) + "\n", encoding="utf-8")


def _keep(args: argparse.Namespace, case: Case, difference: Difference, machines: Any) -> None:
    """Make the case small, and write it where it was asked for."""
    from loralith.verif.lists.shrink import shrink

    if not args.failure:
        output.log(f"{difference}; --failure FILE would make it small and keep it")
        return
    output.log(f"{difference}; making it small")

    def fails(smaller: Case) -> bool:
        found = machines.compare(smaller)
        return found is not None and found.where == difference.where

    small = shrink(case, fails, SHRINK)
    found = machines.compare(small)
    args.failure.write_text(json.dumps({"difference": str(found), "case": json.loads(small.as_json())}, indent=1) + "\n", encoding="utf-8")
    output.log(f"{small.commands} commands are left: {found}; wrote {args.failure}")


def _replay(args: argparse.Namespace) -> int:
    from loralith.soak.list_runner import Machines
    from loralith.verif.lists.case import Case

    try:
        case = Case.from_json(json.dumps(json.loads(args.replay.read_text(encoding="utf-8"))["case"]))
    except OSError as error:
        raise SoakError(f"{args.replay}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise SoakError(f"{args.replay} is not a case that soak --lists wrote") from None
    machines = Machines(case.config, native=args.device == "verilator")
    try:
        difference = machines.compare(case)
    finally:
        machines.close()
    found = None if difference is None else str(difference)
    if args.json:
        output.emit_json({"replay": str(args.replay), "commands": case.commands, "difference": found})
    else:
        print(f"{case.commands} commands, " + (f"which differ: {found}" if found else "all as the oracle says"))
    return 0 if difference is None else 1


def _record(args: argparse.Namespace, names: list[str], configs: list[Config], tally: dict[str, Any]) -> None:
    command = f"loralith soak --lists --commands {tally['commands']} --seed {tally['seed']} --configs {','.join(names)}"
    command += f" --device {args.device}"
    page = [
        "Random raw lists of LOADs, COMPUTEs and STOREs: every field is drawn, tokens, memory latency and stalls too. Every",
        f"{ILLEGAL}th case has one command that a check must refuse. DRAM, scratchpads as far as stores and products show them,",
        "statistics, counters and status of the device and of the `reference` device are compared with an oracle that executes",
        "lists in order. The compiler's checker must accept each legal list, and refuse it where a token less makes it illegal or lets",
        "it race.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| device | {args.device} |",
        f"| seed | {tally['seed']} |",
        f"| commands | {tally['commands']:,} |",
        f"| legal lists | {tally['lists']:,} |",
        f"| illegal lists | {tally['illegal']:,} |",
        f"| lists that differ | {0 if tally['difference'] is None else 1} |",
        f"| simulated cycles | {tally['cycles']:,} |",
        f"| seconds | {tally['seconds']:,} ({tally['cpu_seconds']:,} of CPU time) |",
        "",
        "| configuration | rows | columns | bus bytes | most fold | left, right, out rows | acc, scale words |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, c in zip(names, configs, strict=True):
        depths = f"{c.left_depth}, {c.right_depth}, {c.out_depth} | {c.acc_depth}, {c.scale_depth}"
        page.append(f"| {name} | {c.rows} | {c.cols} | {c.bus_bytes} | {c.max_fold} | {depths} |")
    if tally["difference"]:
        page += ["", f"The first difference: {tally['difference']}."]
    results.write(args.output / "lists", "Random command lists on the RTL", command, tally, page)
