"""`loralith mutate --plans`: mutants of every operator in the blocks of test plans, hundreds in one native model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.reports import result_files as results


def run(args: argparse.Namespace) -> int:
    """Returns 1 where a mutant survives without a reason in tests/mutants/survivors.toml, or is open."""
    from loralith.mutants import MutantError
    from loralith.mutants.block_campaign import STAGES, BlockCampaign
    from loralith.mutants.blocks_report import TITLE, figures_of, page
    from loralith.mutants.survivors import read_survivors
    from loralith.mutants.verdict_store import VerdictStore
    from loralith.spec.config import load_config
    from loralith.verif.test_plans import read_plans

    if args.count < 1:
        raise MutantError(f"--count must be at least 1, not {args.count}")
    stages = [] if args.stages == "none" else args.stages.split(",") if args.stages else list(STAGES)
    for stage in stages:
        if stage not in STAGES:
            raise MutantError(f"stages of --plans are {', '.join(STAGES)}, or none, not {stage!r}")
    # A plan without classes of loralith.rtl is of the board, which the native model has not.
    plans = [plan for plan in read_plans() if plan.covers]
    chosen = [plan for plan in plans if any(text in (plan.block, "all") or text in plan.block for text in args.plans)]
    if not chosen:
        raise MutantError(f"plans are {', '.join(plan.block for plan in plans)}; none holds {' or '.join(map(repr, args.plans))}")
    if args.output:
        results.check(args.output / "mutants", [args.known] if args.known else [])
    reasons = read_survivors()
    folder = results.REPO / "build" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "found.json"
    if args.fresh:
        file.unlink(missing_ok=True)
    store = VerdictStore(file, _known(args.known))
    campaign = BlockCampaign(load_config(args.config), chosen, folder, store, stages, output.log)
    schema, verdicts = campaign.run(args.count, args.seed, plans)
    figures = figures_of(verdicts, schema.population, reasons, store.used)
    if args.output:
        results.write(args.output / "mutants", TITLE, _command(args), figures, page(figures))
    unexplained = [verdict.name for verdict in verdicts if verdict.outcome == "survived" and verdict.name not in reasons]
    if args.json:
        output.emit_json(figures)
    else:
        columns = ("drawn", "killed", "equivalent", "open", "survivors", "percent")
        output.table("plans", ["plan", *columns], [[name, *(plan[key] for key in columns)] for name, plan in figures["plans"].items()])
        for name in unexplained:
            print(f"survives: {name}")
    return 1 if unexplained or figures["open"] else 0


def _known(path: Path | None) -> dict[str, Any]:
    """What an earlier campaign found, by key."""
    from loralith.mutants import MutantError

    if path is None:
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["kept"]
        if not all(isinstance(found, str) for found, _ in kept.values()):
            raise ValueError
    except OSError as error:
        raise MutantError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MutantError(f"{path} is no file of verdicts that mutate --plans wrote") from None
    return kept


def _command(args: argparse.Namespace) -> str:
    words = ["loralith mutate", *(f"--plans {text!r}" if " " in text else f"--plans {text}" for text in args.plans)]
    words.append(f"--count {args.count} --seed {args.seed}")
    if args.config != "tiny-vector":
        words.append(f"--config {args.config}")
    if args.stages and args.stages != "none":
        words.append(f"--stages {args.stages}")
    return " ".join(words)
