"""The rotation of channels: its definition as a matrix, its blocks, and what is refused."""

import numpy as np
import pytest
import torch

from loralith.device import open_device
from loralith.lora.frozen import FrozenLinear
from loralith.lora.quantize import quantize_weight
from loralith.lora.rotation import rotate
from loralith.lora.two_words import WideLinear
from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, SchemeError
from loralith.verif.torch_quantize import rotate_blocks, rotate_channel_blocks

H4 = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])


def matrix(block: int) -> np.ndarray:
    """H_b / sqrt(b) by Kronecker products."""
    found = np.eye(1)
    while len(found) < block:
        found = np.kron(H4, found)
    return found / np.sqrt(block)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[-1]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("block", [4, 16, 64, 256])
def test_a_rotation_is_the_product_with_the_blocks(block):
    x = normal(5, 3 * block)
    r = np.kron(np.eye(3), matrix(block))
    assert np.array_equal(r, r.T)
    assert np.allclose(r @ r, np.eye(3 * block), atol=1e-12)
    assert len(set(r.sum(axis=1).round(9))) == 1, "rows of a regular matrix have one sum"
    for y in (rotate(x, block), rotate_blocks(torch.from_numpy(x), block).numpy()):
        assert np.abs(y - x.astype(np.float64) @ r).max() < 4e-6
    assert np.abs(rotate(rotate(x, block), block) - x).max() < 4e-6


@pytest.mark.parametrize("block", [4, 16, 64])
@pytest.mark.parametrize("inner", [(), (3,), (7, 5)])
def test_channels_of_an_image_are_rotated_place_by_place(block, inner):
    """More elements than are rotated at a time, too: 200 images."""
    x = normal(200, 2 * block, *inner)
    assert np.array_equal(rotate(x, block, 1), rotate_channel_blocks(torch.from_numpy(x), block).numpy())


@pytest.mark.parametrize(
    ("rotation", "length", "block"),
    [(0, 256, 1), (256, 320, 64), (256, 640, 64), (256, 768, 256), (256, 1280, 256), (64, 1280, 64), (256, 12, 4), (256, 6, 1), (4, 16, 4)],
)
def test_blocks_are_the_largest_power_of_four_that_divides(rotation, length, block):
    assert rotation_block(rotation, length) == block


def test_what_cannot_be_rotated_is_named():
    with pytest.raises(SchemeError, match="a rotation of 64 needs a reduction whose length 4 divides, not 21"):
        rotation_block(64, 21, required=True)
    large = np.full((2, 4), 3e38, np.float32)
    with pytest.raises(SchemeError, match="X must be finite after its rotation; its largest magnitude before is 3"):
        rotate(large, 4, name="X")
    with pytest.raises(SchemeError, match="W must be finite after its rotation"):
        quantize_weight(large, FQT(rotation=4))
    with open_device("direct", "tiny") as device:
        weight = quantize_weight(normal(3, 8), FQT(rotation=4))
        with pytest.raises(SchemeError, match="layers whose X has two words have no rotation: rotation must be 0, not 4"):
            WideLinear(device, weight, FQT(rotation=4), 0)


def test_outliers_lose_less():
    """One channel of 50 among 256: less than a quarter of the error, as a block spreads it over all of its channels."""
    x, w = normal(64, 256), normal(32, 256)
    x[:, 7] *= 50
    w[:, 7] /= 50
    exact = x.astype(np.float64) @ w.T
    errors = []
    with open_device("direct", "tiny") as device:
        for scheme in (FQT(), FQT(rotation=256)):
            layer = FrozenLinear(device, quantize_weight(w, scheme), scheme, 0)
            errors.append(np.linalg.norm(layer.forward(x, 0).y - exact) / np.linalg.norm(exact))
    assert errors[1] < errors[0] / 4
