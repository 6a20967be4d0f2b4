"""The vector unit's numbers: the definitions against exact arithmetic, and torch's whole tensors against the definitions."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from loralith.spec.scheme import SchemeError
from loralith.spec.vector import numbers
from loralith.spec.vector.numbers import ONE, RangeError, from_float, to_float
from loralith.verif.vector.format import VectorFormat

V = VectorFormat(numbers.FRACTION_BITS)


def words(count: int, low: int = -40, high: int = 40, seed: int = 0) -> list[int]:
    """Random words, their exponents in low..high, among them zeros, powers of two and significands of ones."""
    random = np.random.default_rng(seed)
    fraction = random.choice([0, 1, 0x8000, 0xFFFF, -1], count, p=[0.1, 0.1, 0.1, 0.1, 0.6])
    fraction = np.where(fraction < 0, random.integers(0, 1 << 16, count), fraction)
    exponent = random.integers(low, high + 1, count) + numbers.BIAS
    found = random.integers(0, 2, count) << 24 | exponent << 16 | fraction
    return [int(word) for word in np.where(random.random(count) < 0.02, 0, found)]


def exact(word: int) -> Fraction:
    return Fraction(to_float(word))


def nearest(value: Fraction) -> float:
    """``value`` rounded half to even to 16 fraction bits, zero below 2^-126, on exact numbers."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(value)))
    exponent += (abs(value) >= Fraction(2) ** (exponent + 1)) - (abs(value) < Fraction(2) ** exponent)
    unit = Fraction(2) ** (exponent - 16)
    rounded = round(value / unit) * unit
    return float(rounded) if abs(rounded) >= Fraction(2) ** -126 else 0.0


def test_sums_and_products_are_the_exact_ones_rounded_once() -> None:
    for a, b in zip(words(3000), words(3000, seed=1), strict=True):
        assert to_float(numbers.add(a, b)) == nearest(exact(a) + exact(b)), (a, b)
        assert to_float(numbers.multiply(a, b)) == nearest(exact(a) * exact(b)), (a, b)


def test_products_below_the_normal_range_become_zero_and_above_it_are_refused() -> None:
    assert numbers.multiply(from_float(2.0**-100), from_float(2.0**-27)) == 0
    assert to_float(numbers.multiply(from_float(2.0**-100), from_float(-(2.0**-26)))) == -(2.0**-126)
    with pytest.raises(RangeError, match=r"2\^128"):
        numbers.multiply(from_float(2.0**100), from_float(2.0**28))


@pytest.mark.parametrize(
    ("function", "of", "low", "high", "ulps"),
    [
        (numbers.exp2, lambda x: 2.0**x, -20, 6, 0.62),
        (numbers.reciprocal, lambda x: 1.0 / x, -40, 40, 0.75),
        (numbers.rsqrt, lambda x: abs(x) ** -0.5, -40, 40, 0.87),
    ],
)
def test_functions_are_as_close_as_the_page_says(
    function: Callable[[int], int], of: Callable[[float], float], low: int, high: int, ulps: float
) -> None:
    worst = 0.0
    for word in words(4000, low, high):
        if word == 0 and function is not numbers.exp2:
            continue
        word = word & (1 << 24) - 1 if function is numbers.rsqrt else word
        value = of(to_float(word))
        if 2.0**-125 < abs(value) < 2.0**126:
            unit = 2.0 ** (math.frexp(value)[1] - 1 - 16)
            worst = max(worst, abs(to_float(function(word)) - value) / unit)
    assert 0.5 < worst <= ulps


def test_phi_is_as_close_as_the_page_says() -> None:
    worst = max(abs(to_float(numbers.phi(w)) - 0.5 * math.erfc(-to_float(w) / math.sqrt(2))) for w in words(4000, -12, 3))
    assert 2.0**-16 < worst < 2.0**-15.6


@pytest.mark.parametrize("power", range(-60, 61))
def test_powers_of_two_are_exact(power: int) -> None:
    word = from_float(2.0**power)
    assert to_float(numbers.reciprocal(word)) == 2.0**-power
    assert to_float(numbers.exp2(from_float(float(power)))) == 2.0**power
    if power % 2 == 0:
        assert to_float(numbers.rsqrt(word)) == 2.0 ** -(power // 2)


@pytest.mark.parametrize(("function", "word"), [(numbers.reciprocal, 0), (numbers.rsqrt, 0), (numbers.rsqrt, from_float(-4.0))])
def test_arguments_outside_of_a_functions_domain_are_refused(function: Callable[[int], int], word: int) -> None:
    with pytest.raises(RangeError):
        function(word)


def test_exp2_saturates_above_and_vanishes_below() -> None:
    assert to_float(numbers.exp2(from_float(126.5))) == 2.0**126
    assert to_float(numbers.exp2(from_float(2.0**100))) == 2.0**126
    assert numbers.exp2(from_float(-127.0)) == 0
    assert numbers.exp2(from_float(-(2.0**100))) == 0
    assert numbers.exp2(0) == ONE


@pytest.mark.parametrize(("maximum", "k"), [(127.0, 0), (127.5, 1), (254.0, 1), (1.0, -6), (0.0, -126)])
def test_the_scale_is_the_smallest_that_holds_the_maximum(maximum: float, k: int) -> None:
    assert numbers.quantize_shift(from_float(maximum)) == k


@pytest.mark.parametrize(
    ("value", "random", "q"),
    [
        (2.5, None, 2),
        (3.5, None, 4),
        (-2.5, None, -2),
        (127.0, None, 127),
        (0.25, 191, 0),
        (0.25, 192, 1),
        (-0.25, 63, -1),
        (-0.25, 64, 0),
        (2.0**-9, 255, 1),
        (2.0**-10, 255, 0),
    ],
)
def test_quantization(value: float, random: int | None, q: int) -> None:
    assert numbers.quantize(from_float(value), 0, random) == (q, False)


def test_what_does_not_fit_an_integer_is_clipped_and_counted() -> None:
    assert numbers.quantize(from_float(128.0), 0) == (127, True)
    assert numbers.quantize(from_float(-(2.0**90)), 0) == (-127, True)


def test_stochastic_rounding_has_no_bias() -> None:
    for value in (0.3, -0.3, 5.75, -17.1):
        word = from_float(value)
        mean = sum(numbers.quantize(word, 0, byte)[0] for byte in range(256)) / 256
        assert abs(mean - value) < 2.0**-8, value


def test_a_term_is_cut_towards_minus_infinity_and_one_above_its_bound_refused() -> None:
    assert numbers.sum_term(from_float(-1.5), 1) == -3 << 30
    assert numbers.sum_term(from_float(-(2.0**-33)), 0) == -1
    assert numbers.sum_term(from_float(2.0**-33), 0) == 0
    with pytest.raises(RangeError, match="2\\^0"):
        numbers.sum_term(ONE, 0)


def test_bfloat16_is_torchs() -> None:
    values = words(2000)
    got = [to_float(numbers.round_brain(word)) for word in values]
    assert got == torch.tensor([to_float(word) for word in values]).bfloat16().double().tolist()


@pytest.mark.parametrize(
    ("definition", "whole", "low", "high"),
    [
        (numbers.exp2, V.exp2, -30, 8),
        (numbers.reciprocal, V.reciprocal, -126, 126),
        (numbers.rsqrt, V.rsqrt, -126, 127),
        (numbers.phi, V.phi, -24, 5),
    ],
)
def test_torch_functions_are_the_definitions(
    definition: Callable[[int], int], whole: Callable[[Tensor], Tensor], low: int, high: int
) -> None:
    values = words(6000, low, high)
    if definition in (numbers.reciprocal, numbers.rsqrt):
        values = [word for word in values if word]
    if definition is numbers.rsqrt:
        values = [word & (1 << 24) - 1 for word in values]
    got = whole(torch.tensor([to_float(word) for word in values], dtype=torch.float32)).tolist()
    for word, result in zip(values, got, strict=True):
        assert result == to_float(definition(word)), (word, to_float(word))


@pytest.mark.parametrize(
    ("definition", "whole", "exponents"),
    [
        (numbers.exp2, V.exp2, (-1, -6)),
        (numbers.reciprocal, V.reciprocal, (0,)),
        (numbers.rsqrt, V.rsqrt, (0, 1)),
        (numbers.phi, V.phi, (0, -6)),
    ],
)
def test_torch_functions_are_the_definitions_for_every_significand(
    definition: Callable[[int], int], whole: Callable[[Tensor], Tensor], exponents: tuple[int, ...]
) -> None:
    for exponent in exponents:
        values = [exponent + numbers.BIAS << 16 | fraction for fraction in range(1 << 16)]
        got = whole(torch.tensor([to_float(word) for word in values], dtype=torch.float32)).tolist()
        wrong = [(word, result) for word, result in zip(values, got, strict=True) if result != to_float(definition(word))]
        assert wrong == [], exponent


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_torch_refuses_what_the_device_refuses(bad: float) -> None:
    x = torch.tensor([1.0, bad])
    with pytest.raises(SchemeError, match="root"):
        V.rsqrt(x)
    if bad == 0:
        with pytest.raises(SchemeError, match="zero"):
            V.reciprocal(x)
