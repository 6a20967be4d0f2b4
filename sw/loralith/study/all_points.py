"""All points of a study, one after another."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from loralith.study.point import Attach, baseline, run_point
from loralith.study.point_store import Store


def pending(store: Store, schemes: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """(scheme, seed) of the points that are not finished, seed by seed, so that an early end leaves whole pairs."""
    return [(scheme, seed) for seed in seeds for scheme in schemes if store.point(scheme, seed) is None]


def run_study(
    store: Store,
    schemes: Sequence[str],
    seeds: Sequence[int],
    attach: Attach,
    progress: Callable[[str, int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[dict[str, Any]]:
    """Computes what is missing and gives each point when it is saved. progress : called with (scheme, seed, steps done)."""
    if store.baseline is None:
        store.save_baseline(baseline(store.settings))
    for scheme, seed in pending(store, schemes, seeds):
        report = None if progress is None else (lambda step, scheme=scheme, seed=seed: progress(scheme, seed, step))
        point = run_point(store.settings, scheme, seed, attach, report, stop)
        store.save(point)
        gc.collect()  # models and attachments hold each other
        yield point
