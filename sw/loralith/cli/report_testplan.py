"""`loralith report testplan`: the RTL's features with the tests, properties and mutants of each; what no plan names fails."""

import argparse
from dataclasses import asdict
from typing import Any

HELP = "features of each block with their tests, properties and mutants; fails on a name that is nowhere, and on one that no plan names"
ON_RTL = True
SUBJECT = "loralith.reports.testplan_page"


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def command(args: argparse.Namespace) -> str:
    return "loralith report testplan"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """All plans, what they name of each kind, and what does not fit. Raises PlanError, for example where there is no checkout."""
    from loralith.verif.test_plans import problems, read_plans

    plans = read_plans()
    features = [feature for plan in plans for feature in plan.features]
    return {
        "features": len(features),
        "tests": len({name for feature in features for name in feature.tests}),
        "properties": len({name for feature in features for name in feature.properties}),
        "mutants": len({name for feature in features for name in feature.mutants}),
        "problems": problems(plans),
        "plans": [asdict(plan) for plan in plans],
    }


def problems(args: argparse.Namespace, figures: dict[str, Any]) -> list[str]:
    return figures["problems"]
