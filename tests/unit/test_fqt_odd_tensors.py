"""The torch reference on tensors at the edge: zeros, single values, what is not finite, shapes and types that do not fit."""

import math

import pytest
import torch

from helpers.fqt_cases import SCHEMES, Case
from loralith.spec.scales import power_exponent
from loralith.spec.scheme import FQT, SchemeError
from loralith.verif.fqt import LoraLayer
from loralith.verif.torch_quantize import quantize_weight

ODD = {
    "zero": torch.zeros(6, 8),
    "one huge outlier": torch.cat([torch.full((1, 8), 1e-3), torch.tensor([[3e15] + [1e-3] * 7]), torch.zeros(4, 8)]),
    "subnormal": torch.full((6, 8), 1e-40),
    "just above vanishing": torch.full((6, 8), 127 * 2.0**-126),
    "all equal": torch.full((6, 8), -2.5),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_odd_tensors_have_defined_results(name, scheme):
    x, qmax = ODD[name], scheme.activation_qmax
    case = Case(T=6, I=8, O=5, r=3)
    layer = case.layer(scheme)
    forward = layer.forward(x, case.a, case.b)
    backward = layer.backward(forward, ODD[name][:, :5], case.a)
    if name in ("zero", "subnormal"):
        assert forward.sx == 1.0
        assert not forward.xq.any()
        assert not forward.y_acc.any()
        assert backward.g == 1.0
        assert not backward.dyq.any()
        assert not backward.dx_acc.any()
    elif name == "one huge outlier":
        assert qmax / 2 < forward.xq[1, 0] <= qmax
        spread = 4 if scheme.rotation else 1  # I = 8 is rotated in blocks of 4, each of whose channels gets a part
        assert forward.xq.long().abs().sum() <= spread * qmax + 16  # the rest vanishes, but for a stochastic 1 here and there
    else:
        assert forward.xq.unique().numel() == 1
        assert qmax / 2 < forward.xq[0, 0] * x[0, 0].sign() <= qmax
        assert scheme.power_of_two or forward.xq[0, 0].abs() == qmax
    for value in (forward.y, backward.dx, backward.da, backward.db):
        assert torch.isfinite(value).all()


def test_zero_adapters_and_weights():
    case = Case(T=6, I=8, O=5, r=3)
    layer = LoraLayer(quantize_weight(torch.zeros(5, 8), FQT()), 3, FQT())
    assert layer.weight.scale.tolist() == [1.0] * 5
    forward = layer.forward(case.x, torch.zeros(3, 8), case.b)
    assert not forward.y_acc.any()
    backward = layer.backward(forward, case.dy, torch.zeros(3, 8))
    assert not backward.dx_acc.any()
    assert not backward.db.any()
    assert backward.da.any()


def test_a_row_of_zeros_in_w_costs_the_others_nothing():
    case = Case(seed=9)
    case.w[3] = 0
    layer = case.layer(FQT())
    assert layer.weight.scale.max() / layer.weight.scale.min() <= 16
    forward, backward = case.run(layer)
    assert not layer.weight.q[3].any()
    assert power_exponent(float((case.b.abs() / layer.weight.scale[:, None]).max())) == forward.b
    wanted = (case.alpha / case.r) * case.dy.T @ (case.x @ case.a.T)
    assert (backward.db - wanted).norm() / wanted.norm() < 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["X", "A", "B", "dY"])
def test_values_that_are_not_finite_are_refused_with_their_place(name, bad):
    case = Case(T=6, I=8, O=5, r=3)
    layer = case.layer(FQT())
    target = {"X": case.x, "A": case.a, "B": case.b, "dY": case.dy}[name]
    target[2, 1] = bad
    with pytest.raises(SchemeError, match=rf"{name} must be finite, but its element \(2, 1\) is {bad}"):
        case.run(layer)


def test_shapes_and_types_are_checked():
    case = Case(T=6, I=8, O=5, r=3)
    layer = case.layer(FQT())
    for x, a, b, message in (
        (case.x[:, :7], case.a, case.b, r"X must have the shape \(6, 8\), not \(6, 7\)"),
        (case.x, case.a[:, :7], case.b, r"A must have the shape \(3, 8\), not \(3, 7\)"),
        (case.x, case.a, case.b.T, r"B must have the shape \(5, 3\), not \(3, 5\)"),
        (case.x.double(), case.a, case.b, r"X must be float32, float16 or bfloat16, not torch.float64"),
        (case.x[:0], case.a, case.b, r"X must not be empty; its shape is \(0, 8\)"),
    ):
        with pytest.raises(SchemeError, match=message):
            layer.forward(x, a, b)
    with pytest.raises(SchemeError, match=r"dY must have the shape \(6, 5\), not \(5, 5\)"):
        layer.backward(layer.forward(case.x, case.a, case.b), case.dy[:5], case.a)
    with pytest.raises(SchemeError, match="alpha must be positive, not 0"):
        LoraLayer(layer.weight, 0, FQT())
