"""The serial device's host side without a board: ports that cannot be used, boards that are none, and a model of a board's sessions."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.model_board import BASE, CONFIG, SIZE, ModelBoard
from loralith.device import ConfigMismatch, DeviceError, OutOfMemory, open_device
from loralith.device.link.frames import Frame, FrameReader, cobs_decode, cobs_encode
from loralith.device.link.line_timing import AnswerTime
from loralith.device.link.link_errors import LinkError
from loralith.device.serial import SerialDevice
from loralith.spec.link import FRAME_BYTES, MAGIC, MAX_PAYLOAD, PROTOCOL, Operation, Status
from loralith.spec.registers import ID, REGISTERS


def open_serial(path: str, **options) -> SerialDevice:
    return SerialDevice(CONFIG, path, **({"patience": 0.6} | options))


# Frames.


def test_stuffing_costs_one_byte_in_254() -> None:
    draw = np.random.default_rng(0)
    for size in (0, 1, 253, 254, 255, 508, FRAME_BYTES):
        for zeros in (0.0, 0.02, 1.0):
            data = np.where(draw.random(size) < zeros, 0, draw.integers(1, 256, size)).astype(np.uint8).tobytes()
            coded = cobs_encode(data)
            assert 0 not in coded
            assert len(coded) <= size + 1 + size // 254
            assert cobs_decode(coded) == data


def test_a_reader_that_gets_no_delimiter_does_not_grow() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert reader.feed(b"\x55" * 1000) == []
    assert len(reader._rest) <= 1000 + 2 * FRAME_BYTES
    assert reader.damaged > 0
    frame = Frame(Operation.ECHO, 3, 9, payload=b"x", length=1)
    assert reader.feed(b"\0" + frame.encode()) == [frame]


def test_the_limit_of_an_answer_follows_the_line() -> None:
    line = AnswerTime(1.5)
    for _ in range(100):
        line.sample(0.001 + 1e-5 * 500, 500)
    assert 0.02 < line.limit(500, 0) < 0.1
    assert line.limit(500, 2) == pytest.approx(4 * line.limit(500, 0))
    assert line.limit(1 << 20, 0) == 1.5


# Ports.


def test_a_port_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"there is no port .*ttyUSB9: is the board plugged in and on\? Ports here: "):
        open_device(f"serial:{tmp_path / 'ttyUSB9'}", "tiny")
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="file is no serial port"):
        open_device(f"serial:{tmp_path / 'file'}", "tiny")
    with pytest.raises(DeviceError, match="baud must be a rate that this system knows, such as 3000000, not 123"):
        open_device("serial:/dev/null", "tiny", baud=123)
    with pytest.raises(DeviceError, match="serial:<port>"):
        open_device("serial", "tiny")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, r"no permission .*dialout.*SUBSYSTEM==\"tty\".*50-loralith.rules"),
        (errno.EBUSY, "is in use by another program"),
        (errno.EIO, "cannot be opened"),
    ],
)
def test_what_the_system_refuses_is_told_with_what_to_do(number: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeviceError, match=message):
        open_serial("/dev/ttyUSB0")


def test_a_port_in_use_is_told(terminal) -> None:
    path = terminal(ModelBoard().receive)
    with open_serial(path), pytest.raises(DeviceError, match=r"is in use by another program: end that one \(`fuser"):
        open_serial(path)
    other = os.open(path, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(DeviceError, match="is in use"):
        open_serial(path)
    os.close(other)
    open_serial(path).close()


# Boards that are none, or others.


def test_a_silent_port_is_told(terminal) -> None:
    with pytest.raises(LinkError, match=r"no board answers on .*: not a byte has come within 0.6 s"):
        open_serial(terminal(lambda data: b""))


@pytest.mark.parametrize(
    "speak", [lambda data: b"ok\r\n> ", lambda data: data, lambda data: os.urandom(300)], ids=["shell", "echo", "noise"]
)
def test_another_device_is_told(speak: Callable[[bytes], bytes], terminal) -> None:
    with pytest.raises(LinkError, match=r"is no loralith, or runs at another baud rate: \d+ bytes have come that are no answer"):
        open_serial(terminal(speak))


def test_a_bitstream_of_another_version_or_configuration_is_told(terminal) -> None:
    board = ModelBoard()
    path = terminal(board.receive)
    board.identity["protocol"] = 9
    with pytest.raises(LinkError, match="speaks version 9 of the link's protocol, this driver version 1: load a bitstream"):
        open_serial(path)
    board.identity |= {"protocol": PROTOCOL, "magic": 5}
    with pytest.raises(LinkError, match="its identity begins with 05 00 00 00"):
        open_serial(path)
    board.identity |= {"magic": MAGIC, "config_hash": 77}
    with pytest.raises(ConfigMismatch, match="configuration hash is 0x0000004d"):
        open_serial(path)
    board.identity["config_hash"] = CONFIG.hash
    board.registers[REGISTERS["VERSION"].offset] = 1 << 16
    with pytest.raises(DeviceError, match=r"interface version 1\.0\.0, the driver"):
        open_serial(path)


def test_too_little_memory_is_told_with_the_numbers(terminal) -> None:
    path = terminal(ModelBoard().receive)
    with pytest.raises(DeviceError, match=f"memory_bytes must be at most {SIZE}, which is what the board on .* has, not {SIZE + 1}"):
        open_serial(path, memory_bytes=SIZE + 1)
    with open_serial(path) as device, pytest.raises(OutOfMemory, match=r"no 70000 bytes .* the board has 65,536 bytes in all"):
        device.alloc(70000)
    with open_serial(path, memory_bytes=4096) as device, pytest.raises(OutOfMemory, match="memory_bytes=8192 or more instead of 4096"):
        device.alloc(5000)


# Sessions and what gets lost.


def test_memory_and_registers_reach_the_board(terminal) -> None:
    board = ModelBoard()
    data = np.random.default_rng(1).integers(0, 256, 20_000, dtype=np.uint8)
    with open_serial(terminal(board.receive)) as device:
        device.write(BASE + 3, data)
        assert board.memory[3 : 3 + data.size] == data.tobytes()
        np.testing.assert_array_equal(device.read(BASE + 3, data.size), data)
        assert device.same(BASE + 3, data.tobytes())
        assert not device.same(BASE + 4, data.tobytes())
        device.fill(BASE + 1, 65_000, 0x04030201)
        assert board.memory[:8] == bytes([0, 2, 3, 4, 1, 2, 3, 4])
        device.write_soc_register(4, 0xFFFF_FFFF)
        assert board.registers[0x8004] == device.read_soc_register(4) == 0xFFFF_FFFF
        # Whatever has been opened at its limits: 512 bytes a frame, and what lies outside of memory never reaches the line.
        assert max(frame.length for frame in board.executed if frame.operation == Operation.WRITE_MEMORY) == MAX_PAYLOAD
        with pytest.raises(DeviceError, match="not inside device memory"):
            device.fill(BASE, SIZE + 1)


@pytest.mark.parametrize("answers", [False, True], ids=["requests", "answers"])
def test_what_is_lost_is_sent_again_and_executed_once(answers: bool, terminal) -> None:
    draw = np.random.default_rng(2)
    board = ModelBoard()
    with open_serial(terminal(board.receive), patience=10.0) as device:
        board.lose = lambda frame: frame.response == answers and draw.random() < 0.3
        before = len(board.executed)
        device.write_registers([(0x30 + 4 * (i % 4), i) for i in range(60)])
        written = [int.from_bytes(frame.payload, "little") for frame in board.executed[before:]]
        assert written == list(range(60))  # each once, and in order
        data = draw.integers(0, 256, 6000, dtype=np.uint8)
        device.write(BASE, data)
        np.testing.assert_array_equal(device.read(BASE, data.size), data)
        assert device.link.resent > 20


def test_an_error_answer_is_an_error_and_the_session_goes_on(terminal) -> None:
    board = ModelBoard()
    board.errors = {0x44: Status.SLAVE_ERROR, BASE + 0x400: Status.DECODE_ERROR, 0x8000: Status.TIMEOUT}
    with open_serial(terminal(board.receive)) as device:
        session = board.session
        with pytest.raises(LinkError, match="READ_REGISTER at 0x44: the bus answers SLVERR at 0x44") as told:
            device.read_register(0x44)
        assert told.value.status is Status.SLAVE_ERROR
        with pytest.raises(LinkError, match="WRITE_MEMORY at 0x1400: the bus answers DECERR at 0x1400: nothing lies there"):
            device.write(BASE, bytes(3000))
        with pytest.raises(LinkError, match="the bus does not answer: load the bitstream again"):
            device.read_soc_register(0)
        device.write(BASE + 0x800, b"fine")
        assert bytes(device.read(BASE + 0x800, 4)) == b"fine"
        assert board.session == session


def test_a_board_that_was_reset_or_taken_over_is_told(terminal) -> None:
    board = ModelBoard()
    with open_serial(terminal(board.receive)) as device:
        board.session = 0
        with pytest.raises(LinkError, match="no longer knows this session: it has been reset or configured anew; open the device again"):
            device.read_register(0)
    with open_serial(terminal(board.receive)) as device:
        board.session ^= 1
        with pytest.raises(LinkError, match="another program has begun a session with it"):
            device.read_register(0)


def test_a_board_that_falls_silent_is_told(terminal) -> None:
    board = ModelBoard()
    with open_serial(terminal(board.receive)) as device:
        board.lose = lambda frame: True
        with pytest.raises(LinkError, match=r"has not answered for 0.6 s: \d+ requests are open, \d+ were sent again"):
            device.write(BASE, bytes(2000))
        board.lose = lambda frame: False
        device.write(BASE, b"again")  # in a new session
        assert board.memory[:5] == b"again"


def test_a_call_that_is_interrupted_leaves_nothing_behind(terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    board = ModelBoard()
    with open_serial(terminal(board.receive)) as device:
        session = board.session
        real = device.link._receive

        def interrupted(seconds: float) -> list[Frame]:
            raise KeyboardInterrupt

        monkeypatch.setattr(device.link, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.write(BASE, bytes(2000))
        monkeypatch.setattr(device.link, "_receive", real)
        assert device.read_register(0) == ID
        assert board.session != session


def test_late_answers_of_another_session_are_ignored(terminal) -> None:
    board = ModelBoard()
    ghosts = [Frame(Operation.READ_REGISTER, seq, 0x7777, value=13, response=True).encode() for seq in range(8)]

    def receive(data: bytes) -> bytes:
        return b"".join(ghosts) + board.receive(data)

    with open_serial(terminal(receive)) as device:
        assert device.read_registers([0, 8]) == [ID, CONFIG.hash]


def test_a_board_that_answers_late_is_waited_for(terminal) -> None:
    board = ModelBoard()

    def receive(data: bytes) -> bytes:
        time.sleep(0.1)  # far above the first limit of an answer
        return board.receive(data)

    with open_serial(terminal(receive), patience=10.0) as device:
        before = len(board.executed)
        device.write_registers([(0x30, i) for i in range(20)])
        assert [frame.payload[0] for frame in board.executed[before:]] == list(range(20))
        device.write(BASE, bytes(range(256)) * 8)
        assert bytes(device.read(BASE, 2048)) == bytes(range(256)) * 8
