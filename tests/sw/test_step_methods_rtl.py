"""Two whole steps of each method on the RTL, of a U-Net of two levels: every tensor is the graph's, and the reference device trains alike.

`pytest -m slow -s tests/sw/test_step_methods_rtl.py` prints cycles and the host's bytes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from helpers.same_values import assert_same_values
from helpers.step_methods import OPTIONS, least_model, prepared, settings
from loralith.device import open_device
from loralith.spec.config import PRESETS
from loralith.training.step_training import StepTraining
from loralith.training.verification import GraphObserver

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
CONFIG = replace(PRESETS["tiny"], name="tiny-lanes", vector_lanes=4)


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_two_steps_from_one_submission_are_the_references(method: str, tmp_path: Path) -> None:
    model = least_model(tmp_path / "model")
    told = settings(tmp_path / "run", model, method, steps=2)
    found: list[tuple[Any, list[float]]] = []
    for name, most in (("reference", 1), ("verilator", 2)):
        own = prepared(told)
        with open_device(name, CONFIG, memory_bytes=1 << 28) as device:
            training = StepTraining(device, 0, told.lr, GraphObserver(), most)
            losses: list[float] = []
            while len(losses) < 2:
                losses += training.train(own, len(losses), 2 - len(losses))
            counters = training.counters()
            training.detach()
        assert counters["bit_exact"]
        found.append((own, losses))
    (reference, wanted), (rtl, losses) = found
    assert losses == wanted
    for name, parameter in reference.parameters.items():
        assert_same_values(rtl.parameters[name], parameter, name)
    print(f"\n{method}: {counters['cycles'] // 2:,} cycles a step, {counters['utilization']:.1%} of the array,")
    written, read = (counters[f"host_bytes_{what}_per_step"] for what in ("written", "read"))
    print(f"{written:,.0f} bytes written and {read:.0f} read a step, {counters['elements_compared']:,} elements compared")
