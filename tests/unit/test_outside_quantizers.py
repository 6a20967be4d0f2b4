"""The reference's quantizers and products beside torch's own, which others wrote: on random tensors and on those of real training."""

import pytest
import torch
from torch import Tensor

from helpers.same_values import assert_same_values
from loralith.spec.numerics import Q4_MAX, Q8_MAX
from loralith.spec.scheme import FQT
from loralith.verif.captured import read_captured
from loralith.verif.torch_quantize import matmul, quantize, quantize_weight

LAYERS = read_captured()


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(64, 48, generator=generator) * size for size in (1e-6, 1.0, 300.0)]
    return random + [layer.inputs[name] for layer in LAYERS[::7] for name in ("x", "a", "dy", "w")]


def assert_equal_but_for_ties(q: Tensor, other: Tensor, y: Tensor) -> None:
    """torch multiplies by the scale's reciprocal where docs/numerics.md divides: values within last bits of a tie may differ, by one."""
    differ = q != other
    assert (q - other).abs().max() <= 1
    assert ((y[differ].abs() % 1.0) - 0.5).abs().lt(1e-4).all()
    assert differ.float().mean() < 1e-3


@pytest.mark.parametrize("qmax", [Q8_MAX, Q4_MAX])
def test_quantizing_to_nearest_is_torchs(qmax):
    for x in tensors():
        q, scale, _ = quantize(x, qmax)
        torchs = torch.fake_quantize_per_tensor_affine(x, scale, 0, -qmax, qmax) / scale
        assert_equal_but_for_ties(q.float(), torchs.round(), x / scale)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantizing_rows_of_w_is_torchs(bits):
    scheme = FQT(weight_bits=bits)
    for layer in LAYERS:
        w = layer.inputs["w"]
        weight = quantize_weight(w, scheme)
        points = torch.zeros(len(w), dtype=torch.int32)
        torchs = torch.fake_quantize_per_channel_affine(w, weight.scale, points, 0, -scheme.weight_qmax, scheme.weight_qmax)
        units = weight.scale[:, None]
        assert_equal_but_for_ties(weight.q.float(), (torchs / units).round(), w / units)


def test_products_are_torchs_integer_products():
    for layer in LAYERS[::5]:
        x, w = quantize(layer.inputs["x"])[0], quantize_weight(layer.inputs["w"], FQT()).q
        assert_same_values(matmul(x, w.T), x.long() @ w.T.long())
        many = x.repeat(2, 1)  # torch's INT8 product wants more than 16 rows
        assert_same_values(matmul(many, w.T), torch._int_mm(many, w.T.contiguous()).long())
