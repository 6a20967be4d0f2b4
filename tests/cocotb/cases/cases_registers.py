"""The AXI4-Lite port: every register, in every order of address and data, and under back-pressure."""

import itertools
import random

import numpy as np

from loralith.spec.config import load_config
from loralith.spec.registers import ADDRESS_BITS, REGISTERS, WATCHDOG_RESET, Access
from loralith.spec.version import VERSION
from loralith.verif.bench.axi_memory import stalls
from loralith.verif.bench.runner import job
from loralith.verif.bench.testbench import Bench, case


async def started(dut) -> Bench:
    bench = Bench(dut)
    bench.attach(0, np.zeros(4096, np.uint8))
    await bench.reset()
    return bench


@case
async def reset_values(dut) -> None:
    bench = await started(dut)
    expected = {
        "ID": REGISTERS["ID"].reset,
        "VERSION": VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2],
        "CONFIG_HASH": load_config(job()["config"]).hash,
        "WATCHDOG": WATCHDOG_RESET,
    }
    for name, register in REGISTERS.items():
        if register.access is not Access.WO:
            assert await bench.get(name) == expected.get(name, 0), name
    assert dut.irq.value == 0


@case
async def written_values_are_read_back(dut) -> None:
    bench = await started(dut)
    rng = random.Random(1)
    writable = {name: r for name, r in REGISTERS.items() if r.access is Access.RW}
    for pattern in (lambda w: (1 << w) - 1, lambda w: rng.getrandbits(w), lambda w: 0xA5A5_A5A5_5A5A_5A5A & ((1 << w) - 1)):
        masks = {name: sum(((1 << b.width) - 1) << b.lsb for b in r.bits) or (1 << r.width) - 1 for name, r in writable.items()}
        values = {name: pattern(r.width) & masks[name] for name, r in writable.items()}
        for name, value in values.items():
            await bench.set(name, value)
        for name, value in values.items():
            assert await bench.get(name) == value, name


@case
async def read_only_registers_keep_their_value(dut) -> None:
    bench = await started(dut)
    for name, register in REGISTERS.items():
        if register.access is Access.RO:
            before = await bench.get(name)
            await bench.control.write(register.offset, b"\xff\xff\xff\xff")  # whatever it answers
            assert await bench.get(name) == before, name


@case
async def address_and_data_in_any_order_and_late_answers(dut) -> None:
    bench = await started(dut)
    write, read = bench.control.write_if, bench.control.read_if
    channels = (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)
    rng = random.Random(2)
    for slow in itertools.product((False, True), repeat=2):
        write.aw_channel.set_pause_generator(stalls(1, 0.7) if slow[0] else iter(lambda: False, True))
        write.w_channel.set_pause_generator(stalls(2, 0.7) if slow[1] else iter(lambda: False, True))
        for i, channel in enumerate(channels[2:]):
            channel.set_pause_generator(stalls(3 + i, 0.5))
        for _ in range(10):
            values = {name: rng.getrandbits(32) for name in ("LIST_LENGTH", "WATCHDOG", "LIST_BASE")}
            for name, value in values.items():
                await bench.set(name, value)
            for name, value in values.items():
                assert await bench.get(name) == value


@case
async def other_addresses_answer_with_an_error(dut) -> None:
    bench = await started(dut)
    words = {r.offset + 4 * i for r in REGISTERS.values() for i in range(r.width // 32)}
    for address in set(range(0, 1 << ADDRESS_BITS, 4)) - words:
        read = await bench.control.read(address, 4)
        written = await bench.control.write(address, b"\xff\xff\xff\xff")
        assert (int(read.resp), int(written.resp)) == (2, 2), hex(address)
    for name, register in REGISTERS.items():
        if register.access is Access.RW:
            assert await bench.get(name) == register.reset, name


@case
async def strobes_write_single_bytes(dut) -> None:
    bench = await started(dut)
    offset = REGISTERS["LIST_LENGTH"].offset
    await bench.set("LIST_LENGTH", 0x1122_3344)
    for lane, value in enumerate((0x11223399, 0x11228899, 0x11778899, 0x66778899)):
        await bench.control.write(offset + lane, bytes([value >> 8 * lane & 0xFF]))
        assert await bench.get("LIST_LENGTH") == value


@case
async def events_stay_pending_until_a_one_is_written(dut) -> None:
    """An empty list is refused with a fault, which is an event; irq follows IRQ_ENABLE."""
    bench = await started(dut)
    await bench.set("CONTROL", 1)
    for _ in range(100):
        if not await bench.get("STATUS") & 1:
            break
    assert await bench.get("STATUS") & 6 == 4, "error and not done"
    assert await bench.get("IRQ_STATUS") == 2
    assert dut.irq.value == 0
    for enabled, irq in ((1, 0), (2, 1), (3, 1), (0, 0), (2, 1)):
        await bench.set("IRQ_ENABLE", enabled)
        assert dut.irq.value == irq, f"enabled {enabled}"
    for written, left in ((0, 2), (1, 2), (2, 0)):
        await bench.set("IRQ_STATUS", written)
        assert await bench.get("IRQ_STATUS") == left
        assert dut.irq.value == left >> 1
