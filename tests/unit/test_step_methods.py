"""What methods add to a step graph, against float64 and torch's own optimizer: ZOODiP's estimate and past, TuneQDM's tables."""

import pytest
import torch
from torch import Tensor

from loralith.errors import LoralithError
from loralith.spec.graph import Graph, Kind, Op
from loralith.step.builder import Builder
from loralith.step.host import to_words
from loralith.step.optimizer import SGD, AdamW, moments_of, with_optimizer
from loralith.step.scale_tables import EXPERTS, FIXED, RELATIVE, SCALES, Layout, expert_scalars, with_tables
from loralith.step.zeroth_order import HISTORY, PROJECTOR, TARGET, WEIGHT, with_estimate, with_history
from loralith.verif.graph import interpret


def words(*shape: int, seed: int = 0) -> Tensor:
    return to_words(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def run(graph: Graph, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The graph's outputs by what they are."""
    values = {node.name: value for node, value in interpret(graph, given, 0, 0)}
    return {what: values[name] for what, name in graph.outputs.items()}


def predictions() -> Graph:
    """Evaluations [3, 2, 5] that an input gives, and two directions of six elements from a token."""
    b = Builder()
    token, d = b.node(Op.STATE, Kind.WORD, (6,), name="token"), b.node(Op.INPUT, Kind.WORD, (2, 6), name="d")
    b.add(token, d)
    y = b.multiply(b.node(Op.INPUT, Kind.WORD, (3, 2, 5), name="y"), 1.0)
    b.graph.set_output("prediction", y.name)
    return b.graph


def test_the_estimate_is_that_of_differences_of_losses() -> None:
    target, mu, d = words(2, 5, seed=1), 0.25, to_words(0.25 * words(2, 6, seed=2))
    y = words(1, 2, 5, seed=3) + to_words(torch.cat([torch.zeros(1, 2, 5), 2.0**-9 * words(2, 2, 5, seed=4)]))
    y = to_words(y)
    onto = to_words(words(6, 6, seed=5))
    graph = with_estimate(predictions(), "d", "token", (2, 5))
    given = {"token": words(6), "d": d, "y": y, TARGET: target, PROJECTOR: onto, WEIGHT: torch.tensor(1.0 / (2 * mu * mu))}
    found = run(graph, given)
    losses = (y.double() - target.double()).square().mean((1, 2))
    assert float(found["loss"]) == pytest.approx(float(losses[0]), rel=1e-4)
    differences = losses[1:] - losses[0]
    assert differences.abs().max() < 0.01 * losses[0]
    torch.testing.assert_close(found["differences"].flatten().double(), differences, rtol=2e-3, atol=1e-7)
    estimate = ((differences / mu)[:, None] * (d.double() / mu)).mean(0)
    torch.testing.assert_close(found["gradient.token"].double(), onto.double() @ estimate, rtol=2e-3, atol=1e-4)
    with pytest.raises(LoralithError, match=r"2 perturbations need predictions of 27 values, not \[3, 2, 5\]"):
        with_estimate(predictions(), "d", "token", (3, 3))


def test_the_past_has_the_latest_values_last() -> None:
    optimizer = SGD(0.5)
    graph = with_history(with_optimizer(with_estimate(predictions(), "d", "token", (2, 5)), optimizer), "token", 3)
    given = {"token": words(6), "d": words(2, 6), "y": words(3, 2, 5), TARGET: words(2, 5, seed=1), PROJECTOR: torch.eye(6)}
    given |= {WEIGHT: torch.tensor(1.0), HISTORY: torch.zeros(3, 6)}
    given |= {name: torch.tensor(value) for name, value in optimizer.scalars(1).items()}
    tokens = []
    for _ in range(4):
        found = run(graph, given)
        tokens.append(found["state.token"])
        given |= {"token": found["state.token"], HISTORY: found[f"state.{HISTORY}"]}
    assert len({tuple(token.tolist()) for token in tokens}) == 4
    assert given[HISTORY].tolist() == torch.stack(tokens[1:]).tolist()


SIZES = {"one.s_out": 16, "two.s_out": 3}


def scaled(images: int) -> Graph:
    """A loss whose gradients are the scales times inputs; ``fixed.s_in`` is read and not trained."""
    b = Builder()
    parts = []
    for name, size in SIZES.items():
        s, g = b.node(Op.STATE, Kind.WORD, (images, size), name=name), b.node(Op.INPUT, Kind.WORD, (images, size), name=f"g.{name}")
        b.graph.set_output(f"gradient.{name}", b.multiply(s, g).name)
        parts.append(b.sum(s, (0, 1), 64.0))
    fixed = b.node(Op.FROZEN, Kind.WORD, (images, 5), name="fixed.s_in")
    loss = b.add(b.add(*parts), b.sum(fixed, (0, 1), 64.0))
    b.graph.set_output("loss", b.reshape(loss, ()).name)
    return b.graph


@pytest.mark.parametrize("experts", [1, 3])
def test_tables_train_as_torch_does_where_a_group_may_be_absent(experts: int) -> None:
    images, lr = 2, {"one.s_out": 0.01, "two.s_out": 0.1}
    optimizer, trained, fixed = AdamW(1.0), Layout.of(SIZES), Layout.of({"fixed.s_in": 5})
    assert trained.places == {"one.s_out": (0, 16, 1), "two.s_out": (16, 64, 16)}
    graph = with_tables(scaled(images), experts, trained, fixed, optimizer)
    own = {(name, e): words(size, seed=e + size).abs().requires_grad_(True) for name, size in SIZES.items() for e in range(experts)}
    torchs = torch.optim.AdamW([{"params": [p], "lr": lr[name]} for (name, _), p in own.items()], weight_decay=0.0)

    def table(value) -> Tensor:
        def row(e: int) -> Tensor:
            return torch.cat([value(name, e).detach().repeat_interleave(times) for name, (_, _, times) in trained.places.items()])

        return torch.stack([row(e) for e in range(experts)])

    states = {SCALES: table(lambda name, e: own[name, e]), **dict.fromkeys(moments_of(SCALES), torch.zeros(experts, trained.width))}
    states[FIXED] = torch.stack([torch.full((80,), float(e + 1)) for e in range(experts)])
    rates = table(lambda name, e: torch.full((SIZES[name],), lr[name]))
    counts = [0] * experts
    for step in range(6):
        groups = torch.tensor([step % experts, min(step, experts - 1)]) if step != 4 else torch.zeros(2, dtype=torch.int64)
        present = [e in groups.tolist() for e in range(experts)]
        counts = [n + there for n, there in zip(counts, present, strict=True)]
        given = {f"g.{name}": words(images, size, seed=step) for name, size in SIZES.items()}
        chosen = torch.nn.functional.one_hot(groups, experts).float()
        scalars = {name: torch.tensor(value) for name, value in expert_scalars(optimizer, counts, present).items()}
        before = {name: value.clone() for name, value in states.items()}
        found = run(graph, {**given, **states, **scalars, EXPERTS: chosen, RELATIVE: to_words(rates)})
        picked = sum(float(own[name, int(e)].detach().sum()) for name in SIZES for e in groups)
        assert float(found["loss"]) == pytest.approx(picked + 5 * float(groups.sum() + images), rel=1e-4)
        torchs.zero_grad(set_to_none=True)
        for name in SIZES:
            for image, e in enumerate(groups.tolist()):
                gradient = own[name, e].detach() * given[f"g.{name}"][image]
                own[name, e].grad = gradient if own[name, e].grad is None else own[name, e].grad + gradient
        torchs.step()
        states |= {name: found[f"state.{name}"] for name in (SCALES, *moments_of(SCALES))}
        torch.testing.assert_close(states[SCALES], table(lambda name, e: own[name, e]), rtol=1e-3, atol=1e-3)
        for e in range(experts):
            same = [bool((states[name][e] == before[name][e]).all()) for name in (SCALES, *moments_of(SCALES))]
            assert same == [not present[e]] * 3, f"group {e} in step {step}"
