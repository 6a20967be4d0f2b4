"""Published systems beside the steps that were run here: totals, and product by product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from loralith.compiler.schedules.matmul import array_cycles, best_fold
from loralith.errors import LoralithError
from loralith.shapes import peers, published_models
from loralith.spec.config import load_config

__all__ = ["TRIED_MACS", "by_product", "totals"]

Run = dict[str, Any]
"""What `loralith bench shapes --json` printed."""
TRIED_MACS = 1 << 19
"""Products up to this size are given to SCALE-Sim itself: its traces of larger ones take hours."""


def totals(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Cycles and utilisation of other systems for the steps of ``runs``: SCALE-Sim on their square arrays, RedMulE on its own array."""
    sides: dict[tuple[str, str, int], dict[int, None]] = {}
    for run in runs:
        squares = sides.setdefault((run["model"], run["subset"], run["rank"]), {})
        if run["rows"] == run["cols"]:
            squares[run["rows"]] = None
    rows = []
    for (model, subset, rank), squares in sides.items():
        layers = Counter(published_models.text_linears(model, rank))
        if subset == "all":
            layers.update(published_models.image_linears(model, rank))
        work = [(product, count) for linear, count in layers.items() for product in peers.products(linear)]
        macs = sum(count * product.macs for product, count in work)
        found = [
            (
                "SCALE-Sim",
                side,
                side,
                dataflow,
                sum(count * peers.scalesim_cycles(product, side, side, dataflow) for product, count in work),
            )
            for side in squares
            for dataflow in peers.SYSTEMS
        ]
        found.append(
            ("RedMulE", *peers.REDMULE_ARRAY, "FP16 engine", sum(count * peers.redmule_cycles(product) for product, count in work))
        )
        for system, high, wide, dataflow, cycles in found:
            step = {"model": model, "subset": subset, "rank": rank, "cycles": cycles, "utilization": macs / (cycles * high * wide)}
            rows.append({"system": system, "array": f"{high} x {wide}", "dataflow": dataflow} | step)
    return rows


def by_product(runs: Sequence[Run], *, scalesim: bool = False) -> dict[str, Any]:
    """Each product of the first run of a whole step on a square array: the array's steps here at the best fold and side, and other
    systems' cycles. Empty without such a run.

    ``scalesim``: run SCALE-Sim itself on the products of at most `TRIED_MACS`. Raises LoralithError where it is not installed, fails or
    says other cycles than its closed form.
    """
    run = next((run for run in runs if run["rows"] == run["cols"] and run["subset"] == "all"), None)
    if run is None:
        return {}
    side, model, rank = run["rows"], run["model"], run["rank"]
    config = load_config(run["config"])
    rows, tried = [], 0
    for linear in [*published_models.image_linears(model, rank), *dict.fromkeys(published_models.text_linears(model, rank))]:
        for product in peers.products(linear):
            M, N, K = product.M, product.N, product.K
            steps = min(array_cycles(a, b, K, best_fold(K, b, config), config) for a, b in ((M, N), (N, M)))
            cycles = {dataflow: peers.scalesim_cycles(product, side, side, dataflow) for dataflow in peers.SYSTEMS}
            for dataflow in peers.SYSTEMS if scalesim and product.macs <= TRIED_MACS else ():
                said = peers.run_scalesim(product, side, dataflow)
                if said != cycles[dataflow]:
                    raise LoralithError(f"SCALE-Sim says {said} cycles for {product}, {dataflow}; its closed form {cycles[dataflow]}")
                tried += 1
            sizes = {"layer": linear.name, "product": product.name, "M": M, "N": N, "K": K, "macs": product.macs}
            rows.append(sizes | {"steps": steps, "scalesim": cycles, "redmule": peers.redmule_cycles(product)})
    return {"side": side, "model": model, "rank": rank, "rows": rows, "scalesim_runs": tried}
