"""No load reads a byte past what was allocated for its operand: the bus's whole words and folded loads included."""

import numpy as np
import pytest

from loralith.device import open_device
from loralith.device.list_device import ListDevice
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.spec.commands import COMMAND_BYTES, Command, Opcode
from loralith.spec.config import Config, load_config
from loralith.spec.scheme import FQT

SIZES = {"left_bytes": 16384, "right_bytes": 65536, "out_bytes": 16384, "acc_bytes": 8192, "scale_bytes": 2048}
CONFIGS = [
    load_config("tiny"),
    Config("thin", rows=8, cols=64, bus_bytes=8, max_fold=8, **SIZES),
    Config("wide bus", rows=16, cols=64, bus_bytes=64, max_fold=16, **(SIZES | {"left_bytes": 65536, "out_bytes": 65536})),
    Config("narrow array", rows=8, cols=8, bus_bytes=16, max_fold=8, **SIZES),
]


def outside(device: ListDevice, commands: list[Command]) -> list[str]:
    """The loads that read a byte which belongs to no allocation, or to several."""
    word = device.config.bus_bytes
    stretches = [(address, address + device.heap.size(address)) for address in device.heap.taken]
    found = []
    for command in commands:
        if command.opcode is not Opcode.LOAD:
            continue
        elements = -(-command["row_bytes"] // 2) if command["packed4"] else command["row_bytes"]
        first, last = command["address"], command["address"] + (command["rows"] - 1) * command["row_stride"] + -(-elements // word) * word
        owners = [(start, end) for start, end in stretches if start <= first < end]
        if not owners or last > owners[0][1]:
            found.append(f"{first:#x} to {last:#x} of {[(hex(start), hex(end)) for start, end in owners]}: {command}")
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("T", [1, 9, 77])
@pytest.mark.parametrize("rank", [1, 4, 24])
def test_a_layer_s_loads_stay_in_their_operands(config, T, rank, monkeypatch):
    rng = np.random.default_rng(T)
    I, O = 40, 24
    with open_device("reference", config=config) as device:
        assert isinstance(device, ListDevice)
        execute, lists, wrong = device._execute, [], []

        def watched(address: int, length: int, timeout: float):
            data = bytes(device.read(address, length * COMMAND_BYTES))
            commands = [Command.unpack(data[i : i + COMMAND_BYTES]) for i in range(0, len(data), COMMAND_BYTES)]
            lists.append(len(commands))
            wrong.extend(outside(device, commands))
            return execute(address, length, timeout)

        monkeypatch.setattr(device, "_execute", watched)
        scheme = FQT(seed=1)
        layer = DeviceLayer(device, quantize_weight(rng.standard_normal((O, I)).astype(np.float32), scheme), 1.0, rank, scheme, 0)
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((rank, I), (O, rank)))
        saved = layer.forward(rng.standard_normal((T, I)).astype(np.float32), a, b, 0)
        layer.backward(saved, rng.standard_normal((T, O)).astype(np.float32))
        layer.close()
    assert len(lists) >= 2
    assert not wrong, f"{len(wrong)} loads read past their operand, the first: {wrong[0]}"
