"""A serial port, by termios of the standard library: pyserial would add nothing here but a dependency."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import termios
import time
import tty
from pathlib import Path

from loralith.device.device_errors import DeviceError

__all__ = ["BAUD", "PortGone", "SerialPort"]

BAUD = 3_000_000
REOPEN_SECONDS = 0.05
LOW_LATENCY = 0x2000  # ASYNC_LOW_LATENCY of linux/tty_flags.h: the FT231X then holds no byte back for 16 ms
FLAGS_WORD = 4  # of struct serial_struct
UDEV_RULE = 'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", ATTRS{idProduct}=="6015", MODE="0666"'


class PortGone(DeviceError):
    """The port has vanished: a cable was pulled, or the program at the other end of a pseudo terminal has ended."""


class SerialPort:
    """A port in raw mode that no other program of loralith, and none that locks its ports, uses at the same time.

    Parameters: path; baud, a rate that the system knows.

    Raises DeviceError, with what to do: for no such port, no permission, a port in use, something that is no serial port, and another rate.
    """

    def __init__(self, path: str, baud: int = BAUD) -> None:
        rate = getattr(termios, f"B{baud}", None)
        if rate is None:
            raise DeviceError(f"baud must be a rate that this system knows, such as {BAUD}, not {baud}")
        self.path, self._rate = path, rate
        self._file = self._open()

    def _open(self) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise DeviceError(self._why(error)) from None
        try:
            self._set_up(file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _set_up(self, file: int) -> None:
        if not os.isatty(file):
            raise DeviceError(f"{self.path} is no serial port")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DeviceError(f"{self.path} is in use by another program: end that one (`fuser {self.path}` names it)") from None
        try:
            tty.setraw(file, termios.TCSANOW)
            settings = termios.tcgetattr(file)
            settings[2] = (settings[2] | termios.CLOCAL | termios.CREAD) & ~(termios.CSTOPB | termios.CRTSCTS | termios.HUPCL)
            settings[4] = settings[5] = self._rate
            termios.tcsetattr(file, termios.TCSANOW, settings)
            termios.tcflush(file, termios.TCIOFLUSH)
        except termios.error as error:
            raise DeviceError(f"{self.path} cannot be set up as a serial port: {error.args[-1]}") from None
        with contextlib.suppress(OSError):  # pseudo terminals and some drivers have no such setting
            state = array.array("i", [0] * 32)
            fcntl.ioctl(file, termios.TIOCGSERIAL, state)
            state[FLAGS_WORD] |= LOW_LATENCY
            fcntl.ioctl(file, termios.TIOCSSERIAL, state)

    def _why(self, error: OSError) -> str:
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            found = sorted(str(path) for pattern in ("ttyUSB*", "ttyACM*") for path in Path("/dev").glob(pattern))
            return f"there is no port {self.path}: is the board plugged in and on? Ports here: {', '.join(found) or 'none'}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return (
                f"no permission to open {self.path}: join its group (`sudo usermod -a -G dialout $USER`, then log in again), or put the "
                f"line {UDEV_RULE} into /etc/udev/rules.d/50-loralith.rules and plug the board in again"
            )
        if error.errno == errno.EBUSY:
            return f"{self.path} is in use by another program: end that one (`fuser {self.path}` names it)"
        return f"{self.path} cannot be opened: {error.strerror}"

    def read(self, seconds: float) -> bytes:
        """What has come, within ``seconds`` at most; empty where nothing has. Raises PortGone."""
        if not self._ready(seconds, write=False):
            return b""
        try:
            data = os.read(self._file, 1 << 16)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PortGone(f"{self.path} is gone: {error.strerror}") from None
        if not data:
            raise PortGone(f"{self.path} is gone")
        return data

    def write(self, data: bytes, seconds: float) -> int:
        """How many bytes the port has taken, within ``seconds`` at most. Raises PortGone."""
        if not self._ready(seconds, write=True):
            return 0
        try:
            return os.write(self._file, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PortGone(f"{self.path} is gone: {error.strerror}") from None

    def _ready(self, seconds: float, *, write: bool) -> bool:
        if self._file < 0:
            raise PortGone(f"{self.path} is gone")
        files = [self._file]
        ready = select.select([] if write else files, files if write else [], [], seconds)
        return bool(ready[0] or ready[1])

    def reopen(self, seconds: float) -> None:
        """Open the port again, once it is back. Raises DeviceError where it is not within ``seconds``."""
        self.close()
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._file = self._open()
                return
            except DeviceError as error:
                if time.monotonic() > deadline:
                    raise DeviceError(f"{self.path} has gone and was not back within {seconds:g} s: {error}") from None
            time.sleep(REOPEN_SECONDS)

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
