"""The reference's quantizers and products beside torchao's, on random and on captured tensors. `make test-outside` runs it.

Both divide a row or a tensor by largest magnitude / qmax and round half to even. torchao multiplies by the reciprocal of the scale, which
is rounded itself: where a quotient lies within a few units in the last place of a tie it may go to the other side, and nowhere else. Ours
keep a row's scale of W above that of the largest row over `FQT.weight_scale_range`; torchao has no such bound.
"""

import pytest
import torch

pytest.importorskip("torchao", reason="torchao is not installed: make test-outside")

from torchao.kernel.intmm import safe_int_mm  # pyright: ignore[reportMissingImports]
from torchao.quantization.quant_primitives import (  # pyright: ignore[reportMissingImports]
    MappingType,
    choose_qparams_affine,
    quantize_affine,
)

from helpers.same_values import assert_same_values
from loralith.spec.scheme import FQT
from loralith.verif.captured import read_captured
from loralith.verif.torch_quantize import matmul, quantize, quantize_weight

LAYERS = read_captured()
TIE = 3 * 127 * 2.0**-24
"""How far from a tie three roundings of relative error 2**-24, of scale, reciprocal and product, carry a quotient up to 127."""


def others(x, block, qmax):
    """torchao's symmetric quantization: q and scales."""
    scale, zero = choose_qparams_affine(x, MappingType.SYMMETRIC, block, torch.int8, -qmax, qmax, eps=2.0**-149, scale_dtype=torch.float32)
    assert not zero.any()
    return quantize_affine(x, block, scale, zero, torch.int8, -qmax, qmax), scale.reshape(-1)


def differing(x, q, scale, theirs):
    """How many elements differ, each of which must lie at a tie, one apart."""
    differ = q != theirs
    quotients = (x.double() / scale.double())[differ].abs()
    assert ((quotients % 1 - 0.5).abs() <= TIE).all()
    assert ((q.int() - theirs.int())[differ].abs() == 1).all()
    return int(differ.sum())


def random_tensors():
    generator = torch.Generator().manual_seed(11)
    for rows, cols in ((1, 1), (3, 5), (64, 320), (77, 768), (320, 1280)):
        x = torch.randn(rows, cols, generator=generator)
        yield x
        x[0, 0] *= 1000  # an outlier
        yield x * 1e-6


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_by_rows(bits):
    qmax, count, different = 127 if bits == 8 else 7, 0, 0
    for w in (*random_tensors(), *(layer.inputs["w"] for layer in LAYERS)):
        ours = quantize_weight(w, FQT(weight_bits=bits))
        theirs, scale = others(w, (1, w.shape[1]), qmax)
        small = scale < scale.max() / FQT().weight_scale_range
        assert_same_values(torch.where(small, scale.max() / FQT().weight_scale_range, scale), ours.scale)
        different += differing(w[~small], ours.q[~small], ours.scale[~small, None], theirs[~small])
        count += w.numel()
    assert different < 1e-3 * count


def test_activations_and_gradients_by_tensors():
    count, different = 0, 0
    for x in (*random_tensors(), *(layer.inputs[name] for layer in LAYERS for name in ("x", "dy", "a", "b"))):
        if not x.any():
            continue  # ours has the scale 1 there, torchao's the least it knows; both give zeros
        q, scale, _ = quantize(x)
        theirs, (other,) = others(x, tuple(x.shape), 127)
        assert other.item() == scale
        different += differing(x, q, torch.tensor(scale), theirs)
        count += x.numel()
    assert different < 1e-3 * count


def test_products_of_a_step():
    """Y's base product, H, dX's base product and dB of every captured layer."""
    for layer in LAYERS:
        x, dy, a = (quantize(layer.inputs[name])[0] for name in ("x", "dy", "a"))
        w = quantize_weight(layer.inputs["w"], FQT()).q
        for left, right in ((x, w.mT), (x, a.mT), (dy, w), (dy.mT, x)):
            theirs = safe_int_mm(left.contiguous(), right.contiguous())
            assert_same_values(theirs.long(), matmul(left, right))


def test_ties_go_to_even():
    """With the scale 1 every quotient is exact, in both."""
    x = torch.cat([torch.arange(-126, 127) + 0.5, torch.tensor([127.0])])[None]
    theirs, (scale,) = others(x, tuple(x.shape), 127)
    assert scale == 1
    assert_same_values(quantize(x)[0], theirs, of=x)
    assert_same_values(quantize_weight(x, FQT()).q, theirs, of=x)
