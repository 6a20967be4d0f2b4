"""Small lists that meet data which the machine still has in its pipeline, and tokens that its decoder could take too early."""

from collections.abc import Iterator

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.device.device_errors import DeviceError
from loralith.device.verilator import VerilatorDevice
from loralith.soak.list_runner import Machines
from loralith.spec.commands import SEMAPHORE_MAX, Opcode
from loralith.spec.config import PRESETS, Config
from loralith.spec.registers import REGISTERS
from loralith.spec.status import Code
from loralith.verif.lists.case import BASE, Case, Layout
from loralith.verif.lists.drawn_places import Fields, fields_of
from loralith.verif.lists.drawn_tokens import place_tokens
from loralith.verif.lists.expect import expect

TINY = PRESETS["tiny"]
R, C, W = TINY.rows, TINY.cols, TINY.bus_bytes
DATA, DUMP = BASE + Layout.data, BASE + Layout.dump
K = 48
QUICK = {"read_latency": 1, "write_latency": 1}


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    each = Machines(TINY)
    yield each
    each.close()


def operands(config: Config = TINY) -> list[Fields]:
    """K elements of every row and column."""
    right = DATA + 64 * K
    return [
        fields_of(Opcode.LOAD, target=0, rows=K, row_bytes=config.rows, row_stride=config.bus_bytes, address=DATA),
        fields_of(Opcode.LOAD, target=1, rows=K, row_bytes=config.cols, row_stride=config.bus_bytes, address=right),
    ]


def product(**values: int) -> Fields:
    """R x C over K, of the operands, unless fields say otherwise."""
    return fields_of(Opcode.COMPUTE, **{"m_rows": R, "n_cols": C, "k0": K, **values})


def store(rows: int, row_bytes: int, base: int, place: int) -> Fields:
    return fields_of(Opcode.STORE, rows=rows, row_bytes=row_bytes, row_stride=64, base=base, address=DUMP + place)


def slots(count: int) -> Fields:
    return fields_of(Opcode.STORE, source=1, rows=1, row_bytes=16 * count, address=DUMP)


def case(*lists: list[Fields], ordered: bool = True) -> Case:
    """Lists with tokens for all that conflicts between queues, or with those that they have."""
    placed = [place_tokens(commands, TINY, BASE, np.random.default_rng(0), spare=0.0) if ordered else commands for commands in lists]
    assert all(commands is not None for commands in placed)
    return Case(TINY, 1, tuple(tuple(commands or ()) for commands in placed), timing=QUICK)


@pytest.mark.parametrize("between", range(4))
@pytest.mark.parametrize("word", range(C))
def test_an_accumulator_word_is_read_after_it_was_written(machines: Machines, word: int, between: int) -> None:
    """By a short command behind a long one, at every distance in words and in commands."""
    others = [product(n_cols=1, k0=1) for _ in range(between)]
    read = product(n_cols=1, k0=1, acc_read=1, acc_base=word, out_mode=2, to_out=1)
    assert machines.compare(case([*operands(), product(acc_write=1), *others, read, store(R, 4, 0, 0)])) is None


@pytest.mark.parametrize("first", range(1, C + 1))
@pytest.mark.parametrize("second", range(1, C + 1))
@pytest.mark.parametrize("same", [False, True])
def test_every_command_updates_its_slot(machines: Machines, first: int, second: int, same: bool) -> None:
    """Two commands that record and end within a few cycles, in one slot or in two."""
    record = {"stat_enable": 1, "out_mode": 1, "scale_m": 40000, "scale_n": 4}
    commands = [
        product(n_cols=first, stat_slot=0, **record),
        product(n_cols=second, k0=1, stat_slot=0 if same else 1, **record),
        product(n_cols=1, k0=2, stat_slot=2, **record),
    ]
    assert machines.compare(case([*operands(), *commands, slots(3)])) is None


@pytest.mark.parametrize("at", [0, K // W - 1])
def test_a_left_result_is_read_after_its_command(machines: Machines, at: int) -> None:
    """With a token of the command that writes it, as first and as second operand."""
    write = product(out_mode=1, scale_m=40000, scale_n=22, to_left=1, result_base=16 + at)
    read = product(n_cols=1, k0=1, left0_base=16 + at, out_mode=2, to_out=1)
    chained = product(n_cols=1, k0=1, k1=C, chained=1, left1_base=16 + at, out_mode=2, to_out=1, out_base=1)
    assert machines.compare(case([*operands(), write, read, chained, store(R, 12, 0, 0)])) is None


def short_padding(config: Config, rows: int, pad_rows: int) -> Case:
    """Rows of several bus words, with zeros below, over a right operand that had no zero there."""
    width = 3 * config.bus_bytes
    blocks = -(-width // config.cols)
    full = fields_of(Opcode.LOAD, target=1, rows=16, row_bytes=width, row_stride=width, address=DATA + 64 * K, block_stride=4)
    left = fields_of(Opcode.LOAD, target=0, rows=16, row_bytes=config.rows, row_stride=config.bus_bytes, address=DATA)
    total = rows + pad_rows
    read = fields_of(
        Opcode.COMPUTE, m_rows=config.rows, n_cols=blocks * config.cols, k0=total, right0_stride=4, out_mode=2, to_out=1
    )  # fmt: skip
    out = fields_of(Opcode.STORE, rows=config.rows, row_bytes=4 * width, row_stride=4 * width, address=DUMP)
    commands = place_tokens(
        [left, full, full | {"rows": rows, "pad_rows": pad_rows}, read, out], config, BASE, np.random.default_rng(0), spare=0.0
    )
    assert commands is not None
    return Case(config, 1, (tuple(commands),), timing=QUICK)


@pytest.mark.parametrize("pad_rows", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_padding_covers_whole_rows(machines: Machines, rows: int, pad_rows: int) -> None:
    assert machines.compare(short_padding(TINY, rows, pad_rows)) is None


def agree_or_refused(machines: Machines, it: Case) -> None:
    """What the checker passes must do on every device what the oracle says."""
    try:
        check(CommandList.unpack(it.packed(0)), TINY)
    except IllegalList:
        return
    assert machines.compare(it) is None


def test_a_slot_that_only_the_segment_of_the_command_between_orders(machines: Machines) -> None:
    load_left, load_right = operands()
    load_left["signal"], load_right["signal"] = 1 << 0, 1 << 1
    measure = product(out_mode=1, scale_m=40000, scale_n=20, stat_enable=1, stat_slot=3, wait=3, signal=1 << 2)
    between = product(k1=1, chained=1, segment_wait=1 << 2)
    shifted = product(
        k0=1, k1=1, chained=1, shift=10, device_shift=1, t_low=13, t_high=23, exponent_slot=3, out_mode=2, to_out=1, signal=1 << 3
    )
    last = store(R, 4 * C, 0, 0) | {"wait": 1 << 3}
    agree_or_refused(machines, case([load_left, load_right, measure, between, shifted, last], ordered=False))


def test_a_semaphore_that_a_segment_and_the_next_command_take(machines: Machines) -> None:
    """The next command's token is given after the earlier command is done: it must not take the earlier one's."""
    load_left, load_right = operands()
    load_left["signal"] = load_right["signal"] = 1 << 0
    scales = fields_of(Opcode.LOAD, target=2, rows=1, row_bytes=64, address=BASE + Layout.scales, signal=1 << 1)
    first = product(k1=1, chained=1, segment_wait=1 << 1, read_signal=1 << 3)
    second = product(n_cols=1, k0=1, out_mode=2, to_out=1, wait=1 << 1, signal=1 << 2)
    last = store(R, 4, 0, 0) | {"wait": 1 << 2}
    start = [load_left, load_right | {"signal": 1 << 4}, product(wait=1 << 0 | 1 << 4), scales]
    agree_or_refused(machines, case([*start, first, scales | {"wait": 1 << 3}, second, last], ordered=False))


@pytest.mark.parametrize("left", [0, SEMAPHORE_MAX])
def test_a_full_semaphore_holds_its_giver(machines: Machines, left: int) -> None:
    """Behind a long product, loads fill a semaphore; more come to it before a product takes its first token. ``left`` stay in it."""
    load_left, load_right = operands()
    load_right["signal"] = 1 << 0
    give = fields_of(Opcode.LOAD, target=2, rows=1, row_bytes=4 * R, address=BASE + Layout.scales, signal=1 << 1)
    take = product(n_cols=1, k0=1, wait=1 << 1, out_mode=2, to_out=1)
    long = product(n_cols=4 * C, right0_stride=0, wait=1 << 0)
    commands = [load_left, load_right, long, *[give] * SEMAPHORE_MAX, *[take, give] * 4, *[take] * (SEMAPHORE_MAX - left)]
    commands += [product(n_cols=1, k0=1, signal=1 << 2), store(R, 4, 0, 0) | {"wait": 1 << 2}]
    assert machines.compare(case(commands, ordered=False)) is None


@pytest.mark.parametrize("signal", ["read_signal", "signal"])
def test_a_full_semaphore_holds_every_products_signal(machines: Machines, signal: str) -> None:
    """Behind a long load; the products that follow find the semaphore full one after another, and none of their tokens is lost."""
    load_left, load_right = operands()
    load_right["signal"] = 1 << 0
    give = product(n_cols=1, k0=1, **{signal: 1 << 1})
    take = fields_of(Opcode.LOAD, target=2, rows=1, row_bytes=4 * R, address=BASE + Layout.scales, wait=1 << 1)
    long = fields_of(Opcode.LOAD, target=1, rows=300, row_bytes=C, row_stride=W, base=64, address=DATA)
    commands = [load_left, load_right, give | {"wait": 1 << 0}, *[give] * (SEMAPHORE_MAX - 1)]
    commands += [long, *[take, give] * 6, *[take] * SEMAPHORE_MAX]
    assert machines.compare(case(commands, ordered=False)) is None


@pytest.mark.parametrize("register", ["LIST_LENGTH", "LIST_BASE", "WINDOW_BASE", "WINDOW_LIMIT", "WATCHDOG"])
@pytest.mark.parametrize("after", [0, 20, 100])
def test_a_running_list_does_not_see_its_registers_written(register: str, after: int) -> None:
    commands = [*operands(), *(product(out_mode=2, to_out=1, out_base=2 * i) for i in range(6))]
    it = case([*commands, *(store(R, 4 * C, 2 * i, 0x200 * i) for i in range(6))])
    data, length = it.packed(0), len(it.lists[0])
    with VerilatorDevice(TINY, memory_base=BASE, memory_bytes=Layout.size) as device:
        device.write(BASE, it.image())
        device.write(BASE + it.place(0), data)
        device.registers.start(BASE + it.place(0), length)
        device.model.tick(after)
        with pytest.raises(DeviceError, match="SLVERR"):
            device.write_register(REGISTERS[register].offset, length - 1)
        assert device.model.wait(100_000)
        result = device.registers.result()
        assert (result.status.code, result.commands_done) == (Code.OK, length)
        expected = expect(it)
        np.testing.assert_array_equal(device.read(BASE, Layout.size)[~expected.unknown], expected.dram[~expected.unknown])
