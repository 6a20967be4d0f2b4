"""What can go wrong on a device."""

from __future__ import annotations

from loralith.device.run_status import Status
from loralith.errors import LoralithError

__all__ = ["ConfigMismatch", "DeviceError", "DeviceFault", "DeviceTimeout", "OutOfMemory"]


class DeviceError(LoralithError):
    """A device was asked for something that it cannot do; nothing on it has changed."""


class OutOfMemory(DeviceError):
    """No free stretch of device memory is long enough."""


class ConfigMismatch(DeviceError):
    """The hardware was built from another configuration than the driver's."""

    def __init__(self, expected: int, found: int, name: str) -> None:
        super().__init__(
            f"the hardware's configuration hash is {found:#010x}, that of the driver's configuration {name!r} is {expected:#010x}: "
            "open the device with the configuration that its bitstream or model was built from"
        )
        self.expected, self.found = expected, found


class DeviceFault(DeviceError):
    """A command list stopped with an error.

    Attributes:
        status: why, where and which command.
        disassembly: text of the command that stopped it, "" if none is to blame.
    """

    def __init__(self, status: Status, disassembly: str) -> None:
        super().__init__(str(status) + (f"\n{disassembly}" if disassembly else ""))
        self.status, self.disassembly = status, disassembly


class DeviceTimeout(DeviceError):
    """The list did not end in time. `status` is the last that was read, None if there is none."""

    def __init__(self, seconds: float, status: Status | None = None) -> None:
        super().__init__(f"the list did not end within {seconds:g} s" + (f": {status}" if status else ""))
        self.status = status
