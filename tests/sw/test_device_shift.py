"""Shifts that a device sets from a measured maximum, at the edges where one more bit is needed."""

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.schedules.emit import Emitter, Exponent, Int8, Segment
from loralith.compiler.storage.layout import row_major
from loralith.compiler.storage.regions import Region, rows_needed
from loralith.device import open_device
from loralith.device.device_errors import DeviceFault
from loralith.spec.commands import Command, Opcode, OutMode
from loralith.spec.numerics import Requantization
from loralith.spec.status import Check

K = 8


@pytest.fixture(scope="module", params=["reference", "verilator"])
def device(request):
    with open_device(request.param, config="tiny") as device:
        yield device


def run(device, acc, mantissa, low, high, chain=None):
    """A product whose only result is ``acc``, measured and then made again with the device's shift; ``chain`` (second sum, shift, up)."""
    config, emitter = device.config, Emitter(device.config)
    with device.arena():

        def place(memory, values, base):
            rows, stride = rows_needed(memory, 1, K, config)
            region = Region(memory, base, rows, stride)
            layout = row_major(1, K, config).at(device.alloc(64))
            device.write(layout.address, layout.pack(values))
            emitter.load(layout, region, transpose=True)
            return region

        def split(total):
            """K INT8 values with this sum."""
            values = np.array([total // K + (i < total % K) for i in range(K)])
            assert (np.abs(values) < 128).all()
            return values.astype(np.int8)[None]

        left = place("left", np.ones((1, K), np.int8), 0)
        segments = (Segment(left, place("right", split(acc), 0), K),)
        emitter.compute(1, 1, segments, int8=Int8(Requantization(mantissa, 0)), stat_slot=3, stat_clear=True)
        out = Region("out", 0, *rows_needed("out", 1, 4, config))
        shift, up = 0, False
        if chain:
            second, shift, up = chain
            segments += (Segment(left, place("right", split(second), 8), K),)
        int8 = None if chain else Int8(Requantization(mantissa, 0))
        exponent = Exponent(3, low, high, up)
        emitter.compute(1, 1, segments, shift=shift, out=out, int8=int8, exponent=exponent)
        result = row_major(1, 1, config, 4 if chain else 1).at(device.alloc(64))
        emitter.store(result, out)
        device.run(emitter.finish(), 60)
        return int(result.unpack(device.read(result.address, result.nbytes), np.int32 if chain else np.int8)[0, 0])


@pytest.mark.parametrize(
    ("acc", "mantissa", "t"),
    [
        (0, 40000, 3),
        (1, 32768, 9),
        (127, 32768, 15),
        (127, 32769, 16),
        (-127, 32769, 16),
        (254, 32768, 16),
        (255, 32768, 17),
        (508, 32768, 17),
        (509, 32768, 18),
        (508, 32769, 18),
        (-1000, 65535, 19),
    ],
)
def test_the_shift_is_the_least_that_fits(device, acc, mantissa, t):
    half = round(acc * mantissa / 2**t)  # half to even, exact in float64
    assert run(device, acc, mantissa, 3, 30) == max(-127, min(127, half))


def test_bounds_hold(device):
    assert run(device, 1000, 32768, 3, 16) == 127
    assert run(device, 1000, 32768, 21, 40) == round(1000 * 2**15 / 2**21)


@pytest.mark.parametrize(("acc", "t"), [(100, 15), (200, 16), (900, 18)])
def test_a_chain_shifts_less_or_more_as_the_maximum_grows(device, acc, t):
    assert run(device, acc, 32768, 14, 19, (-77, 7, False)) == acc * 2 ** (7 - (t - 14)) - 77
    assert run(device, acc, 32768, 14, 19, (-77, 7, True)) == acc * 2 ** (7 - (19 - t)) - 77


def test_a_slot_that_is_not_there_is_refused(device):
    fields = {"m_rows": 1, "n_cols": 1, "k0": 1, "out_mode": OutMode.INT8, "scale_m": 32768, "to_out": 1, "device_shift": 1, "t_high": 4}
    slots = device.config.stat_slots
    device.run(CommandList.of([Command.make(Opcode.COMPUTE, exponent_slot=slots - 1, **fields)]))
    with pytest.raises(DeviceFault, match="SCRATCHPAD_BOUNDS") as caught:
        device.run(CommandList.of([Command.make(Opcode.COMPUTE, exponent_slot=slots, **fields)]))
    assert caught.value.status.detail == Check.STAT
