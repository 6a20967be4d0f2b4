"""The rounding hash: its vectors, and that it has no bias and no correlation that rounding could see.

All samples are fixed, so a test passes always or never; bounds are five standard deviations of the ideal distribution, more where many
statistics are looked at together.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from loralith.device.arithmetic import hash_array
from loralith.spec.numerics import HASH_VECTORS, hash32, hash_key

N = 1 << 16
INDEX = torch.arange(N, dtype=torch.int64)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side; torch's own threads would only contend."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sample(seed: int = 1, step: int = 0, tensor: int = 0, index: torch.Tensor = INDEX) -> torch.Tensor:
    return hash32(hash_key(seed, step, tensor), index)


def bits(x: torch.Tensor) -> torch.Tensor:
    """[..., 32] of 0 or 1."""
    return torch.stack([((x >> bit) & 1).to(torch.int8) for bit in range(32)], dim=-1)


@pytest.mark.parametrize(("seed", "step", "tensor", "index", "expected"), HASH_VECTORS)
def test_vectors_on_tensors(seed, step, tensor, index, expected):
    assert hash32(hash_key(seed, step, tensor), torch.tensor([index]))[0].item() == expected


@pytest.mark.parametrize(("seed", "step", "tensor", "index", "expected"), HASH_VECTORS)
def test_vectors_on_arrays(seed, step, tensor, index, expected):
    assert hash_array(hash_key(seed, step, tensor), np.array([index], np.uint32)).tolist() == [expected]


STREAMS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (1 << 40, 1000, 17 << 12 | 3)]


@pytest.mark.parametrize("stream", STREAMS)
def test_each_bit_is_unbiased(stream):
    ones = bits(sample(*stream)).sum(0).double()
    z = (ones - N / 2) / math.sqrt(N / 4)
    assert z.abs().max() < 5


@pytest.mark.parametrize("stream", STREAMS)
def test_values_are_uniform(stream):
    """Chi squared over 1024 bins of the top bits, which are those that rounding uses first."""
    counts = torch.bincount(sample(*stream) >> 22, minlength=1024).double()
    chi2 = ((counts - N / 1024) ** 2).sum() / (N / 1024)
    assert abs(chi2 - 1023) < 5 * math.sqrt(2 * 1023)


@pytest.mark.parametrize("lag", [1, 2, 4, 16, 77, 320, 4096])
def test_neighbouring_indices_are_independent(lag):
    x = bits(sample())
    agree = (x[lag:] == x[:-lag]).sum(0).double()
    n = N - lag
    z = (agree - n / 2) / math.sqrt(n / 4)
    assert z.abs().max() < 5


def test_index_bits_do_not_show_in_the_hash():
    """Every one of 16 index bits against every one of 32 output bits: 512 correlations."""
    x, i = bits(sample()).float() - 0.5, bits(INDEX)[:, :16].float() - 0.5
    correlation = 4 * (i.T @ x) / N
    assert correlation.abs().max() * math.sqrt(N) < 5.5


@pytest.mark.parametrize("other", [(1, 1, 0), (1, 0, 1), (2, 0, 0), (1, 0, 16), (1, 0, 4096), (1, 1 << 31, 0), ((1 << 32) + 1, 0, 0)])
def test_neighbouring_keys_give_independent_streams(other):
    a, b = bits(sample()).float() - 0.5, bits(sample(*other)).float() - 0.5
    correlation = 4 * (a.T @ b) / N  # all 32 x 32 pairs of bits; sums of quarters, exact in float32
    assert correlation.abs().max() * math.sqrt(N) < 5.5
    same = (sample() == sample(*other)).sum().item()
    assert same < 5


def test_streams_over_steps_at_one_index_are_unbiased():
    """The same element over 4096 steps: what a parameter that rounds once per step sees."""
    x = torch.tensor([hash32(hash_key(9, step, 3), 1234) for step in range(4096)])
    z = (bits(x).sum(0).double() - 2048) / 32
    assert z.abs().max() < 5
    assert abs(x.double().mean().item() / 2**32 - 0.5) < 5 / math.sqrt(12 * 4096)


def test_one_flipped_input_bit_flips_half_the_output():
    for flip in range(32):
        index = INDEX[: 1 << 14]
        changed = bits(sample(index=index) ^ sample(index=index ^ (1 << flip))).double().mean(0)
        assert (changed - 0.5).abs().max() < 0.05, f"index bit {flip}"


def test_hash_is_a_bijection_of_the_index():
    assert torch.unique(sample()).numel() == N


def test_the_pages_definition_is_the_hash(repo: Path) -> None:
    """The round as the page prints it, run as it stands there, and the key of its lanes and words."""
    page = (repo / "docs" / "numerics.md").read_text(encoding="utf-8")
    steps = [step.strip().removeprefix("x = ") for step in re.findall(r"^    (x = x \+ k;.*)$", page, re.M)[0].split(";")]
    lanes = [int(lane, 16) for lane in re.findall(r"L = (0x[0-9A-F]{8})", page)]

    def mix(x: int, k: int) -> int:
        for step in steps:
            x = eval(step, {"x": x, "k": k}) % 2**32
        return x

    def key_of(seed: int, step: int, tensor: int) -> list[int]:
        key = list(lanes)
        for i, lane in enumerate(lanes):
            for word in (seed % 2**32, seed >> 32, step, tensor):
                key[i] = mix(mix(key[i], word), lane)
        return key

    assert (len(steps), len(lanes)) == (7, 2)
    for seed, step, tensor, index, expected in HASH_VECTORS:
        key = key_of(seed, step, tensor)
        assert mix(mix(index, key[0]), key[1]) == expected
    printed = re.search(r"Seed 1, step 2, tensor 3 have the key \((\w+), (\w+)\), and index 4 has the hash (\w+)", page)
    key = key_of(1, 2, 3)
    assert [int(word, 16) for word in printed.groups()] == [*key, mix(mix(4, key[0]), key[1])]
