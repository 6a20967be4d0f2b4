"""Torch's integer products beside numpy's floating-point ones: the same integers, however operands lie in memory."""

import itertools

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

import loralith
from helpers.same_values import assert_same_values
from loralith.device import arithmetic
from loralith.device.arithmetic import exact_product, hash_array, hash_range
from loralith.lora import direct_attention
from loralith.mapping.integer_products import integer_product, use_integer_products
from loralith.mapping.kinds.attention_modules import exponentials, score_gradient

SIZES = [(1, 5, 1), (3, 1, 2), (4, 64, 1), (1, 40, 7), (33, 17, 5), (64, 320, 4), (5, 1111, 16)]


@pytest.fixture
def numpys():
    """`exact_product` as numpy computes it."""
    before = arithmetic._product
    arithmetic.use_product(None)
    yield
    arithmetic.use_product(before)


def laid_out(matrix, how):
    """The same values, row by row, column by column, as a part of wider rows, every second column of wider rows."""
    rows, cols = matrix.shape
    if how == "columns":
        return np.ascontiguousarray(matrix.T).T
    if how in ("part", "strided"):
        step = 1 if how == "part" else 2
        wide = np.full((rows, step * cols + 3), 99, np.int8)
        wide[:, : step * cols : step] = matrix
        return wide[:, : step * cols : step]
    return matrix


@pytest.mark.parametrize("size", SIZES)
def test_products_of_any_layout(size, numpys):
    M, K, N = size
    rng = np.random.default_rng(0)
    left, right = rng.integers(-128, 128, (M, K), dtype=np.int8), rng.integers(-128, 128, (K, N), dtype=np.int8)
    expected = exact_product(left, right)
    assert_same_values(expected, left.astype(np.int64) @ right.astype(np.int64))
    for one, two in itertools.product(("rows", "columns", "part", "strided"), repeat=2):
        assert_same_values(integer_product(laid_out(left, one), laid_out(right, two)), expected, (one, two))


def test_batches_the_ends_of_int8_and_nothing(numpys):
    left, right = np.full((2, 3, 9, 2100), -128, np.int8), np.full((2, 3, 2100, 8), -128, np.int8)
    left[..., 1], right[:, 1, ..., 2] = 127, 127
    assert_same_values(integer_product(left, right), exact_product(left, right))
    turned = integer_product(left.mT, right.mT[..., :9, :] if right.shape[-1] > 9 else np.full((2, 3, 9, 4), -127, np.int8))
    assert_same_values(turned, left.mT.astype(np.int64) @ np.full((2, 3, 9, 4), -127))
    assert integer_product(np.zeros((3, 0), np.int8), np.zeros((0, 2), np.int8)).tolist() == [[0, 0]] * 3


def test_where_they_are_used_devices_multiply_by_them(numpys, monkeypatch):
    monkeypatch.setattr(arithmetic, "_product", None)
    if use_integer_products():
        assert arithmetic._product is integer_product
    ones = np.ones((2, 2), np.int8)
    assert exact_product(ones, ones).tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("start", [0, 5, 2**32 - 3])
def test_hashes_of_a_range(start):
    key = (0x89ABCDEF, 0xFFFFFFFE)
    ramp = np.arange(7, dtype=np.uint32) * np.uint32(1025)
    out, scratch = np.empty(7, np.uint32), np.empty(7, np.uint32)
    hash_range(key, ramp, start, out, scratch)
    assert_same_values(out, hash_array(key, np.arange(start, start + 7, dtype=np.uint64).astype(np.uint32)))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, 3)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Small(nn.Module):
    """A convolution whose window is odd in every way, attention with LoRA, a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.end = nn.Linear(5, 5), nn.Linear(6, 3)
        self.window = nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.attend = Attends()

    def forward(self, x):
        return self.end(self.attend(self.window(self.first(x)).flatten(2).mT))


def two_steps(name):
    """All results and gradients of two steps on a device, the weights of the convolution changed in between; what quantization lost."""
    torch.manual_seed(0)
    model = Small().requires_grad_(False)
    lora = LoraConfig(r=2, target_modules=["first", "to_q", "to_k", "to_v"], init_lora_weights=False)
    inject_adapter_in_model(lora, model)
    found = []
    with loralith.open_device(name, config="tiny") as device:
        attachment = loralith.attach(model, device, modules="all")
        for _ in range(2):
            y = model(torch.randn(2, 3, 7, 5))
            y.square().sum().backward()
            found += [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
            model.window.weight.mul_(1.5).add_(0.1)
        lost = {key: repr(loss) for key, loss in attachment.health.losses.items()}
    return found, lost


@pytest.mark.parametrize("part", [direct_attention.PART, 30])
def test_a_whole_model_has_the_reference_devices_bits(part, monkeypatch):
    """30 scores at a time are three of its rows."""
    monkeypatch.setattr(direct_attention, "PART", part)
    (direct, lost), (listed, losses) = two_steps("direct"), two_steps("reference")
    assert lost == losses
    assert any("P" in str(key) for key in losses)
    assert len(direct) == len(listed) == 2 * (1 + 8)
    assert all(torch.equal(one, two) for one, two in zip(direct, listed, strict=True))
    assert all(tensor.any() for tensor in direct)


def test_attention_in_place_is_attention():
    """What passes without an observer do to their own tensors."""
    s, dp, p = torch.randn(2, 5, 7), torch.randn(2, 5, 7), torch.rand(2, 5, 7)
    mask = torch.randn(1, 1, 7)
    kept = exponentials(s, 0.3, mask), score_gradient(p, dp, 0.3)
    assert_same_values(exponentials(s, 0.3, mask, s), kept[0])
    assert_same_values(score_gradient(p, dp, 0.3, dp), kept[1])
    assert_same_values(s, kept[0])
    assert_same_values(dp, kept[1])
