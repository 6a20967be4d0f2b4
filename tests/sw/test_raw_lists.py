"""Lists made by hand, as no compiler makes them, legal by the checker: the RTL does what the `reference` device does.

Most have commands of the compute unit that follow each other closely: what the later one reads, the earlier one has just written.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.device.reference import ReferenceDevice
from loralith.device.verilator import VerilatorDevice
from loralith.spec.commands import Command, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
from loralith.spec.config import load_config
from loralith.spec.numerics import SHIFT_MAX

BASE, BYTES = 1 << 32, 1 << 20
CONFIG = load_config("tiny")
R, C, W = CONFIG.rows, CONFIG.cols, CONFIG.bus_bytes
K = 48  # long enough for the next command to be decoded meanwhile
LOADED, DONE, TOKEN = 1 << 0, 1 << 1, 1 << 2
PAGE, RESULT = 4096, 2048


@pytest.fixture(scope="module")
def machine() -> Iterator[VerilatorDevice]:
    with VerilatorDevice(CONFIG, memory_base=BASE, memory_bytes=BYTES) as device:
        yield device


@pytest.fixture
def devices(machine: VerilatorDevice) -> tuple[VerilatorDevice, ReferenceDevice]:
    machine.power_cycle()
    return machine, ReferenceDevice(CONFIG, BYTES, BASE)


def load(target: LoadTarget, base: int, rows: int, nbytes: int, offset: int, **fields: int) -> Command:
    """`rows` rows of `nbytes` bytes from `offset` of the page on, one after the other in multiples of the bus word."""
    transpose = int(target is LoadTarget.LEFT)
    stride = -(-nbytes // W) * W
    address = BASE + offset
    return Command.make(
        Opcode.LOAD,
        target=target,
        base=base,
        rows=rows,
        row_bytes=nbytes,
        row_stride=stride,
        address=address,
        transpose=transpose,
        **fields,
    )


def operands(**last: int) -> list[Command]:
    """Left [R, K] at row 0 and right [K, C] at row 0."""
    return [
        load(LoadTarget.LEFT, 0, R, K, 0),
        load(LoadTarget.RIGHT, 0, K, C, 512, **{"signal": LOADED, **last}),
    ]


def compute(columns: int, k0: int = K, **fields: int) -> Command:
    """R rows from the operands; more columns than C read what lies behind in the right scratchpad."""
    return Command.make(Opcode.COMPUTE, m_rows=R, n_cols=columns, k0=k0, right0_stride=0, **fields)


def store(columns: int, nbytes: int = 4, **fields: int) -> Command:
    address = BASE + RESULT
    return Command.make(Opcode.STORE, address=address, rows=R, row_bytes=columns * nbytes, row_stride=64, wait=DONE, **fields)


def stats(slots: int) -> Command:
    return Command.make(Opcode.STORE, source=StoreSource.STATS, address=BASE + RESULT, rows=1, row_bytes=16 * slots, wait=DONE)


def outcome(device: VerilatorDevice | ReferenceDevice, commands: list[Command], scale: np.ndarray | None = None) -> np.ndarray:
    """The page's second half after the list, which started on seeded bytes, with a scale vector in its second quarter."""
    device.write(BASE, np.random.default_rng(0).integers(-128, 128, PAGE, dtype=np.int8))
    if scale is not None:
        device.write(BASE + 1024, scale)
    listed = CommandList.of(commands)
    check(listed, CONFIG)
    with device.arena():
        assert device.alloc(PAGE, PAGE) == BASE
        device.run(listed)
    return device.read(BASE + RESULT, PAGE - RESULT)


def assert_same(devices: tuple[VerilatorDevice, ReferenceDevice], commands: list[Command], note: object = "") -> None:
    found, expected = (outcome(device, commands) for device in devices)
    np.testing.assert_array_equal(found, expected, err_msg=str(note))


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 8])
def test_sums_are_read_after_they_are_written(devices: tuple[VerilatorDevice, ReferenceDevice], columns: int) -> None:
    for word in range(columns):
        for width in range(1, columns - word + 1):
            commands = [
                *operands(),
                compute(columns, acc_write=1, wait=LOADED),
                compute(width, 1, acc_read=1, acc_write=1, acc_base=word, out_mode=OutMode.INT32, to_out=1),
                compute(columns, 1, acc_read=1, out_mode=OutMode.INT32, to_out=1, out_base=4, signal=DONE),
                store(columns, base=4),
            ]
            assert_same(devices, commands, (word, width))


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_sums_are_read_behind_a_command_that_leaves_them_alone(devices: tuple[VerilatorDevice, ReferenceDevice], gap: int) -> None:
    between = [compute(1, 1, out_mode=OutMode.INT32, to_out=1, out_base=8) for _ in range(gap)]
    for columns in (1, C, C + 1):
        commands = [
            *operands(),
            compute(columns, acc_write=1, wait=LOADED),
            *between,
            compute(columns, 1, acc_read=1, out_mode=OutMode.INT32, to_out=1, signal=DONE),
            store(columns),
        ]
        assert_same(devices, commands, columns)


INT8 = {"out_mode": OutMode.INT8, "scale_m": 40000, "scale_n": 24}


@pytest.mark.parametrize("widths", [(C, 1), (C, 2), (1, 1), (C, 1, 1), (C, 1, C, 1), (C + 1, 1, C + 2), (2, 1, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_no_record_of_a_maximum_is_lost(devices: tuple[VerilatorDevice, ReferenceDevice], widths: tuple[int, ...], shared: bool) -> None:
    for first_k in (K, 1):
        recorded = [
            compute(
                columns,
                first_k if i == 0 else 1,
                **INT8 | {"scale_n": 16 + i},
                stat_enable=1,
                stat_slot=0 if shared else i,
                stat_clear=int(i == 0 or not shared),
                wait=LOADED if i == 0 else 0,
                signal=DONE if i == len(widths) - 1 else 0,
            )
            for i, columns in enumerate(widths)
        ]
        assert_same(devices, [*operands(), *recorded, stats(len(widths))], first_k)


CHAIN = {"chained": 1, "k1": 4, "left1_base": 0, "right1_base": 0}
SHIFTED = {"out_mode": OutMode.INT8, "scale_m": 40000, "to_out": 1, "device_shift": 1, "t_low": 2, "t_high": 40}


@pytest.mark.parametrize("columns", [1, C, 2 * C])
@pytest.mark.parametrize("between", [0, 1, 2])
def test_a_maximum_is_read_after_it_is_recorded(devices: tuple[VerilatorDevice, ReferenceDevice], columns: int, between: int) -> None:
    """Also where tokens order them for a later command alone, and into the slot that the reader records in."""
    for own in ({}, {"stat_enable": 1, "stat_slot": 1}):
        commands = [
            *operands(),
            # INT8, so that the slot has the maximum of what the reader scales: another shift than the right one changes its results.
            compute(columns, **INT8, stat_enable=1, stat_slot=1, stat_clear=1, wait=LOADED, signal=TOKEN),
            *(compute(1, 1, **CHAIN, segment_wait=TOKEN if i == 0 else 0) for i in range(between)),
            compute(1, K, exponent_slot=1, **SHIFTED, **own, signal=DONE),
            store(1, 1),
        ]
        assert_same(devices, commands, own)


def test_a_token_goes_to_the_earlier_command_that_takes_it(devices: tuple[VerilatorDevice, ReferenceDevice]) -> None:
    """The second token comes from a load that waits for the command that must take the first."""
    again = TOKEN << 1
    commands = [
        *operands(),
        load(LoadTarget.RIGHT, 24, 4, C, 0, signal=TOKEN),
        compute(C, **CHAIN | {"right1_base": 24}, acc_write=1, wait=LOADED, segment_wait=TOKEN, signal=again),
        load(LoadTarget.RIGHT, 8, 8, C, 64, wait=again, signal=TOKEN),
        compute(C, 8, right0_base=8, acc_read=1, out_mode=OutMode.INT32, to_out=1, wait=TOKEN, signal=DONE),
        store(C),
    ]
    assert_same(devices, commands)


def test_a_left_result_needs_a_token_to_be_read_as_operand(devices: tuple[VerilatorDevice, ReferenceDevice]) -> None:
    def commands(token: int) -> list[Command]:
        return [
            *operands(),
            compute(C, **INT8, to_left=1, result_base=8, wait=LOADED, signal=token),
            compute(C, C, left0_base=8, out_mode=OutMode.INT32, to_out=1, wait=token, signal=DONE),
            store(C),
        ]

    assert_same(devices, commands(TOKEN))
    with pytest.raises(IllegalList, match=r"command 3: reads rows 8\.\.8 of left"):
        check(CommandList.of(commands(0)), CONFIG)


@pytest.mark.parametrize("mode", [ScaleMode.ROW, ScaleMode.COLUMN])
@pytest.mark.parametrize("stochastic", [0, 1])
def test_a_scale_entry_shifts_by_47_at_most(devices: tuple[VerilatorDevice, ReferenceDevice], mode: ScaleMode, stochastic: int) -> None:
    limit = np.zeros(0, np.uint8)
    for shift in range(64):
        entries = np.array([40000 + i | shift << 16 | 3 << 22 for i in range(R)], "<u4")  # bits that no scale has do nothing
        commands = [
            *operands(),
            load(LoadTarget.SCALE, 0, 1, 4 * R, 1024, signal=TOKEN),
            compute(C, out_mode=OutMode.INT8, scale_mode=mode, stochastic=stochastic, key0=5, to_out=1, wait=LOADED | TOKEN, signal=DONE),
            store(C, 1),
        ]
        found, expected = (outcome(device, commands, scale=entries) for device in devices)
        np.testing.assert_array_equal(found, expected, err_msg=str(shift))
        if shift > SHIFT_MAX:
            np.testing.assert_array_equal(found, limit)
        elif shift == SHIFT_MAX:
            limit = found


@pytest.mark.parametrize("transpose", [0, 1])
@pytest.mark.parametrize("stride", [0, W])
def test_rows_that_overlap_in_memory_are_stored_in_order(
    devices: tuple[VerilatorDevice, ReferenceDevice], transpose: int, stride: int
) -> None:
    """A later row lies over an earlier one, whichever lane block its bytes come from."""
    M, N = 3 * R, 5
    rows, nbytes = (4 * N, M) if transpose else (M, 4 * N)
    commands = [
        load(LoadTarget.LEFT, 0, M, K, 0, block_stride=K // W),
        load(LoadTarget.RIGHT, 0, K, 8, 1024, block_stride=K // W, signal=LOADED),
        Command.make(
            Opcode.COMPUTE,
            wait=LOADED,
            signal=DONE,
            m_rows=M,
            n_cols=N,
            k0=K,
            left0_stride=K // W,
            right0_stride=K // W,
            out_mode=OutMode.INT32,
            to_out=1,
            out_stride=3,
        ),
        Command.make(
            Opcode.STORE,
            wait=DONE,
            address=BASE + RESULT,
            rows=rows,
            row_bytes=nbytes,
            row_stride=stride,
            block_stride=3,
            transpose=transpose,
        ),
    ]
    assert_same(devices, commands)
