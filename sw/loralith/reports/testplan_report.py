"""Each block's features with their tests, properties and mutants: figures and page of `loralith report testplan`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from loralith.errors import LoralithError
from loralith.verif.test_plans import PlanError, problems, read_plans

__all__ = ["figures", "page", "title"]


def figures() -> dict[str, Any]:
    """All plans, counts of what they name, and what does not fit. Raises LoralithError for a faulty plan, and without a checkout."""
    try:
        plans = read_plans()
    except PlanError as error:
        raise LoralithError(str(error)) from None
    features = [feature for plan in plans for feature in plan.features]
    return {
        "features": len(features),
        "tests": len({name for feature in features for name in feature.tests}),
        "properties": len({name for feature in features for name in feature.properties}),
        "mutants": len({name for feature in features for name in feature.mutants}),
        "problems": problems(plans),
        "plans": [asdict(plan) for plan in plans],
    }


def title(figures: dict[str, Any]) -> str:
    return "Test plans"


def page(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"{len(figures['plans'])} plans of {figures['features']} features name {figures['tests']} tests,",
        f"{figures['properties']} properties and {figures['mutants']} mutants.",
    ]
    for plan in figures["plans"]:
        lines += ["", f"## {plan['block'].capitalize()}", "", "| feature | risk | tests | properties | mutants |", "|---|---|---|---|---|"]
        for feature in plan["features"]:
            names = ("<br>".join(feature[kind]) for kind in ("tests", "properties", "mutants"))
            lines.append(f"| {feature['name']} | {feature['risk']} | {' | '.join(names)} |")
    return lines
