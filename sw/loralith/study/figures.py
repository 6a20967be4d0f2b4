"""What a study's points say: means over seeds, standard errors, and differences from FP32 seed by seed."""

import math
import struct
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from loralith.errors import LoralithError
from loralith.study.schemes import DEFAULT, FP32, SCHEMES

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's two-sided 95 % quantiles for 1, 2, ... degrees of freedom."""

LOSS_BOUND = 0.01
RECOVERED_BOUND = 0.95

Points = Mapping[tuple[str, int], Mapping[str, Any]]


def pack_losses(losses: Sequence[float]) -> str:
    """FP32 values as hexadecimal, 8 digits each, exactly."""
    return struct.pack(f">{len(losses)}f", *losses).hex()


def unpack_losses(text: str) -> list[float]:
    return list(struct.unpack(f">{len(text) // 8}f", bytes.fromhex(text)))


def compact(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as study.json keeps it: losses packed, gradients as means over layers at each probed step. One that is so stays as it is."""
    if "losses_fp32" in point:
        return dict(point)
    kept = {key: value for key, value in point.items() if key not in ("settings", "fields", "losses", "gradients", "seconds")}
    kept["losses_fp32"] = pack_losses(point["losses"])
    kept["gradient_cosine"] = {step: mean(pair[0] for pair in table.values()) for step, table in point["gradients"].items()}
    kept["gradient_relative_error"] = {step: mean(pair[1] for pair in table.values()) for step, table in point["gradients"].items()}
    return kept


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def interval(values: Sequence[float]) -> list[float] | None:
    """95 % confidence interval of the mean by Student's t; None for a single value."""
    error = standard_error(values)
    if error is None:
        return None
    freedom = len(values) - 1
    half = (T95[freedom - 1] if freedom <= len(T95) else 1.96) * error
    return [mean(values) - half, mean(values) + half]


def _figure(name: str, values: Sequence[float]) -> dict[str, Any]:
    return {name: mean(values), f"{name}_se": standard_error(values), f"{name}_interval95": interval(values)}


def _shares(points: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float]:
    return {tensor: mean(point[kind][tensor] for point in points) for tensor in points[0][kind]}


def _by_layer(points: Sequence[Mapping[str, Any]], place: int) -> dict[str, float]:
    """Mean over seeds and probed steps of one figure of each parameter's gradient."""
    values: dict[str, list[float]] = {}
    for point in points:
        for table in point["gradients"].values():
            for name, pair in table.items():
                values.setdefault(name, []).append(pair[place])
    return {name: mean(found) for name, found in sorted(values.items())}


def _short(parameter: str) -> str:
    """PEFT's name of a parameter without what all of them share."""
    return parameter.removeprefix("base_model.model.").replace(".default.weight", "")


def summarize_scheme(name: str, points: Points, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of one scheme over the seeds that FP32 has too. Gradients are those of probed steps, against FP64."""
    seeds = sorted(seed for scheme, seed in points if scheme == name and (FP32, seed) in points)
    own, fp32 = [points[name, seed] for seed in seeds], [points[FP32, seed] for seed in seeds]
    pairs = list(zip(own, fp32, strict=True))
    before = baseline["heldout_loss"]
    cosine, error = _by_layer(own, 0), _by_layer(own, 1)
    worst = min(cosine, key=lambda key: cosine[key])
    return {
        "text": SCHEMES[name].text,
        "fields": own[0]["fields"] and {key: value for key, value in own[0]["fields"].items() if key != "seed"},
        "seeds": seeds,
        **_figure("heldout_loss", [point["heldout_loss"] for point in own]),
        **_figure("heldout_loss_ratio_to_fp32", [a["heldout_loss"] / b["heldout_loss"] for a, b in pairs]),
        **_figure("improvement_recovered", [(before - a["heldout_loss"]) / (before - b["heldout_loss"]) for a, b in pairs]),
        **_figure("accuracy", [point["accuracy"] for point in own]),
        **_figure("accuracy_minus_fp32", [a["accuracy"] - b["accuracy"] for a, b in pairs]),
        "heldout_loss_in_scheme": mean(point["heldout_loss_in_scheme"] for point in own),
        "gradient_cosine": mean(cosine.values()),
        "gradient_relative_error": mean(error.values()),
        "worst_gradient": {"parameter": _short(worst), "cosine": cosine[worst], "relative_error": error[worst]},
        "saturated": _shares(own, "saturated"),
        "vanished": _shares(own, "vanished"),
        "warnings": sorted({message for point in own for message in point["warnings"]}),
        "layers": {_short(key): [round(cosine[key], 5), round(error[key], 5)] for key in cosine},
    }


def bar(default: Mapping[str, Any]) -> dict[str, bool | None]:
    """What the chosen scheme must show beside FP32; None for what a single seed cannot."""
    difference, error = default["accuracy_minus_fp32"], default["accuracy_minus_fp32_se"]
    return {
        "heldout_loss_within_1_percent": abs(default["heldout_loss_ratio_to_fp32"] - 1.0) <= LOSS_BOUND,
        "improvement_recovered_95_percent": default["improvement_recovered"] >= RECOVERED_BOUND,
        "accuracy_within_one_standard_error": None if error is None else abs(difference) <= error,
    }


def summarize(points: Points, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """`baseline`, `schemes` in the order of `SCHEMES` as far as they have points, and `bar` where the default is among them."""
    names = [name for name in SCHEMES if any(scheme == name and (FP32, seed) in points for scheme, seed in points)]
    schemes = {name: summarize_scheme(name, points, baseline) for name in names}
    seeds = sorted({seed for summary in schemes.values() for seed in summary["seeds"]})
    result: dict[str, Any] = {"seeds": seeds, "baseline": dict(baseline), "schemes": schemes}
    if DEFAULT in schemes:
        result["bar"] = bar(schemes[DEFAULT])
    return result


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
