"""`loralith soak --lists`: random raw command lists, legal and illegal, on the RTL and the reference device, compared with an oracle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.reports import result_files as results
from loralith.soak import SoakError
from loralith.spec.config import Config, load_config


def register(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("raw command lists")
    group.add_argument("--lists", action="store_true", help="run random command lists in place of products")
    group.add_argument("--commands", type=int, default=20_000, metavar="N", help="how many commands, at least (default: 20000)")
    group.add_argument("--seconds", type=float, metavar="S", help="stop after this time, whatever the number of commands")
    group.add_argument(
        "--configs",
        metavar="LIST",
        help="presets, JSON files, narrow, random:SEED and random-vector:SEED, with vector lanes, separated by commas, in turn (default: "
        "that of --config)",
    )
    group.add_argument("--state", type=Path, metavar="FILE", help="keep the progress in this file, and resume from it")
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
    from loralith.soak.lists import ListSoak

    names = (args.configs or args.config).split(",")
    configs = [_config(name) for name in names]
    soak = ListSoak(names, configs, args.device, args.seed, args.state, args.failure)
    tally = soak.tally
    output.log(f"seed {tally['seed']}")
    difference = soak.run(args.commands, args.seconds)
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
    from loralith.verif.lists.drawn_configs import NARROW, random_config, random_vector_config

    if name == NARROW.name:
        return NARROW
    kind, _, seed = name.partition(":")
    draw = {"random": random_config, "random-vector": random_vector_config}.get(kind)
    if draw is None:
        return load_config(name)
    if not seed.isdecimal():
        raise SoakError(f"a random configuration is {kind}:SEED with a number, not {name!r}")
    return draw(int(seed))


def _record(args: argparse.Namespace, names: list[str], configs: list[Config], tally: dict[str, Any]) -> None:
    from loralith.soak.soak_report import LISTS_TITLE, lists_page

    command = f"loralith soak --lists --commands {tally['commands']} --seed {tally['seed']} --configs {','.join(names)}"
    command += f" --device {args.device}"
    results.write(args.output / "lists", LISTS_TITLE, command, tally, lists_page(names, configs, tally))


def _replay(args: argparse.Namespace) -> int:
    from loralith.soak.lists import replay

    case, difference = replay(args.replay, args.device)
    found = None if difference is None else str(difference)
    if args.json:
        output.emit_json({"replay": str(args.replay), "commands": case.commands, "difference": found})
    else:
        print(f"{case.commands} commands, " + (f"which differ: {found}" if found else "all as the oracle says"))
    return 0 if difference is None else 1
