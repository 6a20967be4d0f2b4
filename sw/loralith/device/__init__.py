"""Devices behind one interface: the numpy reference, the Verilated RTL, an FPGA. Neither torch nor amaranth is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.device.device_errors import ConfigMismatch, DeviceError, DeviceFault, DeviceTimeout, OutOfMemory
from loralith.spec.config import Config, ConfigError, load_config

if TYPE_CHECKING:
    from loralith.device.device import Device

DEVICES = "reference, direct, verilator, serial:<port> or pynq:<bitfile>"
"""What `open_device` takes, as messages and help have it."""

__all__ = ["DEVICES", "ConfigMismatch", "DeviceError", "DeviceFault", "DeviceTimeout", "OutOfMemory", "is_device", "open_device"]


def is_device(name: str) -> bool:
    """Whether `open_device` knows a device of this name; nothing is opened."""
    kind, colon, argument = name.partition(":")
    return bool(argument) if kind in ("pynq", "serial") else kind in ("reference", "direct", "verilator") and not colon


def open_device(name: str = "reference", config: str | Path | Config = "base", **options: Any) -> Device:
    """Open a device.

    Parameters: `name` is "reference" (numpy, bit-exact, no timing), "direct" (the same bits without lists),
    "verilator" (the RTL, cycle-exact), "serial:<port>" (an FPGA board on a serial port, or the pseudo terminal of a simulated one) or
    "pynq:<bitfile>" (an FPGA under PYNQ);
    `config` a preset's name, a JSON file or a Config; `options` go to the device's class, which documents them.
    Raises DeviceError for an unknown name or configuration.
    """
    if not is_device(name):
        raise DeviceError(f"device must be {DEVICES}, not {name!r}")
    kind, _, argument = name.partition(":")
    try:
        configuration = load_config(config)
    except ConfigError as error:
        raise DeviceError(str(error)) from None
    if kind == "reference":
        from loralith.device.reference import ReferenceDevice

        return ReferenceDevice(configuration, **options)
    if kind == "direct":
        from loralith.device.reference import DirectDevice

        return DirectDevice(configuration, **options)
    if kind == "verilator":
        from loralith.device.verilator import VerilatorDevice

        return VerilatorDevice(configuration, **options)
    if kind == "serial":
        from loralith.device.serial import SerialDevice

        return SerialDevice(configuration, argument, **options)
    from loralith.device.pynq import PynqDevice

    return PynqDevice(configuration, argument, **options)
