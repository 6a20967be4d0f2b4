"""The host's numpy numbers against the torch reference and the definitions of `loralith.spec`, bit for bit."""

import math

import numpy as np
import pytest
import torch

from helpers.same_values import assert_same_values
from loralith.lora import quantize as host
from loralith.lora.layer_step import LayerNumerics
from loralith.spec import scales as spec
from loralith.spec.numerics import Requantization, hash32, hash_key
from loralith.spec.numerics import requantize as requantize_value
from loralith.spec.scheme import FQT, SchemeError
from loralith.verif import torch_quantize as reference
from loralith.verif.fqt import LoraLayer


def values(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == "wide":
        x *= np.exp2(rng.integers(-40, 40, shape)).astype(np.float32)
    elif kind == "ties":
        x = (rng.integers(-254, 255, shape) / 2).astype(np.float32)
        x.flat[0] = 127.0
    elif kind == "subnormal":
        x *= np.float32(1e-39)
    elif kind == "edge":
        x *= np.float32(127 * 2.0**-126)
    elif kind == "outlier":
        x.flat[0] = 3e38
    elif kind == "zero":
        x[:] = 0
    elif kind == "equal":
        x[:] = -0.3
    return x


KINDS = ["normal", "wide", "ties", "subnormal", "edge", "outlier", "zero", "equal"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("qmax", [127, 7])
def test_quantizers_agree(kind, stochastic, qmax):
    x = values(kind, (13, 7))
    stream = (3, 1000, 17 << 12 | 1) if stochastic else None
    q, scale, clipped = host.quantize(x, qmax, host.Stream(*stream) if stream else None)
    other = reference.quantize(torch.from_numpy(x), qmax, reference.Stream(*stream) if stream else None)
    assert_same_values(q, other[0].numpy(), of=x)
    assert (scale, clipped) == other[1:]
    maximum = float(np.abs(x).max())
    for i, value in enumerate(x.flat):
        h = hash32(hash_key(*stream), i) if stream else None
        expected = 0 if spec.vanishes(maximum, qmax) else spec.quantize_value(float(value), scale, qmax, h)
        assert q.flat[i] == expected, f"value {i}, {value}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("drop", [None, 0, 3, 200])
def test_power_of_two_quantizers_agree(kind, stochastic, drop):
    v = values(kind, (13, 7), seed=1)
    stream = (3, 1000, 7) if stochastic else None
    _, own, _ = host.quantize_power(v)
    exponent = None if drop is None else own + drop
    q, exponent, clipped = host.quantize_power(v, exponent, host.Stream(*stream) if stream else None)
    other = reference.quantize_power(torch.from_numpy(v), exponent, reference.Stream(*stream) if stream else None)
    assert_same_values(q, other[0].numpy(), of=v)
    assert (exponent, clipped) == other[1:]
    maximum = float(np.abs(v).max())
    for i, value in enumerate(v.flat):
        h = hash32(hash_key(*stream), i) if stream else None
        assert q.flat[i] == (0 if spec.vanishes(maximum) else spec.quantize_power_value(float(value), exponent, h=h))


def near_ties(largest: float) -> np.ndarray:
    """[254, 3] values whose quotient by the tensor's scale is a half, or a last bit to either side; division and a reciprocal part here."""
    scale = np.float32(largest) / np.float32(127)
    middle = (scale * (np.arange(-127, 127, dtype=np.float32) + np.float32(0.5))).astype(np.float32)
    x = np.stack([np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf))], axis=1)
    x[0, 0] = largest
    return x


@pytest.mark.parametrize("largest", [0.3, 0.7, 1.1, 3e-5])
def test_values_near_ties_round_by_the_quotient(largest):
    x = near_ties(largest)
    scale = spec.scale_of(float(x.max()))
    wanted = [[spec.quantize_value(float(value), scale) for value in row] for row in x]
    assert host.quantize(x)[0].tolist() == wanted
    assert reference.quantize(torch.from_numpy(x))[0].tolist() == wanted
    scheme = FQT(weight_scales="tensor")
    assert host.quantize_weight(x, scheme).q.tolist() == wanted
    assert reference.quantize_weight(torch.from_numpy(x), scheme).q.tolist() == wanted


def test_a_tensor_that_vanishes_is_zero_whatever_the_hash(monkeypatch):
    """Without the rule, a hash of zero would send the smallest negative number to -1."""
    x = np.full((2, 2), -1e-40, np.float32)
    monkeypatch.setattr(reference.Stream, "hashes", lambda self, shape: torch.zeros(shape, dtype=torch.int64))
    monkeypatch.setattr(host, "hash_range", lambda key, ramp, start, out, scratch: out.fill(0))
    for quantize in (host.quantize, host.quantize_power):
        assert not quantize(x, stream=host.Stream(0, 0, 0))[0].any()
    for quantize in (reference.quantize, reference.quantize_power):
        assert not quantize(torch.from_numpy(x), stream=reference.Stream(0, 0, 0))[0].any()
    assert host.quantize(x * np.float32(1e10), stream=host.Stream(0, 0, 0))[0].all()


def test_chunks_do_not_show():
    """More elements than are rounded at a time."""
    x = values("normal", (3, 40000))
    q, _, _ = host.quantize(x, stream=host.Stream(1, 2, 3))
    assert_same_values(q, reference.quantize(torch.from_numpy(x), stream=reference.Stream(1, 2, 3))[0].numpy(), of=x)


@pytest.mark.parametrize("qmax", [127, 7])
@pytest.mark.parametrize("stochastic", [False, True])
def test_the_reference_requantizes_as_the_spec_says(stochastic, qmax):
    rng = np.random.default_rng(0)
    acc = rng.integers(-(2**31), 2**31, 400) >> rng.integers(0, 31, 400)
    acc[:4] = (0, -1, 2**31 - 1, -(2**31))
    stream = reference.Stream(5, 6, 7)
    for shift in (0, 1, 2, 16, 31, 32, 33, 40, 47):
        for mantissa in (32768, 32769, 50001, 65535):
            scale = Requantization(mantissa, shift)
            q, largest, saturated = reference.requantize(torch.from_numpy(acc), scale, stream if stochastic else None, qmax)
            key = hash_key(5, 6, 7)
            wanted = [requantize_value(int(a), scale, hash32(key, i) if stochastic else None, qmax) for i, a in enumerate(acc)]
            assert q.tolist() == [w[0] for w in wanted]
            assert largest == max(w[1] for w in wanted)
            assert saturated == sum(w[2] for w in wanted)


SCHEMES = {
    "default": FQT(seed=11),
    "nearest": FQT(stochastic=()),
    "delayed": FQT(adapter_scales="delayed", history=2, seed=1 << 60),
    "device": FQT(adapter_scales="device", history=2, seed=12),
    "all stochastic": FQT(stochastic=("X", "dY", "H", "dH", "A", "B"), weight_scales="tensor"),
    "int4": FQT(weight_bits=4, weight_scale_range=2),
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    ("T", "I", "O", "r", "b_size"), [(1, 40, 24, 1, 0.1), (77, 40, 24, 3, 1e-6), (64, 24, 40, 16, 5.0), (5, 320, 17, 4, 0.0)]
)
def test_a_training_step_agrees(name, T, I, O, r, b_size):
    """Three steps of a layer: the host's operands, plans and results, with the reference's integers in the accelerator's place."""
    scheme, alpha = SCHEMES[name], 5.5
    w = values("normal", (O, I), 1) * np.linspace(0, 1, O, dtype=np.float32)[:, None]
    layer = LoraLayer(reference.quantize_weight(torch.from_numpy(w), scheme), alpha, scheme, layer=9)
    numbers = LayerNumerics(host.quantize_weight(w, scheme), alpha, scheme, layer=9)
    assert_same_values(numbers.weight.q, layer.weight.q.numpy())
    assert_same_values(numbers.weight.scale, layer.weight.scale.numpy())
    for step in range(3):
        x, dy = values("normal", (T, I), 10 + step), values("normal", (T, O), 20 + step) * np.float32(1e-5)
        a, b = values("normal", (r, I), 30 + step), values("normal", (O, r), 40 + step) * np.float32(b_size)

        measure = numbers.must_measure("H"), numbers.must_measure("dH")
        wanted = layer.forward(torch.from_numpy(x), torch.from_numpy(a), torch.from_numpy(b), step=step, call=2)
        back = layer.backward(wanted, torch.from_numpy(dy), torch.from_numpy(a))
        assert measure == (wanted.measured, back.measured)

        operands = numbers.forward_operands(x, a, b, step, call=2)
        for field in ("xq", "aq", "bq"):
            assert_same_values(getattr(operands, field), getattr(wanted, field).numpy(), field)
        assert (operands.sx, operands.sa, operands.b) == (wanted.sx, wanted.sa, wanted.b)
        assert operands.clipped == {key: wanted.saturated[key] for key in ("X", "A", "B")}
        plan = numbers.forward_plan(operands, wanted.h_max if measure[0] else None)
        numbers.record("H", wanted.h_max)
        assert (plan.h, plan.requantization, plan.chain) == (wanted.h, wanted.requantization, wanted.chain)
        assert_same_values(plan.b_chain, wanted.b_chain.numpy())
        assert_same_values(plan.y_scale, wanted.y_scale.numpy())
        assert_same_values(plan.y(wanted.y_acc.numpy()), wanted.y.numpy())

        operands = numbers.backward_operands(plan, dy)
        assert_same_values(operands.dyq, back.dyq.numpy())
        assert (operands.g, operands.clipped) == (back.g, back.saturated["dY"])
        plan = numbers.backward_plan(operands, back.dh_max if measure[1] else None)
        numbers.record("dH", back.dh_max)
        assert (plan.h_prime, plan.requantization, plan.chain) == (back.h_prime, back.requantization, back.chain)
        assert plan.a_chain is not None
        assert_same_values(plan.a_chain, back.a_chain.numpy())
        assert_same_values(plan.dx(back.dx_acc.numpy()), back.dx.numpy())
        assert_same_values(plan.db(back.db_acc.numpy()), back.db.numpy())
        assert_same_values(plan.da(back.da_acc.T.numpy()), back.da.numpy())
    assert numbers.state_dict() == layer.state_dict()
    numbers.load_state_dict(layer.state_dict())


def test_accumulator_maximum_comes_back_from_the_statistic():
    for maximum in (0, 1, 12345, 2**31):
        for mantissa in (32768, 40001, 65535):
            assert LayerNumerics.accumulator_maximum(maximum * mantissa, Requantization(mantissa, 20)) == maximum


def test_packing_pads_the_rank_with_zeros():
    assert [host.padded_rank(r) for r in (1, 2, 3, 4, 5, 12, 16, 128)] == [1, 2, 4, 4, 8, 16, 16, 128]
    with pytest.raises(SchemeError, match="the rank must be at least 1, not 0"):
        host.padded_rank(0)
    q = np.arange(1, 16, dtype=np.int8).reshape(5, 3)
    packed = host.pack_columns(q)
    assert packed.shape == (5, 4)
    assert_same_values(packed[:, :3], q)
    assert not packed[:, 3].any()
    assert packed.flags["C_CONTIGUOUS"]


def test_what_is_not_finite_or_does_not_fit_is_refused():
    numbers = LayerNumerics(host.quantize_weight(values("normal", (5, 8)), FQT()), 3, FQT())
    x, a, b = values("normal", (6, 8)), values("normal", (3, 8)), values("normal", (5, 3))
    bad = x.copy()
    bad[2, 1] = math.nan
    with pytest.raises(SchemeError, match=r"X must be finite, but its element \(2, 1\) is nan"):
        numbers.forward_operands(bad, a, b, 0)
    with pytest.raises(SchemeError, match=r"B must have the shape \(5, 3\), not \(3, 5\)"):
        numbers.forward_operands(x, a, b.T, 0)
    with pytest.raises(SchemeError, match="X must be float32 or float16, not float64"):
        numbers.forward_operands(x.astype(np.float64), a, b, 0)
    with pytest.raises(SchemeError, match=r"B / sw must be finite, but its element \(0, 0\) is inf"):
        numbers.forward_operands(x, a, np.full_like(b, 3e38), 0)
    with pytest.raises(SchemeError, match="the scale of H must be measured in this pass"):
        numbers.forward_plan(numbers.forward_operands(x, a, b, 0))
    with pytest.raises(SchemeError, match="alpha must be positive, not -1"):
        LayerNumerics(numbers.weight, -1, FQT())
