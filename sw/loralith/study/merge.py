"""Results of one run of a study beside those that were published before: schemes are added, none is lost."""

from collections.abc import Mapping
from typing import Any

from loralith.errors import LoralithError
from loralith.study.figures import Points, bar
from loralith.study.schemes import DEFAULT, FP32, SCHEMES

Key = tuple[str, int]


def add_published(
    old: Mapping[str, Any], context: Mapping[str, Any], summary: Mapping[str, Any], points: Points
) -> tuple[dict[str, Any], dict[Key, Mapping[str, Any]]]:
    """``summary`` and ``points`` of a new run with the schemes of ``old``, what study.json held, that the run does not have.

    Each scheme that stays keeps date and commit of its own run as ``made``. Raises LoralithError, naming the difference, where the two
    runs cannot stand in one table: other settings, another model before training, or other FP32 points.
    """
    kept = [name for name in old["schemes"] if name not in summary["schemes"]]
    if not kept:
        return dict(summary), dict(points)
    before = {(point["scheme"], point["seed"]): point for point in old["points"]}
    if old["settings"] != context["settings"]:
        raise LoralithError("the published results have other settings; publish all schemes in one run, or give the same settings")
    for name in ("heldout_loss", "accuracy"):
        if old["baseline"][name] != summary["baseline"][name]:
            raise LoralithError(f"the published results begin at {name} {old['baseline'][name]}, not {summary['baseline'][name]}")
    for seed in sorted(seed for scheme, seed in before if scheme == FP32):
        own = points.get((FP32, seed))
        if own is None:
            raise LoralithError(f"the published results have seed {seed}, which this run has not; give at least as many --seeds")
        if own["adapter"] != before[FP32, seed]["adapter"]:
            raise LoralithError(f"FP32 with seed {seed} gives another adapter than in the published results: another machine or version")
    made = {"date": old["date"], "commit": old["commit"]}
    schemes = {name: {"made": made, **old["schemes"][name]} for name in kept}
    schemes = {name: own for name in SCHEMES for own in (summary["schemes"].get(name, schemes.get(name)),) if own is not None}
    result = {**summary, "schemes": schemes, **({"bar": bar(schemes[DEFAULT])} if DEFAULT in schemes else {})}
    return result, {**{key: point for key, point in before.items() if key[0] in kept}, **points}
