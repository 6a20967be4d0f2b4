"""The definitions of `loralith.spec.scheme`: what a scheme may say, and the decisions on single numbers."""

import math
import struct
from dataclasses import replace

import pytest

from loralith.spec.device_shift import device_shift, expected_maximum
from loralith.spec.numerics import ACC_MAX, Q8_MAX, SHIFT_MAX, Requantization, chain_shift_limit, least_shift
from loralith.spec.scales import (
    adapter_requantization,
    chain,
    float32,
    h_exponent,
    power_exponent,
    predicted_maximum,
    quantize_power_value,
    quantize_value,
    remember_maximum,
    scale_of,
    vanishes,
    weight_scales,
)
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words, tensor_id


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rotation", 8, "rotation must be one of 0, 4, 16, 64, 256 (powers of four; 0 for none), not 8"),
        ("rotation", True, "rotation must be an integer, not True"),
        ("weight_bits", 5, "weight_bits must be 4 or 8, not 5"),
        ("weight_bits", True, "weight_bits must be an integer, not True"),
        ("activation_bits", 5, "activation_bits must be 4 or 8, not 5"),
        ("gradient_bits", 16, "gradient_bits must be 4 or 8, not 16"),
        ("weight_scales", "row", "weight_scales must be 'tensor', 'channel' or 'block', not 'row'"),
        ("weight_scale_range", 12, "weight_scale_range must be a power of two in 1..65536, not 12"),
        ("weight_block", 24, "weight_block must be a power of two in 2..256, not 24"),
        ("power_of_two", 1, "power_of_two must be True or False, not 1"),
        ("stochastic", ("dY", "dW"), "stochastic may name X, dY, H, dH, Y, dX, A, B, not 'dW'"),
        ("stochastic", "dY", "stochastic must be a tuple of names, not 'dY'"),
        ("adapter_scales", "static", "adapter_scales must be 'measured', 'device' or 'delayed', not 'static'"),
        ("history", 0, "history must be in 1..1024, not 0"),
        ("headroom", 0.5, "headroom must be in 1..16, not 0.5"),
        ("headroom", math.nan, "headroom must be in 1..16, not nan"),
        ("seed", 1 << 64, f"seed must be in 0..2**64-1, not {1 << 64}"),
    ],
)
def test_a_bad_scheme_names_its_value(field, value, message):
    with pytest.raises(SchemeError) as error:
        replace(FQT(), **{field: value})
    assert str(error.value) == message


def test_a_scheme_survives_json():
    scheme = FQT(weight_bits=4, stochastic=("dH", "X"), adapter_scales="delayed", headroom=4, seed=1 << 63)
    assert FQT.from_dict(scheme.to_dict()) == scheme
    assert scheme.stochastic == ("X", "dH")  # one order, so that equal schemes compare equal
    with pytest.raises(SchemeError, match="no field 'rounding'"):
        FQT.from_dict({"rounding": "nearest"})


def test_only_the_named_tensors_round_stochastically():
    scheme = FQT(stochastic=("dY", "A"))
    assert [role for role in Role if scheme.is_stochastic(role)] == [Role.DY, Role.A, Role.A_CHAIN, Role.DY_ROWS, Role.DS]


def test_tensor_ids_do_not_collide():
    ids = {tensor_id(layer, role, call) for layer in (0, 1, (1 << 20) - 1) for role in Role for call in (0, 1, 255)}
    assert len(ids) == 3 * len(Role) * 3
    assert max(ids) < 1 << 32
    with pytest.raises(SchemeError, match=r"call must be in 0\.\.255, not 256"):
        tensor_id(0, Role.X, 256)


def test_every_use_of_a_layer_has_random_numbers_of_its_own():
    assert hash_words(7, 3, 5, Role.DY, 255) == (7, 3, tensor_id(5, Role.DY, 255))
    assert hash_words(7, 3, 5, Role.DY, 256) == (7 + (1 << 32), 3, tensor_id(5, Role.DY, 0))
    assert hash_words((1 << 64) - 1, 0, 0, Role.X, 517) == ((1 << 33) - 1, 0, tensor_id(0, Role.X, 5))
    words = {hash_words(1, 0, layer, role, call) for layer in (0, 1) for role in Role for call in range(1000)}
    assert len(words) == 2 * len(Role) * 1000
    with pytest.raises(SchemeError, match=r"call must be in 0\.\.2\*\*32-1, not -1"):
        hash_words(0, 0, 0, Role.X, -1)


def test_float32_rounds_half_to_even_and_keeps_subnormals():
    assert float32(1 + 2**-24) == 1.0
    assert float32(1 + 3 * 2**-24) == 1 + 2**-22
    assert float32(2**-149) == 2**-149
    for bad in (math.inf, math.nan, 3.5e38):
        with pytest.raises(SchemeError, match="not a finite FP32"):
            float32(bad)


def test_scale_of_zero_subnormal_and_refused_maxima():
    assert scale_of(0.0) == 1.0
    smallest = 127 * 2.0**-126
    assert scale_of(smallest) == 2.0**-126
    below = struct.unpack("<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", smallest))[0] - 64))[0]
    assert vanishes(below)
    assert scale_of(below) == 1.0
    assert scale_of(1.0) == float32(1 / 127)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(SchemeError):
            scale_of(bad)


def test_weight_rows_near_zero_take_a_floor():
    scheme = FQT(weight_scale_range=4)
    top = float32(127.0 / 127)
    assert weight_scales([127.0, 0.0, 64.0, 1.0], scheme) == [top, top / 4, float32(64 / 127), top / 4]
    assert weight_scales([0.0, 0.0], scheme) == [1.0, 1.0]
    assert weight_scales([1.0, 7.0], FQT(weight_bits=4, weight_scales="tensor")) == [1.0, 1.0]


def test_quantize_value_rounds_as_written():
    assert [quantize_value(x, 1.0) for x in (0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -200.0)] == [0, 2, 2, 0, -2, 127, -127]
    assert [quantize_value(0.25, 1.0, h=h) for h in (0, 0xBFFF_FFFF, 0xC000_0000, 0xFFFF_FFFF)] == [0, 0, 1, 1]
    assert [quantize_value(-0.25, 1.0, h=h) for h in (0, 0x3FFF_FFFF, 0x4000_0000)] == [-1, -1, 0]
    assert quantize_value(-1.0, 1.0, h=0xFFFF_FFFF) == -1  # an integer never moves
    assert quantize_power_value(3.0, 1) == 2
    assert quantize_power_value(5.0, 1) == 2


@pytest.mark.parametrize("maximum", [1.0, 126.999, 127.0, 127.0001, 128.0, 254.0, 254.5, 1e-30, 3e38, 2.0**-149])
def test_power_exponent_is_the_smallest_that_holds_the_maximum(maximum):
    e = power_exponent(maximum)
    assert maximum <= math.ldexp(127, e)
    assert maximum > math.ldexp(127, e - 1)


def test_a_ratio_that_no_pair_stands_for_is_refused():
    assert Requantization.from_ratio(2.0**-32) == Requantization(32768, 47)
    assert Requantization.from_ratio(65535.4) == Requantization(65535, 0)
    for ratio, bound in (
        (math.nextafter(2.0**-32, 0) * (1 - 2**-17), "at least"),
        (1e-12, "at least"),
        (65536.0, "below"),
        (5e-324, "at least"),
        (0.0, "a positive finite number,"),
        (-1.0, "a positive finite number,"),
        (math.inf, "a positive finite number,"),
        (math.nan, "a positive finite number,"),
    ):
        with pytest.raises(ValueError, match=rf"ratio must be {bound}.* not {ratio!r}"):
            Requantization.from_ratio(ratio)


def test_h_exponent_always_gives_a_ratio_that_the_hardware_holds():
    for maximum in (0, 1, 5, 1 << 20, ACC_MAX, 16.0 * ACC_MAX):
        for scaling, sa in ((1.0, 1.0), (0.5, 2.0**-126), (1e6, 1e30), (2 / 3, 0.000123)):
            c = h_exponent(scaling, sa, maximum)
            ratio = adapter_requantization(scaling, sa, c)
            assert ratio.shift < SHIFT_MAX
            assert ratio.ratio * max(maximum, 1) <= 127 * (1 + 2**-16)


def test_delayed_scales_measure_until_something_was_seen():
    scheme = FQT(adapter_scales="delayed", history=3, headroom=2.0)
    history: list[int] = []
    assert predicted_maximum(history, scheme) is None
    history = remember_maximum(history, 0, scheme)
    assert predicted_maximum(history, scheme) is None
    history = remember_maximum(history, 10, scheme)
    assert predicted_maximum(history, scheme) == 20.0
    for maximum in (4, 3, 2):
        history = remember_maximum(history, maximum, scheme)
    assert history == [4, 3, 2]
    assert predicted_maximum(history, scheme) == 8.0
    assert predicted_maximum(history, FQT()) is None


def test_chain_is_exact_where_it_fits_and_never_overflows():
    for k_base in (1, 40, 320, 1280, 10240):
        for k_adapter in (1, 4, 16, 128, 1000):
            for e in range(-40, 3):
                plan = chain(k_base, k_adapter, e)
                first, second = (k_base, k_adapter) if plan.base_first else (k_adapter, k_base)
                assert (first * 2**plan.shift + second) * 2**14 <= ACC_MAX
                assert 0 <= plan.shift <= 16
                # Scales of both segments after the shift, in units of the base segment's, agree with the output's.
                base = -plan.shift if plan.base_first else 0
                adapter = e + plan.drop - (0 if plan.base_first else plan.shift)
                assert base == adapter == plan.exponent
                if plan.drop:  # no coarser than it must be
                    assert plan.shift == 16 or (k_base * 2 ** (plan.shift + 1) + k_adapter) * 2**14 > ACC_MAX


def test_chain_refuses_what_no_accumulator_holds():
    with pytest.raises(SchemeError, match="split it into parts of at most 131071"):
        chain(131071, 4, 0)
    with pytest.raises(SchemeError, match="leave room for 2\\*\\*14"):
        chain(1280, 4, 15)


@pytest.mark.parametrize("maximum", [0, 1, 127, 128, 254, 255, 127 << 20, (127 << 20) + 1, (1 << 47) - 1])
def test_the_least_shift_is_the_first_that_fits(maximum):
    first = next(t for t in range(64) if maximum <= Q8_MAX * 2**t)
    assert least_shift(maximum, 0, 63) == first
    assert least_shift(maximum, first + 2, 60) == first + 2
    assert least_shift(maximum, 0, max(first - 1, 0)) == max(first - 1, 0)


@pytest.mark.parametrize("k", [16, 320, 1280, 10240])
@pytest.mark.parametrize("b", [None, -30, -12, -6, -1, 3])
@pytest.mark.parametrize("expected", [1, 700, 90_000, 5_000_000])
def test_all_that_the_device_may_decide_fits_the_accumulators(k, b, expected):
    """Each t in the bounds gives a chain without overflow, of the scales that `chain` would have for the same exponent."""
    r, s, sa = 4, 2.0, 3.1e-3
    bounds = device_shift(s, sa, expected, k, r, b)
    assert 0 <= bounds.low <= bounds.high <= SHIFT_MAX
    for t in range(bounds.low, bounds.high + 1):
        found = bounds.chain(t)
        first, second = (k, r) if found.base_first else (r, k)
        assert 0 <= found.shift <= chain_shift_limit(first, second)
        assert bounds.requantization(t) == adapter_requantization(s, sa, bounds.exponent(t))
        if b is not None:
            e = bounds.exponent(t) + b + bounds.drop
            assert (found.shift if not found.base_first else -found.shift) == e
            assert found.exponent == chain(k, r, e).exponent
    assert bounds.chain(bounds.extreme).shift == bounds.shift


@pytest.mark.parametrize("b", [-9, -6, 2])
def test_the_device_decides_as_the_host_would_where_the_bounds_are_wide_enough(b):
    s, sa, k = 1.0, 1.7e-3, 320
    bounds = device_shift(s, sa, 60_000, k, 4, b)
    for a in (15_000, 30_000, 60_000, 100_000, 200_000):
        t = least_shift(a * bounds.mantissa, bounds.low, bounds.high)
        assert bounds.exponent(t) == h_exponent(s, sa, a)
    assert bounds.exponent(least_shift(0, bounds.low, bounds.high)) == bounds.low - bounds.unit


@pytest.mark.parametrize("sa", [1.7e-3, 5e-6])
def test_an_adapter_of_zeros_leaves_h_the_scale_that_suits_it(sa):
    bounds = device_shift(1.0, sa, 60_000, 320, 4, None)
    t = least_shift(60_000 * bounds.mantissa)
    assert bounds.low + 2 <= t <= bounds.high - 2


def test_what_the_device_expects():
    assert expected_maximum([], 400) == expected_maximum([0, 0], 400) == 81_920
    assert expected_maximum([5, 70, 6], 400) == 70


def test_the_device_refuses_an_adapter_that_has_outgrown_its_weight():
    with pytest.raises(SchemeError, match=r"the adapter's term is 2\*\*\d+ coarser than the base weight's"):
        device_shift(1.0, 1e-3, 1_000_000, 320, 4, 30)
    with pytest.raises(SchemeError, match="a chain of 140000 and 4 products may overflow 32 bits"):
        device_shift(1.0, 1e-3, 1_000_000, 140_000, 4, -5)
    with pytest.raises(SchemeError, match="adapter_scales 'device' needs activation_bits and gradient_bits 8"):
        FQT(adapter_scales="device", gradient_bits=4)
