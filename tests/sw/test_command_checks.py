"""Every check before a command, each provoked alone, on the reference device and in the compiler's rules."""

from __future__ import annotations

import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.rules import problems
from loralith.device import DeviceError, DeviceFault, open_device
from loralith.device.reference import ReferenceDevice
from loralith.device.run_status import Status
from loralith.spec.commands import COMMAND_BYTES, Command, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
from loralith.spec.config import PRESETS
from loralith.spec.status import Check, Code, Unit

CONFIG = PRESETS["tiny"]  # 4 x 4, 8 bytes of bus: left and right 128 rows, out 64, acc 64, scale 64, 16 slots
BASE, SIZE = 0x1000_0000, 1 << 16

LOAD = {"rows": 4, "row_bytes": 8, "row_stride": 8, "address": BASE}
SCALE = {"target": LoadTarget.SCALE, "rows": 1, "row_bytes": 16, "address": BASE}
STORE = {"rows": 4, "row_bytes": 8, "row_stride": 8, "address": BASE}
STATS = {"source": StoreSource.STATS, "rows": 1, "row_bytes": 32, "address": BASE}
COMPUTE = {"m_rows": 4, "n_cols": 4, "k0": 8, "out_mode": OutMode.INT32, "to_out": 1}
INT8 = COMPUTE | {"out_mode": OutMode.INT8, "scale_m": 32768}
CHAIN = COMPUTE | {"chained": 1, "k1": 8}

ENUM, SIZED, BOUNDS = (Code.BAD_FIELD, Check.ENUM), (Code.BAD_FIELD, Check.SIZE), Code.SCRATCHPAD_BOUNDS

CASES = [
    (Opcode.LOAD, LOAD | {"target": 4}, *ENUM),
    (Opcode.LOAD, LOAD | {"target": LoadTarget.BOTH, "transpose": 1}, *ENUM),  # needs as many columns as bus bytes
    (Opcode.LOAD, LOAD | {"transpose": 1, "pad_rows": 1}, *ENUM),
    (Opcode.LOAD, SCALE | {"rows": 2}, *ENUM),
    (Opcode.LOAD, SCALE | {"transpose": 1}, *ENUM),
    (Opcode.LOAD, SCALE | {"pad_rows": 1}, *ENUM),
    (Opcode.LOAD, SCALE | {"block_stride": 1}, *ENUM),
    (Opcode.LOAD, SCALE | {"packed4": 1}, *ENUM),
    (Opcode.LOAD, LOAD | {"row_bytes": 0, "packed4": 1}, *SIZED),
    (Opcode.LOAD, LOAD | {"row_stride": 4, "packed4": 1}, Code.MISALIGNED, Check.STRIDE),
    (Opcode.LOAD, LOAD | {"base": 128, "packed4": 1}, BOUNDS, Check.LEFT),
    (Opcode.LOAD, LOAD | {"address": BASE + SIZE - 8, "rows": 1, "row_bytes": 17, "packed4": 1}, Code.DRAM_WINDOW, Check.ADDRESS),
    (Opcode.LOAD, LOAD | {"rows": 0}, *SIZED),
    (Opcode.LOAD, LOAD | {"row_bytes": 0}, *SIZED),
    (Opcode.LOAD, LOAD | {"address": BASE + 4}, Code.MISALIGNED, Check.ADDRESS),
    (Opcode.LOAD, LOAD | {"row_stride": 12}, Code.MISALIGNED, Check.STRIDE),
    (Opcode.LOAD, LOAD | {"base": 128}, BOUNDS, Check.LEFT),
    (Opcode.LOAD, LOAD | {"base": 127, "pad_rows": 5}, BOUNDS, Check.LEFT),
    (Opcode.LOAD, LOAD | {"base": 127, "block_stride": 1}, BOUNDS, Check.LEFT),
    (Opcode.LOAD, LOAD | {"base": 126, "transpose": 1, "row_bytes": 17, "row_stride": 24}, BOUNDS, Check.LEFT),
    (Opcode.LOAD, LOAD | {"base": 127, "block_stride": 1, "target": LoadTarget.RIGHT}, BOUNDS, Check.RIGHT),
    (Opcode.LOAD, SCALE | {"base": 63, "row_bytes": 17}, BOUNDS, Check.SCALE),
    (Opcode.LOAD, LOAD | {"address": BASE - 8}, Code.DRAM_WINDOW, Check.ADDRESS),
    (Opcode.LOAD, LOAD | {"address": BASE + SIZE - 24}, Code.DRAM_WINDOW, Check.ADDRESS),
    (Opcode.LOAD, LOAD | {"address": BASE + SIZE - 8, "rows": 1, "row_bytes": 9}, Code.DRAM_WINDOW, Check.ADDRESS),
    (Opcode.LOAD, LOAD | {"address": 2**64 - 8}, Code.DRAM_WINDOW, Check.ADDRESS),
    (Opcode.STORE, STORE | {"source": 2}, *ENUM),
    (Opcode.STORE, STORE | {"packed": 1}, *ENUM),
    (Opcode.STORE, STORE | {"packed": 1, "row_bytes": 3, "row_stride": 3}, *ENUM),
    (Opcode.STORE, STORE | {"packed": 1, "row_bytes": 4}, *ENUM),
    (Opcode.STORE, STATS | {"rows": 2}, *ENUM),
    (Opcode.STORE, STATS | {"row_bytes": 24}, *ENUM),
    (Opcode.STORE, STATS | {"packed": 1}, *ENUM),
    (Opcode.STORE, STORE | {"rows": 0}, *SIZED),
    (Opcode.STORE, STORE | {"address": BASE + 1}, Code.MISALIGNED, Check.ADDRESS),
    (Opcode.STORE, STORE | {"row_stride": 9}, Code.MISALIGNED, Check.STRIDE),
    (Opcode.STORE, STORE | {"base": 63, "row_bytes": 9, "row_stride": 16}, BOUNDS, Check.OUT),
    (Opcode.STORE, STORE | {"base": 63, "block_stride": 1, "transpose": 1}, BOUNDS, Check.OUT),
    (Opcode.STORE, STATS | {"base": 15}, BOUNDS, Check.STAT),
    (Opcode.STORE, STORE | {"address": BASE + SIZE - 24}, Code.DRAM_WINDOW, Check.ADDRESS),
    (Opcode.COMPUTE, COMPUTE | {"fold_log2": 3}, *ENUM),
    (Opcode.COMPUTE, CHAIN | {"shift": 17}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"shift": 1}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"segment_wait": 1}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"out_mode": 3}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"scale_mode": 3}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"to_left": 1}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"out_mode": OutMode.NONE}, *ENUM),
    (Opcode.COMPUTE, INT8 | {"device_shift": 1, "t_low": 5, "t_high": 4}, *ENUM),
    (Opcode.COMPUTE, INT8 | {"device_shift": 1, "t_high": 48}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"device_shift": 1}, *ENUM),
    (Opcode.COMPUTE, INT8 | {"device_shift": 1, "scale_mode": ScaleMode.ROW}, *ENUM),
    (Opcode.COMPUTE, CHAIN | {"device_shift": 1, "shift": 2, "t_low": 7, "t_high": 10}, *ENUM),
    (Opcode.COMPUTE, COMPUTE | {"m_rows": 0}, *SIZED),
    (Opcode.COMPUTE, COMPUTE | {"n_cols": 0}, *SIZED),
    (Opcode.COMPUTE, COMPUTE | {"k0": 0}, *SIZED),
    (Opcode.COMPUTE, CHAIN | {"k1": 0}, *SIZED),
    (Opcode.COMPUTE, COMPUTE | {"k1": 1}, *SIZED),
    (Opcode.COMPUTE, CHAIN | {"k0": 1, "k1": 65_536, "shift": 16}, *SIZED),
    (Opcode.COMPUTE, INT8 | {"scale_m": 32767}, *SIZED),
    (Opcode.COMPUTE, INT8 | {"scale_n": 48}, *SIZED),
    (Opcode.COMPUTE, COMPUTE | {"left0_base": 127, "k0": 9}, BOUNDS, Check.LEFT),
    (Opcode.COMPUTE, CHAIN | {"left1_base": 127, "m_rows": 5, "left1_stride": 1}, BOUNDS, Check.LEFT2),
    (Opcode.COMPUTE, COMPUTE | {"right0_base": 127, "n_cols": 5, "right0_stride": 1}, BOUNDS, Check.RIGHT),
    (Opcode.COMPUTE, CHAIN | {"right1_base": 127, "k1": 17, "fold_log2": 1}, BOUNDS, Check.RIGHT2),
    (Opcode.COMPUTE, COMPUTE | {"out_base": 63}, BOUNDS, Check.OUT),
    (Opcode.COMPUTE, INT8 | {"to_left": 1, "result_base": 127, "n_cols": 9, "right0_stride": 1}, BOUNDS, Check.LEFT_RESULT),
    (Opcode.COMPUTE, COMPUTE | {"acc_read": 1, "acc_base": 61}, BOUNDS, Check.ACC),
    (Opcode.COMPUTE, COMPUTE | {"acc_write": 1, "acc_base": 61}, BOUNDS, Check.ACC),
    (Opcode.COMPUTE, INT8 | {"scale_mode": ScaleMode.ROW, "scale_base": 63, "m_rows": 5}, BOUNDS, Check.SCALE),
    (Opcode.COMPUTE, INT8 | {"scale_mode": ScaleMode.COLUMN, "scale_base": 63, "n_cols": 5}, BOUNDS, Check.SCALE),
    (Opcode.COMPUTE, COMPUTE | {"stat_enable": 1, "stat_slot": 16}, BOUNDS, Check.STAT),
    (Opcode.COMPUTE, INT8 | {"device_shift": 1, "exponent_slot": 16}, BOUNDS, Check.STAT),
]

LEGAL = [
    (Opcode.LOAD, LOAD),
    (Opcode.LOAD, LOAD | {"base": 127, "rows": 8, "row_bytes": 4}),
    (Opcode.LOAD, LOAD | {"rows": 1, "row_stride": 3}),
    (Opcode.LOAD, SCALE | {"base": 63}),
    (Opcode.LOAD, LOAD | {"address": BASE + SIZE - 32}),
    (Opcode.LOAD, LOAD | {"address": BASE + SIZE - 8, "rows": 1, "row_bytes": 16, "packed4": 1}),
    (Opcode.STORE, STORE | {"base": 63}),
    (Opcode.STORE, STORE | {"packed": 1, "row_bytes": 4, "row_stride": 4}),
    (Opcode.STORE, STATS | {"base": 14}),
    (Opcode.COMPUTE, COMPUTE | {"left0_base": 127, "right0_base": 127, "out_base": 62}),
    (Opcode.COMPUTE, COMPUTE | {"scale_m": 3, "scale_n": 50, "stat_slot": 200, "acc_base": 9999, "result_base": 9999}),
    (Opcode.COMPUTE, CHAIN | {"k0": 1, "k1": 1, "shift": 16}),
    (Opcode.COMPUTE, CHAIN | {"device_shift": 1, "shift": 3, "t_low": 7, "t_high": 10, "exponent_slot": 15}),
    (Opcode.COMPUTE, COMPUTE | {"shift_up": 1, "t_low": 63, "t_high": 1, "exponent_slot": 255}),
    (Opcode.COMPUTE, INT8 | {"scale_mode": ScaleMode.ROW, "scale_m": 0, "scale_base": 63}),
]


@pytest.fixture
def device() -> ReferenceDevice:
    return ReferenceDevice(CONFIG, memory_bytes=SIZE, memory_base=BASE)


def fault_of(device: ReferenceDevice, *commands: Command) -> DeviceFault:
    with pytest.raises(DeviceFault) as caught:
        device.run(CommandList.of(commands))
    return caught.value


@pytest.mark.parametrize(("opcode", "fields", "code", "detail"), CASES)
def test_check(device: ReferenceDevice, opcode: Opcode, fields: dict[str, int], code: Code, detail: Check) -> None:
    command = Command.make(opcode, **fields)
    fault = fault_of(device, Command.make(Opcode.LOAD, **LOAD), command)
    status = fault.status
    assert (status.code, status.detail, status.unit.name, status.command) == (code, detail, opcode.name, 1)
    assert code.name in str(fault)
    assert opcode.name in fault.disassembly
    assert list(problems(command, CONFIG, device.window)), "the compiler's rules let it pass"


@pytest.mark.parametrize(("opcode", "fields"), LEGAL)
def test_the_last_legal_value_passes(device: ReferenceDevice, opcode: Opcode, fields: dict[str, int]) -> None:
    command = Command.make(opcode, **fields)
    assert list(problems(command, CONFIG, device.window)) == []
    assert device.run(CommandList.of([command])).commands_done == 1


def test_unknown_opcode_and_reserved_bits(device: ReferenceDevice) -> None:
    for first, word, expected in (
        (9, 0, (Code.BAD_OPCODE, Check.NONE, Unit.FETCH)),
        (int(Opcode.COMPUTE), 31, (Code.BAD_FIELD, Check.RESERVED, Unit.COMPUTE)),
    ):
        data = bytearray(COMMAND_BYTES)
        data[0] = first
        data[4 * word + 3] |= 0x80
        with pytest.raises(DeviceFault, match="not a command") as caught:
            device.run(bytes(data))
        status = caught.value.status
        assert (status.code, status.detail, status.unit) == expected


def test_an_earlier_check_wins(device: ReferenceDevice) -> None:
    everything = {"target": 3, "rows": 0, "address": 1, "base": 999, "row_bytes": 8}
    assert fault_of(device, Command.make(Opcode.LOAD, **everything)).status.detail is Check.ENUM
    everything["target"] = 0
    assert fault_of(device, Command.make(Opcode.LOAD, **everything)).status.detail is Check.SIZE
    everything["rows"] = 1
    assert fault_of(device, Command.make(Opcode.LOAD, **everything)).status.code is Code.MISALIGNED
    everything["address"] = 0
    assert fault_of(device, Command.make(Opcode.LOAD, **everything)).status.detail is Check.LEFT
    everything["base"] = 0
    assert fault_of(device, Command.make(Opcode.LOAD, **everything)).status.code is Code.DRAM_WINDOW


def test_unmet_wait_and_full_semaphore_are_the_watchdogs(device: ReferenceDevice) -> None:
    waits = Command.make(Opcode.COMPUTE, **CHAIN, segment_wait=2)
    gives = Command.make(Opcode.LOAD, **LOAD, signal=2)
    fault = fault_of(device, waits)
    assert fault.status == Status(Code.WATCHDOG)  # of the whole machine, as the RTL has it
    assert str(fault) == "WATCHDOG\n0 of 1 commands were complete"
    device.run(CommandList.of([gives, waits]))
    assert fault_of(device, gives, waits, waits).disassembly == "2 of 3 commands were complete"
    device.run(CommandList.of([gives] * 15))
    assert fault_of(device, *[gives] * 16).disassembly == "15 of 16 commands were complete"


def test_list_outside_the_window() -> None:
    device = ReferenceDevice(CONFIG, SIZE, BASE, window=(BASE + SIZE // 2, BASE + SIZE))
    status = fault_of(device, Command.make(Opcode.LOAD, **LOAD | {"address": BASE + SIZE // 2})).status
    assert (status.code, status.detail, status.unit) == (Code.DRAM_WINDOW, Check.LIST, Unit.FETCH)


def test_a_device_works_on_after_a_fault(device: ReferenceDevice) -> None:
    fault_of(device, Command.make(Opcode.LOAD, **LOAD | {"rows": 0}))
    assert device.run(CommandList.of([Command.make(Opcode.LOAD, **LOAD)])).commands_done == 1


@pytest.mark.parametrize(("data", "message"), [(b"", "at least one command"), (b"x" * 100, "not 100 bytes")])
def test_no_list(device: ReferenceDevice, data: bytes, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        device.run(data)


def test_unknown_device_names_the_choices() -> None:
    with pytest.raises(DeviceError, match=r"reference, direct, verilator, serial:<port> or pynq:<bitfile>, not 'abacus'"):
        open_device("abacus")
    with pytest.raises(DeviceError, match="tiny, tiny-vector, ecp5, base, base-vector, large, paper"):
        open_device("reference", "huge")
