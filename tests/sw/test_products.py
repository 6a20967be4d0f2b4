"""Products whose operands stay on the device, in either order: exact, legal, and read as often as the plan says."""

import numpy as np
import pytest

from helpers.same_values import assert_same_values
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.lists.relocatable import Relocatable
from loralith.compiler.proof.checker import check
from loralith.compiler.schedules.matmul import compile_batch
from loralith.compiler.storage.layout import int_layout
from loralith.device import DeviceError, open_device
from loralith.device.products import Resident, plan_product, product
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import PRESETS

SHAPES = [(1, 5, 7, 3), (3, 20, 12, 7), (1, 40, 300, 33), (2, 3, 40, 50), (4, 64, 12, 64), (1, 130, 77, 1)]


def operands(count, M, K, N, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(-128, 128, shape).astype(np.int8) for shape in ((count, M, K), (count, K, N)))


def transposed(values):
    return np.ascontiguousarray(values.transpose(0, 2, 1))


@pytest.mark.parametrize("config", ["tiny", "base"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_order_and_place_gives_the_exact_product(config, shape):
    left, right = operands(*shape)
    want = left.astype(np.int32) @ right.astype(np.int32)
    with open_device("reference", config) as device:
        for case in range(16):
            left_transposed, right_transposed, left_stays, right_stays = (bool(case >> bit & 1) for bit in range(4))
            one, two = transposed(left) if left_transposed else left, transposed(right) if right_transposed else right
            with device.arena():
                got = product(
                    device,
                    Resident.place(device, one) if left_stays else one,
                    Resident.place(device, two) if right_stays else two,
                    left_transposed=left_transposed,
                    right_transposed=right_transposed,
                )
            assert_same_values(got, want, case)
        assert len(device._heap.taken) <= 1, "the list's buffer alone"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", ["tiny", "base"])
def test_an_operand_may_end_where_device_memory_ends(config, side, bits):
    """Rows are padded to bus words, so no load reads past the operand: it needs no slack behind it."""
    rng = np.random.default_rng(7)
    operand, other = (rng.integers(-8, 8, (1, 64, 64)).astype(np.int8) for _ in range(2))
    operand, other = operand[:, :, :61], other[:, :61] if side == "left" else other
    with open_device("reference", config, memory_bytes=1 << 20) as device:
        low = device.alloc(1 << 19)
        layout = int_layout(*operand.shape[1:], bits, device.config)
        device.alloc((1 << 19) - layout.nbytes)
        last = Resident.place(device, operand, bits)
        assert last.address + layout.nbytes == device.memory_base + device.memory_bytes
        device.free(low)
        got = product(device, last, other) if side == "left" else product(device, other, last)
    left, right = (operand, other) if side == "left" else (other, operand)
    assert_same_values(got, left.astype(np.int32) @ right.astype(np.int32))


@pytest.mark.parametrize("config", PRESETS)
def test_a_batch_is_legal_wherever_it_lies(config):
    config = PRESETS[config]
    batch, _ = plan_product(64, 7, 12, config, count=5, right_transposed=True, left_resident=True, right_resident=True)
    addresses = 1 << 20, 5 << 20, 9 << 20
    commands = CommandList.unpack(compile_batch(batch, config).at(*addresses))
    check(commands, config, (1 << 20, 10 << 20))
    loads = [c["address"] for c in commands if c.opcode.name != "COMPUTE"]
    assert {address >> 22 for address in loads} == {0, 1, 2}
    assert len(set(loads)) >= 15, "five products, three operands"
    again = Relocatable.of(CommandList.unpack(compile_batch(batch, config).at(*(Relocatable.base(i) for i in range(3)))))
    assert again.at(*addresses) == commands.pack()


@pytest.mark.parametrize(("M", "K", "N"), [(1024, 288, 32), (64, 48, 192), (4, 64, 64), (500, 1000, 60), (16, 40, 700)])
@pytest.mark.parametrize("config", ["tiny", "base"])
def test_traffic_is_what_the_device_counts(config, M, K, N):
    left, right = operands(1, M, K, N)
    with open_device("reference", config) as device:
        weight = Resident.place(device, transposed(right))
        product(device, left, weight, right_transposed=True)
        batch, _ = plan_product(M, N, K, device.config, right_transposed=True, right_resident=True)
        counted, commands = device.last_counters, len(compile_batch(batch, device.config).data)
        read, written = batch.plan.traffic(device.config)
        assert counted.bytes_written == written
        assert abs(counted.bytes_read - commands * COMMAND_BYTES - read) <= 0.05 * read


def test_few_rows_fold():
    """Two tokens on sixteen rows: the transpose is computed, with the tokens along folded columns."""
    with open_device("reference", "base") as device:
        left, right = operands(1, 2, 64, 64)
        product(device, left, Resident.place(device, transposed(right)), right_transposed=True)
        assert device.last_counters.busy == 64 // 16 * (64 // 8)


def test_shapes_that_do_not_fit_are_refused():
    with open_device("reference", "tiny") as device:
        left, right = operands(2, 3, 4, 5)
        with pytest.raises(DeviceError, match=r"share count and K, not \(2, 3, 4\) and \(1, 4, 5\)"):
            product(device, left, right[:1])
        with pytest.raises(DeviceError, match=r"K must be at most 131071 .* not 131072"):
            product(device, np.zeros((1, 1, 131072), np.int8), np.zeros((1, 131072, 1), np.int8))
