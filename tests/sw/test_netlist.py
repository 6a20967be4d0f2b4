"""The last rung of the ladder: what synthesis made of the hardware does what the hardware does."""

import importlib.util

import numpy as np
import pytest

from loralith import synth
from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.device.verilator import VerilatorDevice
from loralith.spec.config import Config

SMALL = Config("netlist", 2, 2, 8, 2, 1024, 1024, 1024, 512, scale_bytes=256, stat_slots=8)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(importlib.util.find_spec("pyosys") is None, reason="pyosys is not installed: pip install 'loralith[fpga]'"),
]


@pytest.fixture(scope="module")
def devices():
    """The RTL and the netlist, behind the same clock and memory."""
    source = synth.netlist_source(synth.Target(synth.load_board("ulx3s-85f"), SMALL))
    with VerilatorDevice(SMALL) as rtl, VerilatorDevice(SMALL, source=source) as netlist:
        yield rtl, netlist


@pytest.mark.parametrize(("M", "K", "N"), [(1, 1, 1), (2, 8, 2), (7, 13, 5), (12, 40, 9)])
def test_a_product_of_the_netlist_is_exact_and_takes_the_same_cycles(M: int, K: int, N: int, devices) -> None:
    rng = np.random.default_rng(M * K * N)
    left, right = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((M, K), (K, N)))
    results = [device.matmul(left, right) for device in devices]
    assert (results[1] == left.astype(np.int32) @ right.astype(np.int32)).all()
    rtl, netlist = (device.counters() for device in devices)
    assert rtl == netlist


def test_a_training_step_of_the_netlist_is_the_rtl_s_bit_for_bit(devices) -> None:
    """Folds, chains, requantization, stochastic rounding's path, statistics and transposed loads, in one list."""
    linear = Linear("layer", 9, 12, 10, 2)
    memories = []
    for device in devices:
        base = device.alloc(1 << 17)
        base += -base % 4096
        tensors, end = place(linear, base, SMALL)
        rng = np.random.default_rng(5)
        device.write(base, rng.integers(-127, 128, end - base, dtype=np.int8))
        result = device.run(compile_step([(linear, tensors)], SMALL))
        memories.append((base, device.read(base, end - base), result.counters))
    assert memories[0][0] == memories[1][0]
    assert (memories[0][1] == memories[1][1]).all()
    assert memories[0][2] == memories[1][2]
    assert memories[0][2].macs == linear.macs
