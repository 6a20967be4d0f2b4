"""What can go wrong on the link."""

from __future__ import annotations

from loralith.device.device_errors import DeviceError
from loralith.device.link.frames import Frame
from loralith.device.link.request import Request
from loralith.spec.link import Status

__all__ = ["LinkError", "answer_error"]


class LinkError(DeviceError):
    """The board does not answer, or answers with an error.

    Attributes: status: of the answer, None without one.
    """

    def __init__(self, message: str, status: Status | None = None) -> None:
        super().__init__(message)
        self.status = status


def answer_error(path: str, request: Request, frame: Frame) -> LinkError:
    """The error of an answer that is not OK, from the board on the port ``path``."""
    try:
        status = Status(frame.code)
    except ValueError:
        return LinkError(f"{request.operation.name} at {request.value:#x}: the board answers with status {frame.code}, which is not known")
    if status is Status.NO_SESSION:
        why = "another program has begun a session with it" if frame.value else "it has been reset or configured anew"
        return LinkError(f"the board on {path} no longer knows this session: {why}; open the device again", status)
    told = {
        Status.SLAVE_ERROR: f"the bus answers SLVERR at {frame.value:#x}",
        Status.DECODE_ERROR: f"the bus answers DECERR at {frame.value:#x}: nothing lies there",
        Status.TIMEOUT: "the bus does not answer: load the bitstream again",
    }.get(status, f"the board answers {status.name}")
    return LinkError(f"{request.operation.name} at {request.value:#x}: {told}", status)
