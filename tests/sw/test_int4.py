"""W of 4 bits, two elements per byte in DRAM: layout, lists, devices, layers; the same bits everywhere, and half the traffic of W."""

import numpy as np
import pytest

from helpers.packed_weights import INT4, TINY, int4, run_loads
from helpers.same_values import assert_same_values
from loralith.compiler.lists.assembly import assemble, disassemble
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import check, problems
from loralith.compiler.proof.touches import dram_bytes
from loralith.compiler.schedules.emit import Emitter, Segment
from loralith.compiler.schedules.matmul import compile_batch, plan_matmul
from loralith.compiler.storage.layout import int_layout, row_major
from loralith.compiler.storage.regions import Region, Regions
from loralith.compiler.tokens.footprint import footprint
from loralith.device import DeviceError, open_device
from loralith.device.products import Resident, chained, plan_product, product, wide_product
from loralith.energy.activity import activity
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import QuantizedWeight as HostWeight
from loralith.spec.commands import COMMAND_BYTES, Command, LoadTarget, Opcode
from loralith.spec.config import PRESETS


def test_bytes_of_a_packed_matrix():
    values = np.array([[1, -2, 7], [-8, 0, -1]], np.int8)
    layout = int_layout(2, 3, 4, TINY)
    image = layout.pack(values)
    assert image.tolist() == [0xE1, 0x07, *[0] * 6, 0x08, 0x0F, *[0] * 6]
    assert_same_values(layout.unpack(image, np.int8), values)
    assert (layout.nbytes, layout.row_bytes, layout.loaded_bytes) == (16, 2, 3)


def test_every_value_comes_back():
    rows, cols = 16, 33
    values = int4(np.random.default_rng(1), rows, cols)
    layout = int_layout(rows, cols, 4, PRESETS["base"])
    assert_same_values(layout.unpack(layout.pack(values), np.int8), values)
    assert_same_values(layout.unpack(layout.pack(values), np.int64), values)


def test_a_block_begins_at_a_bus_word():
    values = int4(np.random.default_rng(2), 5, 40)
    layout = int_layout(5, 40, 4, TINY).at(0)
    block = layout.block(1, 3, 16, 9)
    assert block.address == layout.stride + 8
    image = layout.pack(values)
    rows = [image[block.address + i * block.stride :][: block.row_bytes] for i in range(3)]
    nibbles = [[b % 16, b // 16] for row in rows for b in row.tolist()]
    assert (np.array(nibbles).reshape(3, 10)[:, :9] == values[1:4, 16:25] % 16).all()
    with pytest.raises(ValueError, match="must begin at a bus word, every 16 columns, not at column 8"):
        layout.block(0, 1, 8, 1)
    with pytest.raises(ValueError, match=r"columns 32\.\.40 are not in 5 x 40"):
        layout.block(0, 1, 32, 9)


@pytest.mark.parametrize("value", [8, -9, 127])
def test_a_value_that_four_bits_do_not_hold_is_refused_by_its_place(value):
    values = np.zeros((2, 3), np.int8)
    values[1, 2] = value
    with pytest.raises(ValueError, match=rf"element \(1, 2\) is {value}, which INT4 \(-8\.\.7\) does not hold"):
        int_layout(2, 3, 4, TINY).pack(values)
    with open_device("reference", TINY) as device:
        with pytest.raises(ValueError, match="INT4"):
            Resident.place(device, values[None], 4)
        with pytest.raises(ValueError, match="INT4"):
            DeviceLayer(device, HostWeight(values, np.ones(2, np.float32)), 1.0, 1, INT4)
        assert not device._heap.taken


def test_other_refusals_of_a_layout():
    with pytest.raises(ValueError, match="8 or 4 bits, not 5"):
        int_layout(2, 3, 5, TINY)
    with pytest.raises(ValueError, match="expected 2 x 3 elements of int8"):
        int_layout(2, 3, 4, TINY).pack(np.zeros((2, 3), np.int16))
    with pytest.raises(ValueError, match="a store writes whole bytes, not INT4"):
        Emitter(TINY).store(int_layout(2, 3, 4, TINY), Region("out", 0, 1, 1))
    with pytest.raises(ValueError, match="INT4 takes fold 1, not 2"):
        plan_matmul(4, 2, 8, TINY, fold=2, right_bits=4)


LOAD = {"address": 4096, "rows": 3, "row_bytes": 21, "row_stride": 16, "block_stride": 1, "packed4": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"target": LoadTarget.SCALE, "rows": 1, "block_stride": 0}, "SCALE takes no packed4"),
        ({"address": 4100}, "address 0x1004 is not a multiple of 8"),
        ({"row_stride": 12}, "row_stride 12 is not a multiple of 8"),
        ({"address": 8192 - 48}, None),
        ({"address": 8192 - 40}, r"bytes 0x1fd8\.\.0x2002 are not all in the window"),
    ],
)
def test_the_checker_knows_packed_loads(change, message):
    command = Command.make(Opcode.LOAD, **(LOAD | change))
    found = list(problems(command, TINY, (4096, 8192)))
    assert [bool(found)] == [message is not None], found
    if message:
        with pytest.raises(Exception, match=message):
            check(CommandList.of([command]), TINY, (4096, 8192))


def test_a_packed_load_is_read_back_from_its_text():
    commands = CommandList.of([Command.make(Opcode.LOAD, **LOAD)])
    text = disassemble(commands)
    assert "packed4=1" in text
    assert "3 x 21 INT4 at 0x1000" in text
    assert assemble(text) == commands


def test_what_a_packed_load_touches_in_dram():
    command = Command.make(Opcode.LOAD, **LOAD)
    assert dram_bytes(command).width == 11
    (region,), matrix = footprint(command, TINY)
    assert (matrix.row_bytes, matrix.past) == (11, 4096 + 2 * 16 + 11)
    assert region.ranges == footprint(Command.make(Opcode.LOAD, **(LOAD | {"packed4": 0})), TINY)[0][0].ranges
    moved = activity(CommandList.of([command]), TINY)
    assert (moved.dram_operands, moved.left) == (3 * 16, 3 * 21)


CASES = [
    {"natural": natural, "transposed": transposed, "M": M, "N": N, "K": K}
    for natural in (False, True)
    for transposed in (False, True)
    for M, N, K in ((1, 1, 1), (5, 3, 7), (4, 16, 16), (9, 18, 35))
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("config", ["tiny", "base", "ecp5"])
def test_packed_operands_of_every_order_give_the_exact_product(config, case):
    with open_device("reference", config) as device:
        got, want, *_ = run_loads(device, 4, 4, **case)
    assert_same_values(got, want)


def test_packed_operands_on_the_rtl(devices):
    reference, rtl = devices
    for i, case in enumerate(CASES):
        bits = (4, 4) if i % 3 else (8, 4)
        got, want, _, read = run_loads(rtl, *bits, **case, seed=i)
        assert_same_values(got, want, case)
        *_, counted = run_loads(reference, *bits, **case, seed=i)
        assert read == counted, case


def test_a_load_into_both_takes_packed_rows():
    with open_device("reference", "base") as device:
        config, n = device.config, 19
        values = int4(np.random.default_rng(3), n, n)
        emitter, regions = Emitter(config), Regions(config)
        layout = int_layout(n, n, 4, config).at(device.alloc(1 << 12))
        device.write(layout.address, layout.pack(values))
        left, right, out = regions.take("left", n, n), regions.take("right", n, n), regions.take("out", n, 4 * n)
        emitter.load_both(layout, left, right)
        emitter.compute(n, n, (Segment(left, right, n),), out=out)
        result = row_major(n, n, config, 4).at(device.alloc(1 << 12))
        emitter.store(result, out)
        device.run(emitter.finish())
        got = result.unpack(device.read(result.address, result.nbytes), np.int32)
    assert_same_values(got, values.astype(np.int32) @ values)


@pytest.mark.parametrize("config", ["tiny", "base"])
@pytest.mark.parametrize(("M", "K", "N"), [(5, 7, 3), (20, 70, 90), (40, 300, 33), (1, 130, 77), (300, 1000, 60), (16, 324, 13)])
def test_products_with_a_packed_weight(config, M, K, N):
    rng = np.random.default_rng(4)
    x, w = rng.integers(-128, 128, (1, M, K)).astype(np.int8), int4(rng, 1, N, K)
    dy = rng.integers(-128, 128, (1, M, N)).astype(np.int8)
    with open_device("reference", config) as device, open_device("direct", config) as direct:
        for one in (device, direct):
            weight = Resident.place(one, w, 4)
            assert_same_values(product(one, x, weight, right_transposed=True), x.astype(np.int32) @ w[0].T.astype(np.int32))
            assert_same_values(product(one, dy, weight), dy.astype(np.int32) @ w[0].astype(np.int32))
            assert_same_values(product(one, weight, x[:, :, :K].transpose(0, 2, 1).copy()), w.astype(np.int32) @ x[0].T.astype(np.int32))
        product(device, x, weight := Resident.place(device, w, 4), right_transposed=True)
        batch, _ = plan_product(M, N, K, device.config, right_transposed=True, right_resident=True, right_bits=4)
        words = batch.plan.traffic(device.config)[0]
        commands = CommandList.unpack(compile_batch(batch, device.config).at(1 << 20, 2 << 20, 3 << 20))
        check(commands, device.config, (1 << 20, 4 << 20))
        assert abs(device.last_counters.bytes_read - len(commands) * COMMAND_BYTES - words) <= 0.05 * words
        assert weight.nbytes(device) < 0.75 * Resident.place(device, w).nbytes(device) or K < 32


def test_two_words_and_a_packed_weight(devices):
    rng = np.random.default_rng(6)
    high, low = (rng.integers(-127, 128, (9, 388)).astype(np.int8) for _ in range(2))
    w = int4(rng, 1, 13, 388)
    want = ((high.astype(np.int64) << 8) + low) @ w[0].T
    for device in devices:
        with device.arena():
            assert_same_values(wide_product(device, high, low, Resident.place(device, w, 4), apart=False), want)
            correction = Resident.place(device, w[:, :, :2], 4)
            with pytest.raises(DeviceError, match="the first of two right operands has 8 bits per element, not 4"):
                chained(device, (high[:, :2].copy(), correction), (low, Resident.place(device, w)), 8)
