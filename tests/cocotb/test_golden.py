"""Golden layers at the bus pins: the lists of each training step, recorded on the native model, leave the file's bits under cocotb."""

from pathlib import Path

import numpy as np
import pytest

from loralith.device.native.recording import capture
from loralith.device.verilator import VerilatorDevice
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.spec.config import load_config
from loralith.spec.scheme import FQT
from loralith.verif.bench.program import Program
from loralith.verif.golden import layer_cases, read_vector

pytestmark = pytest.mark.timeout(900)

SMALL = [case.name for case in layer_cases() if (case.I, case.O) == (22, 13)]
EXACT = ("bytes_read", "bytes_written", "macs", "saturations", "busy")


class Recording(VerilatorDevice):
    """Keeps every list that runs, with memory before and after it."""

    def __init__(self) -> None:
        super().__init__(load_config("tiny"), memory_bytes=1 << 20)
        self.programs: list[Program] = []

    def run(self, commands, timeout: float = 60.0) -> None:
        it = capture(self, commands, timeout)
        counters = {name: it.counters[name] for name in EXACT}
        self.programs.append(Program(it.base, it.list_base, it.list_length, it.before, it.after, counters))


def programs(device: Recording, path: Path) -> list[Program]:
    """Measuring H, forward, measuring dH, backward. Their results, as they lie in memory afterwards, are the golden ones."""
    tensors, meta = read_vector(path)
    case = meta["case"]
    golden = {name: tensor.numpy() for name, tensor in tensors.items()}
    scheme = FQT.from_dict(case["scheme"])
    device.programs = []
    layer = DeviceLayer(device, quantize_weight(golden["w"], scheme), case["alpha"], case["r"], scheme, case["layer"])
    saved = layer.forward(golden["x"], golden["a"], golden["b"], case["step"], case["call"])
    gradients = layer.backward(saved, golden["dy"])
    layer.close()
    for name, found in (
        *(("y_acc", saved.y_acc), ("dx_acc", gradients.dx_acc), ("db_acc", gradients.db_acc), ("da_acc", gradients.da_acc.T)),
        *(("y", saved.y), ("dx", gradients.dx), ("db", gradients.db), ("da", gradients.da)),
    ):
        np.testing.assert_array_equal(found, golden[name], err_msg=f"{path.stem}: {name}")
    # The arrays above were read from exactly these images.
    for name, at in (("y_acc", 1), ("dx_acc", 3), ("db_acc", 3), ("da_acc", 3)):
        values = golden[name].T if name == "da_acc" else golden[name]
        first = np.ascontiguousarray(values.astype("<i4")[0]).tobytes()
        assert first in device.programs[at].after.tobytes(), f"{path.stem}: {name}"
    return device.programs


def test_lists_of_every_layer(run_cases, save, golden_layers: Path) -> None:
    assert len(SMALL) == 15
    names = ("measure_h", "forward", "measure_dh", "backward")
    saved = []
    # One device for all: bytes that pad a row of H come from what earlier lists left on chip, here as in the simulation.
    with Recording() as device:
        for layer in SMALL:
            lists = programs(device, golden_layers / f"{layer}.safetensors")
            saved += [save(program, f"{layer}_{name}") for program, name in zip(lists, names, strict=True)]
    run_cases("cases_lists", cases=("stalled",), programs=saved)
