"""A bitstream into a board, by openFPGALoader; what it says when it cannot, decoded."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from loralith.device.link.port import UDEV_RULE
from loralith.errors import LoralithError
from loralith.places import builds

__all__ = ["BOARDS", "LoaderError", "check_bitstream", "find_loader", "latest_bitstream", "load"]

BOARDS = {"ulx3s-85f": ("ulx3s", "LFE5U-85")}
"""Board -> its name in openFPGALoader, and how its part's name begins."""
PROGRAM = "openFPGALoader"
PREAMBLE = bytes.fromhex("ffffbdb3")
"""Of an ECP5's bitstream, behind its comments."""
COMMENT_BYTES = 4096
NAME = "loralith.bit"
USB_RULE = f'SUBSYSTEM=="usb", ATTRS{{idVendor}}=="0403", ATTRS{{idProduct}}=="6015", MODE="0666" and {UDEV_RULE}'

PROBLEMS = (
    (
        r"device not found|no device found|can't find|unable to find",
        "no board is found on USB: plug a data cable into the socket US1, switch the board on, and look for 0403:6015 in `lsusb`",
    ),
    (
        r"usb_open\(\) failed|permission|access denied|LIBUSB_ERROR_ACCESS|insufficient",
        f"no permission to open the board's USB device: put the lines {USB_RULE} into /etc/udev/rules.d/50-loralith.rules, run "
        "`sudo udevadm control --reload`, and plug the board in again",
    ),
    (
        r"claim|busy|LIBUSB_ERROR_BUSY|ftdi_usb_reset failed",
        "the board's USB device is in use: end the programs that have its serial port open (`fuser /dev/ttyUSB0` names them), and plug the "
        "board in again",
    ),
    (
        r"idcode|JTAG.*(fail|error)|unknown device|FAIL",
        "the USB chip answers and the FPGA does not take the bitstream: is it this board, and of this size? Plug it in again, without "
        "a hub",
    ),
)
"""What openFPGALoader says -> what is the matter and what to do; the first that fits."""


class LoaderError(LoralithError):
    """A bitstream that cannot be loaded; the message says what to do."""


def latest_bitstream() -> Path:
    """The newest that `loralith synth --part soc` has made. Raises LoaderError where there is none."""
    found = sorted((builds() / "synth").glob(f"**/{NAME}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise LoaderError(
            f"there is no {NAME} in {builds() / 'synth'}: `loralith synth --board ulx3s-85f --part soc --config tiny --frequency 80` makes "
            "one"
        )
    return found[-1]


def check_bitstream(path: Path, board: str) -> None:
    """Raises LoaderError for a board that is not known, and for a file that is no bitstream of its part."""
    if board not in BOARDS:
        raise LoaderError(f"board must be one of {', '.join(BOARDS)}, not {board!r}")
    if not path.is_file():
        raise LoaderError(f"there is no bitstream {path}")
    with path.open("rb") as file:
        head = file.read(COMMENT_BYTES)
    if PREAMBLE not in head:
        raise LoaderError(f"{path} is no bitstream of an ECP5: it has no preamble {PREAMBLE.hex()}")
    named, part = re.search(rb"Part: ([\w-]+)", head[: head.index(PREAMBLE)]), BOARDS[board][1]
    if named and not named[1].decode().startswith(part):
        raise LoaderError(f"{path} is a bitstream of {named[1].decode()}, and {board} has a {part}F")


def find_loader() -> str:
    """The program's path. Raises LoaderError with what installs it."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise LoaderError(
            f"{PROGRAM} is not on PATH: `apt-get install openfpgaloader` installs it, or your system's package of that name; "
            "https://trabucayre.github.io/openFPGALoader has the others"
        )
    return found


def load(path: Path, board: str, *, keep: bool, timeout: float, log: Callable[[str], None]) -> str:
    """Load the bitstream; returns what openFPGALoader has said.

    Parameters: keep: into the board's flash, so that it is there after power-up; otherwise until power is off. timeout: seconds.
    log: gets the command.

    Raises LoaderError.
    """
    check_bitstream(path, board)
    command = [find_loader(), "--board", BOARDS[board][0], *(["--write-flash"] if keep else []), str(path)]
    log(" ".join(command))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise LoaderError(f"{PROGRAM} has not ended within {timeout:g} s: plug the board in again; --timeout allows more") from None
    except OSError as error:
        raise LoaderError(f"{command[0]} does not start: {error.strerror}") from None
    text = done.stdout.strip()
    if done.returncode:
        raise LoaderError(decode(text, done.returncode))
    return text


def decode(text: str, status: int) -> str:
    """The message of a failure, from what the program has said."""
    what = next(
        (message for pattern, message in PROBLEMS if re.search(pattern, text, re.IGNORECASE)), f"{PROGRAM} ended with status {status}"
    )
    last = "\n".join(text.splitlines()[-8:])
    return f"{what}\n{PROGRAM} says: {last or 'nothing'}"
