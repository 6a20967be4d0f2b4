"""Values of four bits."""

import numpy as np

from loralith.compiler.proof.checker import check
from loralith.compiler.schedules.emit import Emitter, Segment
from loralith.compiler.storage.layout import int_layout, row_major
from loralith.compiler.storage.regions import Regions
from loralith.spec.config import PRESETS
from loralith.spec.scheme import FQT

TINY = PRESETS["tiny"]


INT4 = FQT(weight_bits=4, seed=5)


def int4(rng, *shape):
    return rng.integers(-8, 8, shape).astype(np.int8)


def run_loads(device, left_bits, right_bits, *, natural, transposed, M, N, K, fold=1, seed=0):
    """A product of packed operands on a device: (INT32 result, exact one, commands, bytes read)."""
    config, rng = device.config, np.random.default_rng(seed)
    emitter, regions = Emitter(config), Regions(config)
    x, y = int4(rng, M, K), int4(rng, K, N)
    with device.arena():

        def load(values, bits, region, **how):
            layout = int_layout(*values.shape, bits, config)
            layout = layout.at(device.alloc(layout.nbytes + 64))
            device.write(layout.address, layout.pack(np.ascontiguousarray(values)))
            emitter.load(layout, region, **how)
            return region

        left, right = regions.take("left", M, K), regions.take("right", N, K)
        # Zeros past K on this side meet what the other one holds there.
        load(x.T if natural else x, left_bits, left, transpose=not natural, pad_rows=-K % config.banks if natural else 0)
        load(y.T if transposed else y, right_bits, right, transpose=transposed)
        out = regions.take("out", M, 4 * N)
        emitter.compute(M, N, (Segment(left, right, K),), out=out)
        result = row_major(M, N, config, 4)
        result = result.at(device.alloc(result.nbytes))
        emitter.store(result, out)
        commands = emitter.finish()
        check(commands, config, (device.memory_base, device.memory_base + device.memory_bytes))
        device.run(commands)
        got = result.unpack(device.read(result.address, result.nbytes), np.int32)
    return got, x.astype(np.int32) @ y.astype(np.int32), commands, device.last_counters.bytes_read
