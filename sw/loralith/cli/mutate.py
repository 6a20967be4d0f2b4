"""`loralith mutate`: the hardware with one thing wrong at a time, and which test sees it."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loralith.cli import mutate_plans, output
from loralith.reports import result_files as results


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("mutate", help="break the RTL in one place at a time and see whether the tests notice")
    parser.add_argument("--list", action="store_true", help="print the chosen mutants and run nothing")
    parser.add_argument("--only", metavar="TEXT", action="append", help="mutants whose name holds TEXT; may be given again")
    parser.add_argument(
        "--stages",
        metavar="NAMES",
        help="of native,golden,faults,unit,cocotb, in this order (default: all); with --plans those of "
        "native,faults,unit,equivalent,formal that run, or none: what is known",
    )
    parser.add_argument("--catalogue", type=Path, help="TOML file of mutants (default: tests/mutants/mutants.toml)")
    parser.add_argument(
        "--plans",
        metavar="TEXT",
        action="append",
        help="instead of the catalogue: operators of the blocks of test plans whose name holds TEXT, or of all; may be given again",
    )
    parser.add_argument("--count", type=int, default=100, help="how many mutants of each of --plans (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="which ones of --plans (default: 1)")
    parser.add_argument("--config", default="tiny-vector", help="preset or JSON file of --plans (default: tiny-vector)")
    parser.add_argument("--known", type=Path, metavar="FILE", help="with --plans: a mutants.json whose verdicts hold where nothing changed")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write catalogue.json and catalogue.md there, with --plans mutants.json and mutants.md",
    )
    parser.add_argument("--fresh", action="store_true", help="forget the verdicts of earlier runs, which are kept in build/mutants")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 1 when a mutant survived or could not be made."""
    if args.plans:
        return mutate_plans.run(args)
    from loralith import mutants
    from loralith.mutants.campaign import STAGES
    from loralith.mutants.mutants_report import OUTCOMES, TITLE, figures_of, page
    from loralith.verif.mutation import MutationError

    usual = results.REPO / "tests" / "mutants" / "mutants.toml"
    if not usual.is_file():
        raise mutants.MutantError(f"mutate breaks the sources of a clone of the repository, and {results.REPO} is none; run it in one")
    try:
        chosen = _chosen(args)
    except MutationError as error:
        raise mutants.MutantError(str(error)) from None
    if args.list:
        _list(args, chosen)
        return 0
    stages = args.stages.split(",") if args.stages else STAGES
    for stage in stages:
        if stage not in STAGES:
            raise mutants.MutantError(f"stages are {', '.join(STAGES)}, not {stage!r}")
    if args.output:
        results.check(args.output / "catalogue", [args.catalogue] if args.catalogue else [])
    folder = results.REPO / "build" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        (folder / "verdicts.json").unlink(missing_ok=True)
    campaign = mutants.Campaign(folder, stages, log=output.log)
    verdicts = []
    for verdict in campaign.run(chosen):
        verdicts.append(verdict)
        output.log(f"{len(verdicts)}/{len(chosen)} {verdict.outcome:<8} {verdict.name}: {verdict.by or 'by no test'}")
    figures = figures_of(verdicts)
    if args.output:
        results.write(args.output / "catalogue", TITLE, _command(args), figures, page(figures))
    if args.json:
        output.emit_json(figures)
    else:
        output.table("mutants", ["mutant", "outcome", "by"], [[v.name, v.outcome, v.by] for v in verdicts])
        print(", ".join(f"{figures[outcome]} {outcome}" for outcome in OUTCOMES))
    return 0 if figures["killed"] == len(verdicts) else 1


def _chosen(args: argparse.Namespace) -> list:
    """The mutants that the arguments name. Raises MutationError for one that does not apply, before hours of others."""
    from loralith.verif.mutation import MutationError
    from loralith.verif.mutation.mutant_list import read_catalogue

    mutants = read_catalogue(*([args.catalogue] if args.catalogue else []))
    chosen = [mutant for mutant in mutants if not args.only or any(text in mutant.name for text in args.only)]
    if not chosen:
        raise MutationError(f"no mutant's name holds {' or '.join(map(repr, args.only))}")
    for mutant in chosen:
        try:
            _ = mutant.module
        except MutationError as error:
            raise MutationError(f"mutant {mutant.name!r}: {error}") from None
    return chosen


def _list(args: argparse.Namespace, chosen: Sequence) -> None:
    if args.json:
        output.emit_json({"mutants": [{"name": mutant.name, **asdict(mutant.change)} for mutant in chosen]})
    else:
        output.table("mutants", ["mutant", "what is wrong"], [[mutant.name, mutant.change.says] for mutant in chosen])


def _command(args: argparse.Namespace) -> str:
    words = ["loralith mutate", *(f"--only {text!r}" for text in args.only or ())]
    if args.stages:
        words.append(f"--stages {args.stages}")
    return " ".join(words)
