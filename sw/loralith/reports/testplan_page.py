"""The page of `loralith report testplan`: each block's features with the tests, properties and mutants that stand for them."""

from __future__ import annotations

from typing import Any

__all__ = ["page", "title"]


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
