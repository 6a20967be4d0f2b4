"""Every method's whole step on a device: the graph's bits, what the host writes and reads, and what comes back to the method.

Here on the reference device; `test_step_methods_rtl.py` runs the same steps on the RTL.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from helpers.step_methods import CONFIG, least_model, prepared, settings
from loralith.device.reference import ReferenceDevice
from loralith.errors import LoralithError
from loralith.training.step_training import StepTraining
from loralith.training.verification import GraphObserver

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return least_model(tmp_path_factory.mktemp("least") / "model")


def trained(told: Any, steps: int, most: int = 1, observer: Any = None) -> tuple[Any, StepTraining, list[float]]:
    """(method, attachment, losses) after ``steps`` steps on the reference device."""
    method = prepared(told)
    device = ReferenceDevice(CONFIG, memory_bytes=1 << 25)
    training = StepTraining(device, 0, told.lr, observer, most)
    losses: list[float] = []
    while len(losses) < steps:
        losses += training.train(method, len(losses), steps - len(losses))
    return method, training, losses


def test_zoodip_trains_a_token_by_forward_passes_alone(model: Path, tmp_path: Path) -> None:
    """Two steps with the subspace made anew after each second one, then another, in two submissions."""
    told = settings(tmp_path, model, "zoodip")
    observer = GraphObserver()
    method, training, losses = trained(told, 3, most=4, observer=observer)
    first = method.token.detach().clone()
    training.collect()
    assert training.program is not None
    graph, counters = training.program.graph, training.counters()
    assert counters["bit_exact"]
    assert observer.compared > 100_000
    # A draw with its embeddings, the directions and scalars; the subspace's past and projector once in tau steps.
    inputs = sum(view.buffer.nbytes for view in training.program.compiled.inputs.values())
    width, tau = method.token.numel(), method.own.tau
    assert counters["host_bytes_written_per_step"] == inputs + 8 + 4 * width * width / 3
    assert counters["host_bytes_read_per_step"] == 4 + 4 * tau * width / 3
    assert inputs < 4 * (2 * 256 + 8 * width + 2 * width + 3 * 16 + 16)
    assert not torch.equal(method.token, first)
    assert len(method.subspace.buffer) == 1
    assert torch.equal(method.subspace.buffer[0], method.token.detach())
    assert method.subspace.basis is not None
    assert "convolution_input" not in {node.op for node in graph.nodes.values()}
    assert len(set(losses)) == 3


def test_zoodip_goes_on_to_the_same_bits(model: Path, tmp_path: Path) -> None:
    told = settings(tmp_path, model, "zoodip")
    whole, training, losses = trained(told, 3)
    training.collect()
    part, training, before = trained(told, 1)
    training.detach()
    state, moments = part.state(), part.optimizer.state_dict()
    other = prepared(told)
    other.token.data.copy_(part.token)
    other.restore(state)
    other.optimizer.load_state_dict(moments)
    again = StepTraining(ReferenceDevice(CONFIG, memory_bytes=1 << 25), 0, told.lr)
    assert before + again.train(other, 1) + again.train(other, 2) == losses
    again.detach()
    assert torch.equal(other.token, whole.token)


def test_hollowed_net_reads_boundary_tensors_from_device_memory(model: Path, tmp_path: Path) -> None:
    told = settings(tmp_path, model, "hollowed-net")
    observer = GraphObserver()
    method, training, losses = trained(told, 3, most=2, observer=observer)
    assert method.batches == 2
    assert training.counters()["bit_exact"]
    program = training.program
    assert program is not None
    boundary = method.boundary(0)
    assert program.table_bytes == 2 * 4 * boundary.numel()
    inputs = sum(view.buffer.nbytes for name, view in program.compiled.inputs.items() if name not in program.tables)
    pointers = sum(map(len, program._picks[0].values()))
    assert training.counters()["host_bytes_written_per_step"] == inputs + 8 + 8 * pointers < 5000
    assert training.counters()["host_bytes_read_per_step"] == 4
    # One step a time reads the same tensors.
    alone, single, one_by_one = trained(told, 3)
    assert one_by_one == losses
    for one in (training, single):
        one.detach()
    for name, parameter in method.parameters.items():
        assert torch.equal(parameter, alone.parameters[name]), name
    assert not any("mid_block" in name for name in method.parameters)


def test_an_entry_that_a_table_does_not_have_is_refused(model: Path, tmp_path: Path) -> None:
    told = settings(tmp_path, model, "hollowed-net")
    method, training, _ = trained(told, 1)
    assert training.program is not None
    written = training.program.traffic.written
    method.batch_of = lambda step: 2
    monkey = training.plan.inputs
    training.plan.inputs = lambda step: monkey(0) if step else monkey(step)  # type: ignore[method-assign]
    method.image = lambda batch: torch.zeros(1)
    with pytest.raises(LoralithError, match="must be an entry 0 to 1 of its table, not 2"):
        training.train(method, 1)
    assert training.program.traffic.written == written
