"""The torch reference of one layer: its integers against plain products, its floats against float64, bounded by quantization steps."""

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor

from helpers.fqt_cases import CASES, FP32, MANTISSA, SCHEMES, Case
from helpers.same_values import assert_same_values
from loralith.spec.numerics import ACC_MAX, Q4_MAX, Q8_MAX
from loralith.spec.scales import h_scale
from loralith.spec.scheme import FQT, Role, SchemeError
from loralith.verif.fqt import Forward, LoraLayer
from loralith.verif.torch_quantize import quantize_weight

CASES += [Case(b_size=size, seed=7) for size in (1e-6, 1e-3, 3.0)] + [Case(T=5, I=320, O=300, r=5, b_size=1e-3, seed=8)]


def plain(left: Tensor, right: Tensor) -> Tensor:
    """The product of two integer matrices by Python's own arithmetic on int64, one element at a time."""
    return (left.long()[:, :, None] * right.long()[None, :, :]).sum(1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"T{case.T}-I{case.I}-O{case.O}-r{case.r}-b{case.b_size}")
def test_integers_are_plain_products(case):
    forward, backward = case.run(layer := case.layer(FQT()))
    assert_same_values(forward.h_acc.long(), plain(forward.xq, forward.aq.T))
    base, adapter = plain(forward.xq, layer.weight.q.T), plain(forward.hq, forward.b_chain.T)
    n = 2**forward.chain.shift
    assert_same_values(forward.y_acc.long(), base * n + adapter if forward.chain.base_first else adapter * n + base)
    assert_same_values(backward.dh_acc.long(), plain(backward.dyq, forward.bq))
    assert_same_values(backward.db_acc, plain(backward.dyq.T, forward.hq))
    assert_same_values(backward.da_acc, plain(forward.xq.T, backward.dhq).T)
    base, adapter = plain(backward.dyq, layer.weight.q), plain(backward.dhq, backward.a_chain)
    n = 2**backward.chain.shift
    assert_same_values(backward.dx_acc.long(), base * n + adapter if backward.chain.base_first else adapter * n + base)


def weight_steps(layer: LoraLayer) -> Tensor:
    """Size of a step of each element of quantized W, [O, I], from one element of its square on its own."""
    O, I = layer.weight.q.shape
    sw = layer.weight.scale.double()[:, None].expand(O, I)
    if layer.weight.exponents is None:
        return sw
    block, exponents = layer.weight.block, layer.weight.exponents.tolist()
    powers = [[2.0 ** exponents[o // block][i // block] for i in range(I)] for o in range(O)]
    return sw * torch.tensor(powers, dtype=torch.float64)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"T{case.T}-I{case.I}-O{case.O}-r{case.r}-b{case.b_size}")
def test_errors_stay_within_the_quantization_steps(case, scheme):
    """Interval arithmetic: |pq - PQ| <= |p - P| |q| + |P| |q - Q| per product, each input wrong by half a step, or one if stochastic."""
    layer = case.layer(scheme)
    f, g = case.run(layer)
    x, w, a, b, dy = (t.double() for t in (case.x, case.w, case.a, case.b, case.dy))
    s, sw = case.alpha / case.r, layer.weight.scale.double()
    assert not any(f.saturated[name] for name in ("X", "A", "B", "H") if not scheme.is_stochastic(Role[name]))

    def step(role: Role) -> float:
        return 1.0 if scheme.is_stochastic(role) else 0.5

    def bound(p: Tensor, dp: Tensor | float, q: Tensor, dq: Tensor | float) -> Tensor:
        """Largest error of p @ q where the operands used were wrong by dp and dq."""
        dp, dq = torch.as_tensor(dp) + torch.zeros_like(p), torch.as_tensor(dq) + torch.zeros_like(q)
        return dp @ (q.abs() + dq) + p.abs() @ dq

    ex, ew, ea = step(Role.X) * f.sx, 0.5 * weight_steps(layer), step(Role.A) * f.sa
    eb = step(Role.B) * 2.0**f.b * sw[:, None]
    eb_chain = step(Role.B_CHAIN) * 2.0 ** (f.b + f.chain.drop) * sw[:, None]
    edy = step(Role.DY) * g.g / sw
    ea_chain = step(Role.A_CHAIN) * 2.0**g.chain.drop * f.sa

    h = x @ a.T
    eh = bound(x, ex, a.T, ea) + step(Role.H) * h_scale(f.sx, s, f.h) + h.abs() * MANTISSA
    y = x @ w.T + s * h @ b.T
    ey = bound(x, ex, w.T, ew.T) + s * bound(h, eh, b.T, eb_chain.T) + y.abs() * FP32
    assert ((f.y.double() - y).abs() <= ey * (1 + FP32)).all()

    dh = s * dy @ b
    edh = s * bound(dy, edy, b, eb) + step(Role.DH) * 2.0**g.h_prime * g.g / f.sa + dh.abs() * MANTISSA
    db = s * dy.T @ h
    edb = s * bound(dy.T, (torch.zeros_like(dy) + edy).T, h, eh) + db.abs() * FP32
    assert ((g.db.double() - db).abs() <= edb * (1 + FP32)).all()
    da = dh.T @ x
    eda = bound(dh.T, edh.T, x, ex) + da.abs() * FP32
    assert ((g.da.double() - da).abs() <= eda * (1 + FP32)).all()
    dx = dy @ w + dh @ a
    edx = bound(dy, edy, w, ew) + bound(dh, edh, a, ea_chain) + dx.abs() * FP32
    assert ((g.dx.double() - dx).abs() <= edx * (1 + FP32)).all()


def test_four_bits_use_their_range_and_stay_in_it():
    scheme = SCHEMES["int4"]
    for case in CASES:
        layer = case.layer(scheme)
        f, g = case.run(layer)
        for name, q in (("X", f.xq), ("A", f.aq), ("W", layer.weight.q), ("dY", g.dyq)):
            assert q.abs().max() == Q4_MAX, name
        for name, q in (("B", f.bq), ("H", f.hq), ("dH", g.dhq)):  # their scales are powers of two
            assert Q4_MAX // 2 <= q.abs().max() <= Q4_MAX, name


def test_power_of_two_scales_are_the_smallest_that_hold_the_tensor():
    case = Case(seed=12)
    layer = case.layer(FQT(power_of_two=True))
    f, g = case.run(layer)
    for scale, largest in ((f.sx, case.x.abs().max()), (f.sa, case.a.abs().max()), (g.g, (case.dy * layer.weight.scale).abs().max())):
        assert math.frexp(scale)[0] == 0.5
        assert scale / 2 < largest / Q8_MAX <= scale
    rows = case.w.abs().amax(1)
    assert all(math.frexp(scale)[0] == 0.5 for scale in layer.weight.scale.tolist())
    assert (rows <= Q8_MAX * layer.weight.scale).all()
    assert (rows > Q8_MAX * layer.weight.scale / 2)[rows > rows.max() / 8].all()


def test_squares_of_w_have_exponents_of_their_own():
    """Each value is unit * 2**e * q with the e of its square, to half a step; quiet squares are finer, and none finer than the range."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(20, 24, generator=generator)
    w[:8, 8:16] *= 0.1
    w[16:] = 0
    scheme = FQT(weight_scales="block", weight_block=8, weight_scale_range=16)
    weight = quantize_weight(w, scheme)
    assert weight.exponents is not None
    assert weight.exponents.shape == (3, 3)
    assert weight.exponents.max() == scheme.weight_extra_bits == 4
    assert weight.exponents[0, 1] < weight.exponents[0, 0]
    assert weight.exponents[2].tolist() == [0, 0, 0]
    for o in range(20):
        for i in range(24):
            step = weight.scale[o].item() * 2.0 ** weight.exponents[o // 8, i // 8].item()
            assert abs(w[o, i].item() - step * weight.q[o, i].item()) <= step * (0.5 + 1e-4)
            assert weight.integers()[o, i] == weight.q[o, i].long() * 2 ** weight.exponents[o // 8, i // 8]
    assert weight.q[:8, 8:16].abs().max() > Q8_MAX // 2


def test_errors_are_those_of_independent_rounding():
    """The size of every error is what rounding noise of variance step**2 / 12 in each quantized tensor makes, no more and no less."""
    case = Case(T=256, I=320, O=320, r=8, b_size=0.01, seed=1)
    layer = case.layer(FQT(stochastic=()))
    f, g = case.run(layer)
    x, w, a, b, dy = (t.double() for t in (case.x, case.w, case.a, case.b, case.dy))
    s, sw = case.alpha / case.r, layer.weight.scale.double()

    def noise(step: Tensor | float, like: Tensor) -> Tensor:
        return (torch.as_tensor(step) ** 2 / 12 + torch.zeros_like(like)).double()

    def product(p: Tensor, dp: Tensor, q: Tensor, dq: Tensor) -> Tensor:
        """Variance of p @ q."""
        return dp @ q**2 + p**2 @ dq

    dx_, dw, da_ = noise(f.sx, x), noise(sw[:, None], w), noise(f.sa, a)
    db_, db_chain = noise(2.0**f.b * sw[:, None], b), noise(2.0 ** (f.b + f.chain.drop) * sw[:, None], b)
    ddy, da_chain = noise(g.g / sw, dy), noise(2.0**g.chain.drop * f.sa, a)
    h, dh = x @ a.T, s * dy @ b
    vh = product(x, dx_, a.T, da_.T) + noise(h_scale(f.sx, s, f.h), h)
    vdh = s**2 * product(dy, ddy, b, db_) + noise(2.0**g.h_prime * g.g / f.sa, dh)
    for name, got, wanted, variance in (
        ("Y", f.y, x @ w.T + s * h @ b.T, product(x, dx_, w.T, dw.T) + s**2 * product(h, vh, b.T, db_chain.T)),
        ("dX", g.dx, dy @ w + dh @ a, product(dy, ddy, w, dw) + product(dh, vdh, a, da_chain)),
        ("dB", g.db, s * dy.T @ h, s**2 * product(dy.T, ddy.T, h, vh)),
        ("dA", g.da, dh.T @ x, product(dh.T, vdh.T, x, dx_)),
    ):
        measured = ((got.double() - wanted).norm() / variance.sum().sqrt()).item()
        assert 0.85 < measured < 1.15, f"{name}: {measured} times the predicted error"


@pytest.mark.parametrize("role", ["dY", "dH"])
def test_stochastic_rounding_is_unbiased(role):
    """The mean over steps of the gradients approaches the unrounded value, as 1 / sqrt(steps)."""
    case = Case(T=8, I=16, O=12, r=3, seed=2)
    layer = case.layer(FQT(stochastic=(role,)))
    forward = layer.forward(case.x, case.a, case.b)
    steps = 400
    total = torch.zeros(8, 12 if role == "dY" else 3, dtype=torch.float64)
    for step in range(steps):
        backward = layer.backward(dataclasses.replace(forward, step=step), case.dy, case.a)
        total += backward.dyq if role == "dY" else backward.dhq
    if role == "dY":
        exact = (case.dy * layer.weight.scale / backward.g).double()
    else:
        exact = backward.dh_acc.double() * backward.requantization.ratio
    inside = exact.abs() < Q8_MAX - 1  # at the end of the range the clip takes part
    assert ((total / steps - exact)[inside].abs() < 5 * 0.5 / math.sqrt(steps)).all()


def test_bits_depend_on_seed_step_layer_and_call_alone():
    case = Case()
    first = case.run(case.layer(FQT(seed=1)))[1].dyq
    assert_same_values(first, case.run(case.layer(FQT(seed=1)))[1].dyq)
    assert not torch.equal(first, case.run(case.layer(FQT(seed=2)))[1].dyq)
    assert not torch.equal(first, case.run(case.layer(FQT(seed=1)), step=6)[1].dyq)
    assert not torch.equal(first, case.run(dataclasses.replace(case.layer(FQT(seed=1)), layer=4))[1].dyq)
    layer = case.layer(FQT(seed=1))
    assert not torch.equal(first, layer.backward(layer.forward(case.x, case.a, case.b, step=5, call=1), case.dy, case.a).dyq)


def test_measured_exponents_use_the_range_and_do_not_saturate():
    for case in CASES:
        forward, backward = case.run(case.layer(FQT(stochastic=())))
        assert forward.measured
        assert backward.measured
        assert 63 <= forward.hq.abs().max() <= Q8_MAX
        assert 63 <= backward.dhq.abs().max() <= Q8_MAX
        assert forward.saturated["H"] == backward.saturated["dH"] == 0


def test_training_starts_from_b_zero():
    """PEFT's first B is zero: dH and its history are zero, and the first step with B of another value measures."""
    case = Case(seed=3)
    layer = case.layer(FQT(adapter_scales="delayed"))
    zero = torch.zeros_like(case.b)
    for step in range(3):
        forward = layer.forward(case.x, case.a, zero, step=step)
        backward = layer.backward(forward, case.dy, case.a)
        assert forward.measured is (step == 0)
        assert backward.measured
        assert backward.dh_max == 0
        assert not backward.dhq.any()
        assert backward.db.any()
    assert layer.history["dH"] == [0, 0, 0]
    forward = layer.forward(case.x, case.a, case.b, step=3)
    backward = layer.backward(forward, case.dy, case.a)
    assert backward.measured
    assert backward.dhq.any()
    forward = layer.forward(case.x, case.a, case.b, step=4)
    backward = layer.backward(forward, case.dy, case.a)
    assert not forward.measured
    assert not backward.measured
    assert backward.saturated["dH"] == 0


@pytest.mark.parametrize("bits", [8, 4])
def test_delayed_exponents_recover_from_a_jump(bits):
    case = Case(seed=4)
    scheme = FQT(adapter_scales="delayed", headroom=1.0, stochastic=(), activation_bits=bits, gradient_bits=bits)
    layer = case.layer(scheme)
    for step in range(2):
        case.run(layer, step)
    x = case.a[0].sign().expand_as(case.x)  # agrees with A's first row in every sign: sums far past what was seen
    jump = layer.forward(x, case.a, case.b, step=2)
    assert jump.saturated["H"] > 0
    assert jump.hq.abs().max() == scheme.activation_qmax
    jump_back = layer.backward(jump, case.b[:, 0].sign().expand_as(case.dy), case.a)  # the same for dH, with B's first column
    assert jump_back.saturated["dH"] > 0
    assert jump_back.dhq.abs().max() == scheme.gradient_qmax
    assert layer.history["H"][-1] == jump.h_max > layer.history["H"][0]
    assert layer.forward(x, case.a, case.b, step=3).saturated["H"] == 0


def test_state_continues_bit_for_bit():
    case = Case(seed=5)
    scheme = FQT(adapter_scales="delayed")
    layer = case.layer(scheme)
    case.run(layer, 0)
    again = case.layer(scheme)
    again.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    for step in (1, 2):
        one, two = case.run(layer, step), case.run(again, step)
        assert_same_values(one[0].y_acc, two[0].y_acc)
        assert_same_values(one[1].da_acc, two[1].da_acc)
    with pytest.raises(SchemeError, match="version 1"):
        again.load_state_dict({"H": [], "dH": []})


def test_evaluation_leaves_the_history_alone():
    case = Case()
    layer = case.layer(FQT(adapter_scales="delayed"))
    layer.forward(case.x, case.a, case.b, record=False)
    assert layer.history == {"H": [], "dH": []}


def test_a_small_adapter_takes_a_coarser_copy_for_the_chain():
    case = Case(T=9, I=320, O=16, b_size=1e-5, seed=6)
    forward, backward = case.run(case.layer(FQT()))
    assert forward.chain.drop > 0
    assert forward.chain.shift == 8  # (320 * 2**8 + 4) * 2**14 is the last below 2**31
    assert forward.b_chain.abs().max() < forward.bq.abs().max()
    assert_same_values(forward.b_chain, torch.round(case.b / layer_step(forward, case)).to(torch.int8))
    assert backward.chain.base_first


def layer_step(forward: Forward, case: Case) -> Tensor:
    """Scale of the chain's copy of B, [O, 1]."""
    scales = quantize_weight(case.w, FQT()).scale
    return (scales * 2.0 ** (forward.b + forward.chain.drop))[:, None]


def test_a_large_adapter_goes_first():
    case = Case(b_size=30.0)
    forward, backward = case.run(case.layer(FQT()))
    assert not forward.chain.base_first
    assert not backward.chain.base_first
    assert forward.chain.shift > 0
    with pytest.raises(SchemeError, match="outgrown the base weight"):
        case.layer(FQT()).forward(case.x, case.a, case.b * 1e6)


def test_the_accumulator_holds_the_worst_case():
    """All operands at +-127, the longest chain that fits: no overflow, exactly."""
    I, r = 1280, 4
    layer = LoraLayer(quantize_weight(torch.ones(2, I), FQT()), r, FQT())
    forward = layer.forward(torch.ones(1, I), torch.ones(r, I), torch.full((2, r), 2.0**-9))
    assert forward.y_acc.max() <= ACC_MAX
    y = I + r * I * 2.0**-9
    assert forward.y[0].tolist() == pytest.approx([y, y], rel=1e-2)
