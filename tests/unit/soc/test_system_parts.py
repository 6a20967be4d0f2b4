# amaranth: UnusedElaboratable=no
"""The parts around accelerator, link and memory controller: arbiters, registers, LEDs, PLL settings."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Module

from loralith.rtl.axi import Axi4Signature
from loralith.soc.clock import PllSettings
from loralith.soc.interconnect import ReadArbiter, WriteArbiter
from loralith.soc.lights import LIGHTS, Lights
from loralith.soc.registers import SocRegisters
from loralith.soc.system import System, SystemSettings
from loralith.spec.config import Config, ConfigError
from loralith.spec.sdram import ULX3S, SdramTiming
from loralith.spec.soc import SOC_ID, SOC_REGISTERS
from loralith.verif.axi_model import AxiLiteHost, AxiMemory, Stalls
from loralith.verif.block_test import simulate

BYTES, SIZE = 8, 1 << 14


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_masters_share_a_memory_and_each_gets_what_it_asked_for(seed: int) -> None:
    """Each has a half of memory of its own; random bursts, random stalls; the memory checks the bus's rules."""
    rng = random.Random(seed)
    m = Module()
    m.submodules.reads, m.submodules.writes = reads, writes = ReadArbiter(BYTES), WriteArbiter(BYTES)
    slave = Axi4Signature(BYTES, 2).create()
    for arbiter in (reads, writes):
        for name, member in arbiter.slave.signature.members.items():
            inner, outer = getattr(arbiter.slave, name), getattr(slave, name)
            m.d.comb += outer.eq(inner) if member.flow.name == "Out" else inner.eq(outer)
    memory = AxiMemory(slave, BYTES, 0, SIZE, stalls=Stalls.random(rng), seed=seed)
    shadow = bytearray(SIZE)
    done = [0, 0]

    def master(number: int):
        read, write = getattr(reads, f"master{number}"), getattr(writes, f"master{number}")
        own = random.Random(10 * seed + number)

        async def handshake(ctx, bus, channel: str) -> None:
            ctx.set(getattr(bus, channel + "valid"), 1)
            ready = False
            while not ready:
                _, _, ready = await ctx.tick().sample(getattr(bus, channel + "ready"))
            ctx.set(getattr(bus, channel + "valid"), 0)

        async def bench(ctx) -> None:
            for _ in range(25):
                beats = own.choice([1, 2, 7])
                address = number * SIZE // 2 + BYTES * own.randrange(SIZE // 2 // BYTES // 8) * 8
                if own.random() < 0.5:
                    for name, value in (
                        ("awaddr", address),
                        ("awlen", beats - 1),
                        ("awsize", 3),
                        ("awburst", 1),
                        ("awid", own.randrange(2)),
                    ):
                        ctx.set(getattr(write, name), value)
                    await handshake(ctx, write, "aw")
                    for i in range(beats):
                        word = own.randbytes(BYTES)
                        shadow[address + BYTES * i : address + BYTES * (i + 1)] = word
                        ctx.set(write.wdata, int.from_bytes(word, "little"))
                        ctx.set(write.wstrb, 0xFF)
                        ctx.set(write.wlast, i == beats - 1)
                        await handshake(ctx, write, "w")
                    ctx.set(write.bready, 1)
                    valid = False
                    while not valid:
                        _, _, valid, id = await ctx.tick().sample(write.bvalid, write.bid)
                    ctx.set(write.bready, 0)
                    assert id == ctx.get(write.awid)
                else:
                    for name, value in (
                        ("araddr", address),
                        ("arlen", beats - 1),
                        ("arsize", 3),
                        ("arburst", 1),
                        ("arid", own.randrange(2)),
                    ):
                        ctx.set(getattr(read, name), value)
                    await handshake(ctx, read, "ar")
                    for i in range(beats):
                        valid = False
                        while not valid:
                            ctx.set(read.rready, own.random() < 0.7)
                            _, _, valid, ready, word, id, last = await ctx.tick().sample(
                                read.rvalid, read.rready, read.rdata, read.rid, read.rlast
                            )
                            valid = valid and ready
                        ctx.set(read.rready, 0)
                        assert word.to_bytes(BYTES, "little") == shadow[address + BYTES * i : address + BYTES * (i + 1)]
                        assert (id, last) == (ctx.get(read.arid), i == beats - 1)
                done[number] += 1

        return bench

    simulate(m, master(0), master(1), background=[memory.read_side, memory.write_side])
    assert done == [25, 25]
    assert memory.get(0, SIZE) == bytes(shadow)


def test_the_system_s_registers() -> None:
    dut = SocRegisters()
    offsets = {register.name: register.offset for register in SOC_REGISTERS}

    async def bench(ctx) -> None:
        host = AxiLiteHost(dut.axi, seed=1, stall=0.2)
        assert await host.read(ctx, offsets["ID"]) == (SOC_ID, 0)
        ctx.set(dut.started, 1)
        assert await host.read(ctx, offsets["STATUS"]) == (1, 0)
        ctx.set(dut.irq, 1)
        assert await host.read(ctx, offsets["STATUS"]) == (3, 0)
        assert await host.write(ctx, offsets["SCRATCH"], 0x1234_5678) == 0
        assert await host.write(ctx, offsets["SCRATCH"], 0xAABB_CCDD, 0b0101) == 0
        assert await host.read(ctx, offsets["SCRATCH"]) == (0x12BB_56DD, 0)
        first, _ = await host.read(ctx, offsets["CYCLES"])
        await ctx.tick().repeat(100)
        second, _ = await host.read(ctx, offsets["CYCLES"])
        assert 100 < second - first < 130
        ctx.set(dut.read_beat, 1)
        await ctx.tick().repeat(7)
        ctx.set(dut.read_beat, 0)
        assert await host.read(ctx, offsets["READ_BEATS"]) == (7, 0)
        assert await host.read(ctx, offsets["WRITE_BEATS"]) == (0, 0)
        assert await host.write(ctx, offsets["ID"], 1) == 0
        assert await host.read(ctx, offsets["ID"]) == (SOC_ID, 0)
        assert (await host.read(ctx, 0x1C))[1] == 2
        assert await host.write(ctx, 0x18, 0) == 2

    simulate(dut, bench)


def test_leds_show_levels_and_stretch_events() -> None:
    dut = Lights(256)  # a frame of sixteen cycles
    bit = {name: 1 << i for i, name in enumerate(LIGHTS)}

    async def bench(ctx) -> None:
        ctx.set(dut.receive, 1)
        ctx.set(dut.transmit, 1)
        ctx.set(dut.memory, 1)
        seen = 0
        for _ in range(300):
            await ctx.tick()
            seen |= ctx.get(dut.led)
        assert seen == bit["clock"] | bit["memory"]
        ctx.set(dut.receive, 0)
        ctx.set(dut.write, 1)
        await ctx.tick()
        ctx.set(dut.receive, 1)
        ctx.set(dut.write, 0)
        shown = 0
        for _ in range(60):
            await ctx.tick()
            shown += ctx.get(dut.led) & (bit["receive"] | bit["write"]) == bit["receive"] | bit["write"]
        assert shown == 16
        ctx.set(dut.irq, 1)
        await ctx.tick()
        assert ctx.get(dut.led) & bit["irq"]

    simulate(dut, bench)


@pytest.mark.parametrize("mhz", [50, 75, 80, 95, 100, 125])
def test_pll_settings_make_the_clock_within_the_part_s_limits(mhz: float) -> None:
    pll = PllSettings.of(25, mhz, 270)
    assert 25 / pll.input * pll.feedback == pytest.approx(mhz)
    assert 400 <= mhz * pll.output <= 800
    assert 25 / pll.input >= 3.125
    assert abs(pll.shift / 8 / pll.output - 0.75) < 1 / 16 / pll.output + 1e-9


@pytest.mark.parametrize("mhz", [80, 100])
def test_pll_parameters_are_those_of_ecppll(mhz: float, tmp_path: Path) -> None:
    tool = Path(sys.executable).parent / "yowasp-ecppll"
    command = [str(tool), "-i", "25", "-o", str(mhz), "--clkout1", str(mhz), "--phase1", "270", "-f", "pll.v"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "pll.v").read_text()
    ours = PllSettings.of(25, mhz, 270).parameters
    values = {name: int(value) for name, value in re.findall(r"\.(\w+)\((\d+)\)", text)}
    ratio = {name: values[name] for name in ("CLKI_DIV", "CLKFB_DIV", "CLKOP_DIV", "CLKOS_DIV")}
    phases = {name: values[name] for name in ("CLKOP_CPHASE", "CLKOS_CPHASE", "CLKOS_FPHASE")}
    assert 25 / ratio["CLKI_DIV"] * ratio["CLKFB_DIV"] == mhz
    assert ratio["CLKOP_DIV"] == ours["p_CLKOP_DIV"]
    assert ours["p_CLKOP_CPHASE"] == phases["CLKOP_CPHASE"]
    assert 8 * ours["p_CLKOS_CPHASE"] + ours["p_CLKOS_FPHASE"] == pytest.approx(8 * phases["CLKOS_CPHASE"] + phases["CLKOS_FPHASE"], abs=4)


def test_a_clock_that_a_pll_cannot_make_is_refused() -> None:
    with pytest.raises(ValueError, match=r"makes no 81\.37 MHz of 25 MHz"):
        PllSettings.of(25, 81.37, 0)


def test_a_bus_that_is_wider_than_the_memory_s_is_refused() -> None:
    config = Config("wide", 4, 4, 16, 4, 4096, 4096, 4096, 1024)
    with pytest.raises(ConfigError, match="a bus of 8 bytes, not 16"):
        System(config, SystemSettings(ULX3S, SdramTiming.of(ULX3S, 80), 4, False))
