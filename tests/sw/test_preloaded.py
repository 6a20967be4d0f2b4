"""Set-up that a simulated board's memory gets beside the line: which bytes go where, and that the line compares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.model_board import CONFIG, Terminal, WorkingBoard
from loralith.board.preloaded import PreloadedDevice
from loralith.device.device_errors import DeviceError
from loralith.spec.link import Operation

BYTES = np.random.default_rng(5).integers(0, 256, 40_000, dtype=np.uint8)


class LoadableModel:
    """A board in Python whose memory takes files. ``spoil``: what becomes of their bytes."""

    def __init__(self) -> None:
        self.model = WorkingBoard()
        self.terminal = Terminal(self.model.receive)
        self.port = self.terminal.path
        self.spoil = lambda data: data

    def load(self, path: Path, address: int) -> None:
        data = self.spoil(path.read_bytes())
        at = address - self.model.base
        self.model.memory[at : at + len(data)] = data

    def stats(self) -> dict[str, int]:
        return {"bytes_to_board": self.over_the_line()}

    def over_the_line(self) -> int:
        return sum(len(frame.payload) for frame in self.model.executed if frame.operation == Operation.WRITE_MEMORY)


@pytest.fixture
def board() -> Iterator[LoadableModel]:
    one = LoadableModel()
    yield one
    one.terminal.close()


def test_large_writes_of_the_set_up_go_beside_the_line(board: LoadableModel) -> None:
    with PreloadedDevice(CONFIG, board, through_pins=10_000, patience=3.0) as device:
        small, large, second, odd = (device.alloc(BYTES.size) for _ in range(4))
        device.write(small, BYTES[:4096])
        device.write(large, BYTES)
        device.write(second, BYTES[:9000])
        device.write(odd + 3, BYTES[:5000])  # not at a word of the memory model
        assert device.preloaded == BYTES.size - 10_000 + 9000
        assert board.over_the_line() == 4096 + 10_000 + 5000
        assert np.array_equal(device.read(small, 4096), BYTES[:4096])
        assert np.array_equal(device.read(large, BYTES.size), BYTES)
        assert np.array_equal(device.read(second, 9000), BYTES[:9000])
        assert np.array_equal(device.read(odd + 3, 5000), BYTES[:5000])


def test_after_the_first_list_every_write_goes_over_the_line(board: LoadableModel) -> None:
    with PreloadedDevice(CONFIG, board, through_pins=0, patience=3.0) as device:
        place = device.alloc(BYTES.size)
        device.write(place, BYTES[:8000])
        assert (device.preloaded, board.over_the_line()) == (8000, 0)
        device.matmul(np.ones((2, 2), np.int8), np.ones((2, 2), np.int8))
        assert device.starts == [{"bytes_to_board": board.over_the_line()}]
        before = board.over_the_line()
        device.write(place, BYTES[:8000])
        assert (device.preloaded, board.over_the_line() - before) == (8000, 8000)


def test_a_byte_of_memory_that_is_another_is_seen(board: LoadableModel) -> None:
    board.spoil = lambda data: bytes([data[0] ^ 1]) + data[1:]
    with PreloadedDevice(CONFIG, board, through_pins=0, patience=3.0) as device:
        place = device.alloc(BYTES.size)
        with pytest.raises(
            DeviceError, match=rf"the board's memory from {place:#x} on is not what was put there: 8000 bytes, by their CRC-32"
        ):
            device.write(place, BYTES[:8000])
        assert device.preloaded == 0


def test_less_than_no_bytes_through_the_pins(board: LoadableModel) -> None:
    with pytest.raises(DeviceError, match="through_pins must be 0 or more bytes, not -1"):
        PreloadedDevice(CONFIG, board, through_pins=-1)
