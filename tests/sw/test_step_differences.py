"""How well differences of two losses follow the true derivative in a step's numbers: what docs/step.md says of ZOODiP.

`pytest -m slow -s tests/sw/test_step_differences.py` prints the table.
"""

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from loralith.diffusion.unet import load_model
from loralith.methods import make_method
from loralith.methods.options import ZoodipOptions
from loralith.methods.settings import FinetuneSettings
from loralith.methods.zoodip.finite_differences import correlation, probes
from loralith.methods.zoodip.zoodip_method import CANDIDATES, Zoodip
from loralith.spec.step import StepScheme
from loralith.step.host import to_words
from loralith.step.zeroth_order import TARGET
from loralith.training.step_plans.tokens import SCHEME, EvaluationPlan
from loralith.verif.graph import interpret

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
PROBES = 6
SCHEMES = {
    "words between operators, two INT8 tensors an operand": SCHEME,
    "words between operators, one INT8 tensor": StepScheme(storage="vector"),
    "bfloat16 between operators, one INT8 tensor": StepScheme(),
}


def test_the_numbers_of_zoodip_follow_the_derivative_and_those_of_training_do_not(tmp_path: Path) -> None:
    told = FinetuneSettings(tmp_path, method="zoodip", options=ZoodipOptions(mu=0.01), batch=1)
    method = make_method(told, told.subject())
    assert isinstance(method, Zoodip)
    method.model.eval()
    exact = load_model(None)[0]
    found = probes(
        lambda tokens, draw: method.losses(exact, tokens, draw),
        method.token.detach(),
        PROBES,
        2,
        seed=0,
        batch=1,
        images=method.subject.images,
    )
    best: dict[str, float] = {}
    print(f"\n{'':55}" + "".join(f"{f'mu {mu:g}':>10}" for mu in CANDIDATES))
    for name, scheme in SCHEMES.items():
        plan = EvaluationPlan(method, 0, found[0].draw, found[0].u, scheme)
        difference, prediction = plan.graph.outputs["differences"], plan.lowered.graph.outputs["prediction"]
        rows: dict[str, list[float]] = {"": [], ", of rounded losses": []}
        for mu in CANDIDATES:
            slopes: dict[str, dict[int, torch.Tensor]] = {way: {} for way in rows}
            for probe in found:
                given = {**plan.frozen, **plan.states, **plan.evaluation_inputs(probe.draw, probe.u, mu)}
                values = {node.name: value for node, value in interpret(plan.graph, given, 0, 0) if node.name in (difference, prediction)}
                errors = values[prediction].reshape(3, -1).double() - given[TARGET].reshape(1, -1).double()
                losses = to_words(errors.square().mean(1).float()).double()
                slopes[""][id(probe)] = values[difference].flatten().double() / mu
                slopes[", of rounded losses"][id(probe)] = (losses[1:] - losses[0]) / mu
            for way, of in slopes.items():
                rows[way].append(correlation(lambda probe, of=of: of[id(probe)], found))
        for way, values_ in rows.items():
            print(f"{name + way:75}" + "".join(f"{value:10.4f}" for value in values_))
        best[name] = rows[""][CANDIDATES.index(1e-2)]
    chosen, *others = best.values()
    assert chosen > 0.99
    assert max(others) < 0.95
