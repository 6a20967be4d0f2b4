# amaranth: UnusedElaboratable=no
"""Parts of the serial link's device side, each against an integer model."""

from __future__ import annotations

import random
import zlib

import pytest

from loralith.device.link.frames import Frame, cobs_decode, cobs_encode
from loralith.soc.link.cobs import CobsDecoder, CobsEncoder
from loralith.soc.link.crc import Crc32
from loralith.soc.link.decoder import RegisterDecoder
from loralith.soc.link.link import LinkConfig
from loralith.soc.link.receiver import FrameBuffer, FrameCheck
from loralith.soc.link.uart import UartReceiver, UartTransmitter
from loralith.spec.link import CRC_BYTES, FRAME_BYTES, MIN_FRAME_BYTES, RECEIVE_BYTES, Operation, divider
from loralith.verif.block_test import simulate


@pytest.mark.parametrize("cycles", [4, 5, 27])
def test_the_uart_sends_and_receives_what_a_model_does(cycles: int) -> None:
    data = bytes([0x55, 0, 0xFF, 0xA3])
    levels = [level for byte in data for bit in (0, *(byte >> i & 1 for i in range(8)), 1) for level in [bit] * cycles]
    sent: list[int] = []

    async def transmit(ctx) -> None:
        at = 0
        ctx.set(transmitter.i.valid, 1)
        ctx.set(transmitter.i.payload, data[0])
        while len(sent) < len(levels):
            taken = ctx.get(transmitter.i.ready) and ctx.get(transmitter.i.valid)
            await ctx.tick()
            if taken:
                at += 1
                ctx.set(transmitter.i.valid, at < len(data))
                ctx.set(transmitter.i.payload, data[min(at, len(data) - 1)])
            if at:
                sent.append(ctx.get(transmitter.tx))
        await ctx.tick()
        assert ctx.get(transmitter.tx) == 1

    transmitter = UartTransmitter(cycles)
    simulate(transmitter, transmit)
    assert sent == levels

    # The receiver takes a line whose bits are up to 2 % longer or shorter, and one that begins with a spike.
    for length in (cycles * 0.98, cycles, cycles * 1.02) if cycles > 4 else (cycles,):
        receiver, received = UartReceiver(cycles), []

        async def receive(ctx, receiver=receiver, received=received, length=length) -> None:
            line = (
                [1] * 10 + [0] + [1] * cycles + [levels[cycles * int(t / length)] for t in range(int(10 * len(data) * length))] + [1] * 20
            )
            for level in line:
                ctx.set(receiver.rx, level)
                await ctx.tick()
                if ctx.get(receiver.o.valid):
                    received.append((ctx.get(receiver.o.payload.byte), ctx.get(receiver.o.payload.broken)))

        simulate(receiver, receive)
        assert received == [(byte, 0) for byte in data]


def test_a_missing_stop_bit_breaks_one_byte_and_a_low_line_gives_no_more() -> None:
    receiver, received = UartReceiver(5), []

    async def bench(ctx) -> None:
        good = [bit for bit in (0, 1, 0, 1, 0, 0, 0, 0, 0, 1) for _ in range(5)]
        for level in [1] * 5 + [0] * 400 + [1] * 9 + good + [1] * 9:
            ctx.set(receiver.rx, level)
            await ctx.tick()
            if ctx.get(receiver.o.valid):
                received.append((ctx.get(receiver.o.payload.byte), ctx.get(receiver.o.payload.broken)))

    simulate(receiver, bench)
    assert received == [(0, 1), (5, 0)]


def test_the_crc_is_zlib_s() -> None:
    dut, data = Crc32(), random.Random(0).randbytes(40)

    async def bench(ctx) -> None:
        ctx.set(dut.en, 1)
        for at, byte in enumerate(data):
            ctx.set(dut.byte, byte)
            ctx.set(dut.clear, at == 20)
            await ctx.tick()
            start = 20 if at >= 20 else 0
            assert ctx.get(dut.register) ^ 0xFFFF_FFFF == zlib.crc32(data[start : at + 1])

    simulate(dut, bench)


def blocks(draw: random.Random) -> list[bytes]:
    """Frames of all kinds for the stuffing: runs around 254 bytes, zeros at both ends and in a row."""
    runs = [bytes(draw.randrange(1, 256) for _ in range(n)) for n in (1, 5, 253, 254, 255, 509)]
    return [*runs, *(run + b"\0" for run in runs), b"\0" + runs[2], b"\0", b"\0\0\0", runs[1] + b"\0\0" + runs[3] + b"\0" + runs[0]]


def test_the_encoder_stuffs_and_the_decoder_takes_it_back() -> None:
    draw = random.Random(5)
    frames = blocks(draw)
    encoder, decoder = CobsEncoder(), CobsDecoder()
    coded = bytearray()

    async def encode(ctx) -> None:
        items = [(byte, at == len(frame) - 1) for frame in frames for at, byte in enumerate(frame)]
        at, quiet = 0, 0
        while quiet < 20:
            ctx.set(encoder.i.valid, at < len(items))
            if at < len(items):
                ctx.set(encoder.i.payload.byte, items[at][0])
                ctx.set(encoder.i.payload.last, items[at][1])
            ctx.set(encoder.o.ready, draw.random() < 0.7)
            taken = ctx.get(encoder.i.ready) and at < len(items)
            given = ctx.get(encoder.o.valid)
            if given and ctx.get(encoder.o.ready):
                coded.append(ctx.get(encoder.o.payload))
            await ctx.tick()
            at, quiet = at + bool(taken), 0 if given or at < len(items) else quiet + 1

    simulate(encoder, encode)
    assert [cobs_decode(piece) for piece in bytes(coded).split(b"\0")[:-1]] == frames
    assert len(coded) <= sum(len(frame) + 2 + len(frame) // 254 for frame in frames)

    # Both ways of writing a run of 254 bytes at the end, with and without an empty block behind it.
    pieces = [*bytes(coded).split(b"\0")[:-1], *map(cobs_encode, frames), b"\x05abc", b"\x02"]
    found: list[bytes | None] = []

    async def decode(ctx) -> None:
        frame = bytearray()
        ctx.set(decoder.i.valid, 1)
        for byte in b"".join(piece + b"\0" for piece in pieces):
            ctx.set(decoder.i.payload.byte, byte)
            if ctx.get(decoder.o.valid) and ctx.get(decoder.o.payload.end):
                found.append(None if ctx.get(decoder.o.payload.damaged) else bytes(frame))
                frame.clear()
            elif ctx.get(decoder.o.valid):
                frame.append(ctx.get(decoder.o.payload.byte))
            await ctx.tick()

    simulate(decoder, decode)
    assert found == [*frames, *frames, None, None]


def damage(frame: bytes, draw: random.Random) -> bytes:
    """The frame's bytes with one to three faults of a line."""
    out = bytearray(frame)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(max(1, len(out)))
        kind = draw.randrange(5)
        if kind == 0:
            del out[at : at + draw.randrange(1, 4)]
        elif kind == 1 and out:
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            out[at:at] = out[at : at + 1]
        elif kind == 3:
            out[at:at] = draw.randbytes(draw.randrange(1, 5))
        else:
            out[at : at + 2] = out[at : at + 2][::-1]
    return bytes(out)


def test_no_damaged_frame_is_accepted_and_every_whole_one_is() -> None:
    """200 frames, every second one damaged: decoder, check and buffer give what the model gives, which splits at zeros and asks zlib."""
    draw = random.Random(11)
    stream = bytearray()
    for seq in range(200):
        payload = draw.randbytes(draw.choice([0, 4, 4, 30]))
        frame = Frame(Operation.ECHO, seq, 7, length=len(payload), payload=payload).encode()
        stream += damage(frame, draw) if seq % 2 else frame
    expected = [frame for piece in bytes(stream).split(b"\0") if (frame := Frame.decode(piece))]
    assert 100 >= len(expected) > 60  # a damaged frame may take the next one's place in the line

    decoder, check, buffer = CobsDecoder(), FrameCheck(), FrameBuffer()
    found = run_chain(decoder, check, buffer, bytes(stream), draw)
    assert found == [(cobs_decode(frame.encode()[:-1]) or b"")[:-CRC_BYTES] for frame in expected]


def run_chain(decoder: CobsDecoder, check: FrameCheck, buffer: FrameBuffer, stream: bytes, draw: random.Random, ready: float = 0.8):
    from amaranth.hdl import Module
    from amaranth.lib.wiring import connect

    m = Module()
    m.submodules.decoder, m.submodules.check, m.submodules.buffer = decoder, check, buffer
    connect(m, decoder.o, check.i)
    connect(m, check.o, buffer.i)
    found, frame = [], bytearray()

    async def bench(ctx) -> None:
        for cycle in range(3 * len(stream) + 4 * RECEIVE_BYTES * (ready == 0) + 1800):
            ctx.set(decoder.i.valid, cycle % 3 == 0 and cycle < 3 * len(stream))
            if cycle < 3 * len(stream):
                ctx.set(decoder.i.payload.byte, stream[cycle // 3])
            ctx.set(buffer.o.ready, draw.random() < ready if cycle < 3 * len(stream) else 1)
            if ctx.get(buffer.o.valid) and ctx.get(buffer.o.ready):
                frame.append(ctx.get(buffer.o.payload.byte))
                if ctx.get(buffer.o.payload.last):
                    found.append(bytes(frame))
                    frame.clear()
            await ctx.tick()

    simulate(m, bench)
    assert not frame
    return found


def test_a_buffer_that_is_full_forgets_whole_frames() -> None:
    draw = random.Random(2)
    payloads = [draw.randbytes(490) for _ in range(10)]
    stream = b"".join(Frame(Operation.ECHO, i, 7, length=490, payload=p).encode() for i, p in enumerate(payloads))
    short = Frame(Operation.ECHO, 99, 7).encode()
    found = run_chain(CobsDecoder(), FrameCheck(), FrameBuffer(), stream + short, draw, ready=0)
    assert [frame[12:] for frame in found] == [*payloads[:8], b""]


@pytest.mark.parametrize("size", [MIN_FRAME_BYTES - 1, MIN_FRAME_BYTES, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES])
def test_a_frame_that_is_too_short_or_too_long_is_refused_though_its_crc_fits(size: int) -> None:
    content = random.Random(size).randbytes(size - CRC_BYTES)
    coded = cobs_encode(content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")) + b"\0"
    found = run_chain(CobsDecoder(), FrameCheck(), FrameBuffer(), coded, random.Random(0))
    assert found == ([content] if MIN_FRAME_BYTES <= size <= FRAME_BYTES else [])


def test_registers_of_no_file_are_answered_with_decerr() -> None:
    dut = RegisterDecoder({"low": (0, 9), "high": (0x8000, 12)})

    async def bench(ctx) -> None:
        for port, value in ((dut.low, 11), (dut.high, 22)):
            for name in ("awready", "wready", "arready", "bvalid", "rvalid"):
                ctx.set(getattr(port, name), 1)
            ctx.set(port.rdata, value)
        for name in ("bready", "rready"):
            ctx.set(getattr(dut.i, name), 1)
        for address, expected in ((0, 11), (0x1FC, 11), (0x8000, 22), (0x8FFC, 22), (0x200, None), (0x7FFC, None), (0x9000, None)):
            ctx.set(dut.i.araddr, address)
            ctx.set(dut.i.awaddr, address)
            for name in ("arvalid", "awvalid", "wvalid"):
                ctx.set(getattr(dut.i, name), 1)
            selected = [ctx.get(port.arvalid) * ctx.get(port.awvalid) for port in (dut.low, dut.high)]
            assert selected == [expected == 11, expected == 22]
            if expected is None:
                assert ctx.get(dut.i.arready) and ctx.get(dut.i.awready) and ctx.get(dut.i.wready)  # noqa: PT018
                await ctx.tick()
                for name in ("arvalid", "awvalid", "wvalid"):
                    ctx.set(getattr(dut.i, name), 0)
                assert (ctx.get(dut.i.bvalid), ctx.get(dut.i.bresp), ctx.get(dut.i.rvalid), ctx.get(dut.i.rresp)) == (1, 3, 1, 3)
                await ctx.tick()
            assert ctx.get(dut.i.rvalid) == (expected is not None)
            assert ctx.get(dut.i.rdata) == (expected or 0)

    simulate(dut, bench)


@pytest.mark.parametrize(("clock", "baud", "cycles"), [(100e6, 3e6, 33), (80e6, 3e6, 27), (100e6, 25e6, 4), (95e6, 3e6, 32)])
def test_the_divider(clock: float, baud: float, cycles: int) -> None:
    assert divider(clock, baud) == cycles


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"3e\+06 baud cannot be made of a clock of 1e\+07 Hz"):
        divider(10e6, 3e6)
    with pytest.raises(ValueError, match="divider must be at least 4 cycles per bit, not 3"):
        UartReceiver(3)
    with pytest.raises(ValueError, match="base of low must be a multiple of 0x200, not 0x100"):
        RegisterDecoder({"low": (0x100, 9)})
    good = {"divider": 4, "bus_bytes": 8, "config_hash": 0, "memory_base": 0, "memory_bytes": 1 << 20}
    for field, value, message in (
        ("bus_bytes", 12, "bus_bytes must be a power of two of at least 4, not 12"),
        ("memory_bytes", 1 << 33, "memory must lie below 4 GiB"),
        ("timeout", 1, "timeout must be at least 2 cycles, not 1"),
    ):
        with pytest.raises(ValueError, match=message):
            LinkConfig(**(good | {field: value}))
