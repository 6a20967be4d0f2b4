"""The numbers of a whole training step: the vector unit's format, its programs, and the mode that replaces torch's operators."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from helpers.same_values import assert_same_values
from loralith.spec.graph import Kind, Op
from loralith.spec.scheme import SchemeError
from loralith.spec.step import StepScheme
from loralith.step.builder import Builder
from loralith.verif.graph import interpret
from loralith.verif.step import programs
from loralith.verif.step.mode import StepMode
from loralith.verif.step.optimizer import StepAdamW
from loralith.verif.step.step_attachment import StepAttachment
from loralith.verif.step.step_products import Operands, power_scale, row_units
from loralith.verif.vector.format import VectorFormat, round_to


def exactly(value: Fraction, fraction_bits: int) -> float:
    """``value`` rounded half to even to ``fraction_bits`` bits after the leading one, on exact numbers."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(value)))
    exponent += (abs(value) >= Fraction(2) ** (exponent + 1)) - (abs(value) < Fraction(2) ** exponent)
    unit = Fraction(2) ** (exponent - fraction_bits)
    return float(round(value / unit) * unit)


@pytest.mark.parametrize("p", [7, 10, 16, 23])
def test_each_operation_is_the_exact_result_rounded_once(p: int) -> None:
    random = np.random.default_rng(p)
    v = VectorFormat(p)
    x, y = (v.round(torch.tensor(random.standard_normal(400) * 2.0 ** random.integers(-20, 20, 400))) for _ in range(2))
    for name, of in (("add", Fraction.__add__), ("sub", Fraction.__sub__), ("mul", Fraction.__mul__)):
        got = getattr(v, name)(x, y)
        for a, b, result in zip(x.tolist(), y.tolist(), got.tolist(), strict=True):
            assert result == exactly(of(Fraction(a), Fraction(b)), p), (name, a, b)


def test_a_tie_goes_to_even_and_what_is_below_the_normal_range_to_zero() -> None:
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 2.0**-126, 2.0**-127], dtype=torch.float64)
    assert round_to(values, 7).tolist() == [1.0, 1 + 2**-6, -1.0, 2.0**-126, 0.0]


@pytest.mark.parametrize("bad", [math.inf, math.nan, 2.0**128])
def test_a_result_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(SchemeError, match="not finite"):
        VectorFormat(10).round(torch.tensor([1.0, bad], dtype=torch.float64))


LEAST = 2.0**-126


@pytest.mark.parametrize(("maximum", "scale"), [(127.0, 1.0), (127.5, 2.0), (254.0, 2.0), (1.0, 2.0**-6), (0.0, LEAST), (1e-40, LEAST)])
def test_power_scale_is_the_smallest_that_holds_the_maximum(maximum: float, scale: float) -> None:
    assert float(power_scale(torch.tensor(maximum), 127)) == scale


def test_rows_units_have_a_floor() -> None:
    weight = torch.stack([torch.full((3,), 127.0), torch.full((3,), 1.0), torch.zeros(3)])
    assert row_units(weight).tolist() == [1.0, 1 / 16, 1 / 16]


class Block(nn.Module):
    """One of everything that the small U-Net has, on [N, 16, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv, self.layer = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1), nn.LayerNorm(16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 64), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(functional.silu(self.norm(x)))
        tokens = x.flatten(2).transpose(1, 2)
        y = self.layer(tokens)
        scores = torch.baddbmm(torch.empty(len(x), 16, 16), self.q(y), self.k(y).mT, beta=0, alpha=0.25)
        tokens = tokens + self.out(torch.bmm(scores.softmax(-1), self.v(y)))
        value, gate = self.up(tokens).chunk(2, -1)
        tokens = tokens + self.down(value * functional.gelu(gate))
        image = tokens.transpose(1, 2).reshape(x.shape)
        return functional.interpolate(image, scale_factor=2.0, mode="nearest")


def block() -> tuple[nn.Module, dict[str, nn.Parameter], Tensor, Tensor]:
    torch.manual_seed(0)
    model = get_peft_model(Block(), LoraConfig(r=4, lora_alpha=8, target_modules=["q", "k", "v", "out"]))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in trained.items():
            if "lora_B" in name:
                p.normal_(0, 0.1)
    return model, trained, torch.randn(3, 16, 4, 4), torch.randn(3, 16, 8, 8)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


@pytest.mark.parametrize("scheme", [StepScheme(), StepScheme(fraction_bits=10), StepScheme(storage="int16"), StepScheme(23, "vector")])
def test_a_step_is_close_to_torch_and_repeats(scheme: StepScheme) -> None:
    model, trained, x, target = block()
    plain = functional.mse_loss(model(x), target)
    plain.backward()
    wanted = {name: p.grad.clone() for name, p in trained.items()}
    attached = StepAttachment(model, scheme)
    found = []
    for _ in range(2):
        for p in trained.values():
            p.grad = None
        attached.step_begin(3)
        with attached.computing():
            loss = functional.mse_loss(model(x), target)
            loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in trained.items()}))
    assert found[0][0] == pytest.approx(plain.item(), rel=0.01)
    assert found[0][0] != plain.item()
    for name, gradient in found[0][1].items():
        assert cosine(gradient, wanted[name]) > 0.98, name
        assert_same_values(gradient, found[1][1][name], name)


def test_another_step_rounds_gradients_otherwise() -> None:
    model, trained, x, target = block()
    attached, found = StepAttachment(model, StepScheme()), []
    for step in (0, 1):
        for p in trained.values():
            p.grad = None
        attached.step_begin(step)
        with attached.computing():
            functional.mse_loss(model(x), target).backward()
        found.append(torch.cat([p.grad.flatten() for p in trained.values()]))
    assert not torch.equal(*found)


def test_a_product_is_exact_in_its_integers() -> None:
    """An INT8 matrix with units by row times another is their product, forward and, with the units along the reduction, backward."""
    torch.manual_seed(1)
    weight = torch.randint(-127, 128, (6, 8)).float() * torch.tensor([1.0, 0.5, 0.25, 1.0, 0.125, 2.0]).reshape(-1, 1)
    weight[:, 0] = 127.0 * torch.tensor([1.0, 0.5, 0.25, 1.0, 0.125, 2.0])
    x = torch.randint(-127, 128, (5, 8)).float()
    x[0, 0] = 127.0
    mode = StepMode(Operands(StepScheme(23, "vector"), [weight], []))
    mode.begin(0)
    with mode:
        y = x @ weight.T
    assert_same_values(y, x @ weight.T)
    grad = torch.randint(-100, 101, (5, 6)).float() / row_units(weight).float()
    mode.backward = True
    mode.operands.made(grad, True)
    with mode:
        dx = grad @ weight
    assert_same_values(dx, grad @ weight)


def test_a_convolution_reads_the_batch_in_two_words_and_everything_else_in_one() -> None:
    torch.manual_seed(3)
    first, second, x = torch.randn(8, 1, 3, 3), torch.randn(8, 8, 3, 3), torch.randn(2, 1, 6, 6)

    def error(words: int) -> list[float]:
        mode = StepMode(Operands(StepScheme(23, "vector", batch_words=words), [first, second], []))
        mode.begin(0)
        q = [
            torch.round(w / row_units(w).float().reshape(-1, 1, 1, 1)) * row_units(w).float().reshape(-1, 1, 1, 1) for w in (first, second)
        ]
        with mode:
            noised = x * 0.5 + x * 0.25
            y = functional.conv2d(noised, first)
            z = functional.conv2d(y, second)
        wanted = functional.conv2d(noised, q[0])
        return [float((y - wanted).norm() / wanted.norm()), float((z - functional.conv2d(y, q[1])).norm() / z.norm())]

    one, two = error(1), error(2)
    assert two[0] < 1e-4 < 2e-3 < one[0]
    assert one[1] > 2e-3
    assert two[1] > 2e-3


def test_an_operator_without_a_definition_is_named() -> None:
    mode = StepMode(Operands(StepScheme(), [], []))
    with pytest.raises(SchemeError, match=r"no operator aten\.tanh"), mode:
        torch.tanh(torch.ones(3))


@pytest.mark.parametrize(("bits", "error"), [(23, 1e-6), (16, 2e-4)])
def test_adamw_follows_torch(bits: int, error: float) -> None:
    torch.manual_seed(2)
    own, theirs = torch.randn(50), torch.randn(50)
    theirs.copy_(own)
    parameter = nn.Parameter(theirs)
    ours, stock = StepAdamW([own], StepScheme(optimizer_bits=bits), 1e-2), torch.optim.AdamW([parameter], lr=1e-2, weight_decay=0.0)
    for step in range(20):
        gradient = torch.randn(50, generator=torch.Generator().manual_seed(step))
        own.grad, parameter.grad = gradient.clone(), gradient.clone()
        ours.step()
        stock.step()
    assert torch.allclose(own, parameter, rtol=10 * error, atol=error)


def test_a_narrow_update_moves_on_average_where_it_is_stochastic() -> None:
    """At a learning rate below half a last place, rounding to nearest never moves; stochastic rounding moves by the mean."""
    found = {}
    for stochastic in (False, True):
        value = torch.full((4000,), 1.0)
        optimizer = StepAdamW([value], StepScheme(optimizer_bits=10, stochastic_update=stochastic), lr=1e-4)
        for _ in range(10):
            value.grad = torch.ones(4000)
            optimizer.step()
        found[stochastic] = float(value.double().mean())
    assert found[False] == 1.0
    assert found[True] == pytest.approx(1.0 - 10 * 1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction_bits": 6}, r"fraction_bits must be an integer in 7\.\.23, not 6"),
        ({"storage": "fp8"}, "storage must be one of vector, bf16, e6m9, int16, not 'fp8'"),
        ({"stochastic": 1}, "stochastic must be True or False, not 1"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_a_scheme_that_is_not_allowed_names_the_value(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        StepScheme(**fields)


def test_a_scheme_goes_through_json() -> None:
    scheme = StepScheme(fraction_bits=10, storage="bf16", seed=7)
    assert StepScheme.from_dict(scheme.to_dict()) == scheme
    with pytest.raises(SchemeError, match="no field 'bits'"):
        StepScheme.from_dict({"bits": 8})


def test_softmax_rows_are_integers_over_their_sum() -> None:
    q, total = programs.softmax(VectorFormat(16), torch.tensor([[0.0, -1.0, -100.0]]))
    assert q.tolist() == [[127.0, 47.0, 0.0]]
    assert total.tolist() == [[174.0]]


@pytest.mark.parametrize(("shape", "dims"), [((5120,), (0,)), ((2, 12, 1024), (1, 2)), ((4099, 2), (0,)), ((3, 64), (1,))], ids=str)
def test_a_long_sum_is_that_of_its_parts_sums(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    """The graph's sums are those of the eager mode, and within the parts' roundings of the exact one. 4,099 is prime."""
    v = VectorFormat(16)
    x = v.round(torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    bound = programs.largest(x)
    b = Builder()
    b.graph.set_output("loss", b.sum(b.node(Op.INPUT, Kind.WORD, shape, name="x"), dims, b.node(Op.INPUT, Kind.WORD, (), name="m")).name)
    values = {node.name: value for node, value in interpret(b.graph, {"x": x, "m": bound}, 0, 0)}
    got = programs.total(v, x, dims, bound)
    assert_same_values(values[b.graph.outputs["loss"]], got)
    parts = math.prod(shape[d] for d in dims) / 256
    assert float((got - x.double().sum(dims, keepdim=True)).abs().amax()) <= max(parts, 1) * 2.0**-16 * 256 * float(bound)
