"""Products of two chained segments: two words of an operand, and corrections of low rank, on both devices."""

import numpy as np
import pytest

import loralith
from helpers.same_values import assert_same_values
from loralith.compiler.schedules.chain import compile_chain, plan_chain
from loralith.device.device_errors import DeviceError
from loralith.device.products import Resident, chained, wide_product
from loralith.spec.config import load_config


def operands(seed, M, N, K0, K):
    random = np.random.default_rng(seed)
    shapes = (M, K0), (N, K0), (M, K), (N, K)
    return [random.integers(-128, 128, shape).astype(np.int8) for shape in shapes]


SHAPES = [(1, 1, 1, 1), (3, 5, 2, 9), (17, 33, 3, 70), (40, 24, 4, 640), (130, 20, 1, 65)]


@pytest.mark.parametrize(
    ("name", "config"), [("reference", "tiny"), ("reference", "base"), ("direct", "tiny"), ("direct", "base"), ("verilator", "tiny")]
)
def test_a_correction_and_two_words_are_exact(name, config):
    with loralith.open_device(name, config=config) as device:
        for seed, (M, N, K0, K) in enumerate(SHAPES):
            left0, right0, left1, right1 = operands(seed, M, N, K0, K)
            places = [Resident.place(device, right[None]) for right in (right0, right1)]
            want = 256 * (left0.astype(np.int64) @ right0.T) + left1.astype(np.int64) @ right1.T
            assert_same_values(chained(device, (left0, places[0]), (left1, places[1]), 8), want.astype(np.int32))
            high, low = left1, np.roll(left1, 1, axis=0)
            want = (256 * high.astype(np.int64) + low) @ right1.T.astype(np.int64)
            for apart in (False, True):
                got = wide_product(device, high, low, places[1], apart=apart)
                assert_same_values(got, want if apart else want.astype(np.int32), (M, N, K, apart))


def test_a_sum_that_int32_does_not_hold_leaves_in_parts():
    with loralith.open_device("reference", config="base") as device:
        left, right = np.full((2, 4000), 127, np.int8), np.full((1, 3, 4000), 127, np.int8)
        got = wide_product(device, left, left, Resident.place(device, right), apart=True)
    assert (got == 4000 * 127 * 127 * 257).all()
    assert got[0, 0] > 2**31


def test_words_read_the_shared_operand_once():
    config = load_config("base")
    lists = [compile_chain(plan_chain(64, 64, 256, 256, 8, config, words=words), config) for words in (True,)]
    loads = [int(operand) for operand in lists[0].operand]
    assert loads.count(2) == 1, "one load of the right operand"
    assert loads.count(0) == loads.count(1) == 1


def test_operands_that_do_not_fit_are_named():
    with loralith.open_device("reference", config="tiny") as device:
        left0, right0, left1, right1 = operands(0, 3, 5, 2, 9)
        places = [Resident.place(device, right[None]) for right in (right0, right1)]
        with pytest.raises(DeviceError, match=r"chained operands do not fit: \(3, 2\) x \(1, 5, 2\) and \(2, 9\) x \(1, 5, 9\)"):
            chained(device, (left0, places[0]), (left1[:2], places[1]), 8)
