"""A serial cable between two programs that loses, flips, doubles, inserts, swaps and delays bytes, and that can be pulled."""

from __future__ import annotations

import os
import random
import select
import threading
import time
import tty
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

__all__ = ["FAULTS", "FaultyCable", "LineFaults"]

FAULTS = ("lose", "flip", "double", "insert", "swap", "delay")


@dataclass
class LineFaults:
    """Faults of one direction, always the same for the same seed and the same bytes.

    Attributes:
        rate: probability per byte of a fault.
        kinds: of `FAULTS`, each as likely.
        delay: seconds that a delayed byte, and all after it, are held back.
        counts: faults so far, by kind.
    """

    seed: int
    rate: float = 0.01
    kinds: tuple[str, ...] = FAULTS
    delay: float = 0.01
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAULTS, 0))

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(FAULTS)
        if unknown or not 0 <= self.rate <= 1:
            raise ValueError(f"kinds must be of {', '.join(FAULTS)} and rate a probability, not {self.kinds} and {self.rate}")
        self._draw = random.Random(self.seed)

    def pass_on(self, data: bytes) -> tuple[bytes, float]:
        """What comes out at the other end, and the seconds by which it is late."""
        out, late = bytearray(), 0.0
        for byte in data:
            if self._draw.random() >= self.rate:
                out.append(byte)
                continue
            kind = self._draw.choice(self.kinds)
            self.counts[kind] += 1
            if kind == "flip":
                out.append(byte ^ 1 << self._draw.randrange(8))
            elif kind == "double":
                out += bytes([byte, byte])
            elif kind == "insert":
                out += bytes([self._draw.randrange(256), byte])
            elif kind == "swap":
                out.insert(max(0, len(out) - 1), byte)
            elif kind == "delay":
                out.append(byte)
                late += self.delay
        return bytes(out), late


class FaultyCable:
    """A pseudo terminal for the host, joined by a thread to the board's port.

    Parameters: port, the board's; link, the path under which the host finds its end; to_board, from_board: faults of each direction, None
    for none.

    Members: path: for the host; a link, which leads to another terminal once the cable has been pulled and put back.
    """

    def __init__(self, port: str, link: Path, to_board: LineFaults | None = None, from_board: LineFaults | None = None) -> None:
        self.path = str(link)
        self._link = link
        self._board = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._board)
        self._faults = (to_board or LineFaults(0, 0.0), from_board or LineFaults(0, 0.0))
        self._host = self._keep = -1
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.plug()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def pull(self) -> None:
        """The host's end vanishes, and what is on the way with it."""
        with self._lock:
            for file in (self._host, self._keep):
                os.close(file)
            self._host = self._keep = -1
            self._link.unlink()

    def plug(self) -> None:
        """The host's end is there, as a new terminal under the same path."""
        with self._lock:
            self._host, self._keep = os.openpty()
            tty.setraw(self._keep)
            os.set_blocking(self._host, False)
            self._link.symlink_to(os.ttyname(self._keep))

    def _run(self) -> None:
        pending: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
        while not self._ended.is_set():
            with self._lock:
                host = self._host
                files = [self._board] if host < 0 else [host, self._board]
                for file in select.select(files, [], [], 0.0)[0]:
                    try:
                        data = os.read(file, 1024)
                    except OSError:
                        continue
                    way = int(file == self._board)
                    out, late = self._faults[way].pass_on(data)
                    start = max([time.monotonic(), *(at for at, _ in pending[way])])  # the line keeps order
                    pending[way].append((start + late, out))
                for way, to in enumerate((self._board, host)):
                    while pending[way] and pending[way][0][0] <= time.monotonic():
                        _, data = pending[way].popleft()
                        if to >= 0:
                            self._write(to, data)
            time.sleep(0.0005)

    @staticmethod
    def _write(file: int, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(file, data) :]
            except BlockingIOError:
                return  # nobody reads: lost, as on a cable

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._host >= 0:
            self.pull()
        os.close(self._board)

    def __enter__(self) -> FaultyCable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
