"""Every method's whole step on a device: the graph's bits, what the host writes and reads, and what comes back to the method.

Here on the reference device; `test_step_methods_rtl.py` runs the same steps on the RTL.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from helpers.same_values import assert_same_values
from helpers.step_methods import CONFIG, least_model, prepared, settings
from loralith.device.reference import ReferenceDevice
from loralith.diffusion.objective import draw_step
from loralith.methods.options import SettingsError, TuneqdmOptions
from loralith.step.host import to_words
from loralith.training.step_plans.scales import ScalesPlan
from loralith.training.step_training import StepTraining
from loralith.training.verification import GraphObserver
from loralith.verif.graph import interpret

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
    """Two steps from one submission, after which the subspace is made anew, then another."""
    told = settings(tmp_path, model, "zoodip")
    observer = GraphObserver()
    method, training, losses = trained(told, 3, most=2, observer=observer)
    first = method.token.detach().clone()
    training.collect()
    assert training.program is not None
    graph, counters = training.program.graph, training.counters()
    assert counters["bit_exact"]
    assert observer.compared > 100_000
    # A draw with its embeddings, the directions and scalars; the subspace's past and projector once in tau steps.
    inputs = sum(view.buffer.nbytes for view in training.program.compiled.inputs.values())
    width, tau = method.token.numel(), method.own.tau
    traffic = training.program.traffic
    assert traffic.written == 3 * (inputs + 8) + 4 * width * width
    assert traffic.read == 3 * 4 + 4 * tau * width
    assert inputs == 4 * (2 * 256 + 7 * (width + 1) + 2 * width + 3 * 16 + 3)
    assert not torch.equal(method.token, first)
    assert len(method.subspace.buffer) == 1
    assert_same_values(method.subspace.buffer[0], method.token.detach())
    assert method.subspace.basis is not None
    assert "convolution_input" not in {node.op for node in graph.nodes.values()}
    assert len(set(losses)) == 3


@pytest.mark.slow
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
    assert_same_values(other.token, whole.token)


def test_tuneqdm_trains_the_scales_of_the_groups_that_were_there(model: Path, tmp_path: Path) -> None:
    told = settings(tmp_path, model, "tuneqdm")
    first = {name: parameter.detach().clone() for name, parameter in prepared(told).parameters.items()}
    observer = GraphObserver()
    method, training, losses = trained(told, 2, most=2, observer=observer)
    counters = training.counters()
    assert counters["bit_exact"]
    assert counters["host_bytes_read_per_step"] == 4
    # The batch as LoRA has it, and which group each image is in.
    assert counters["host_bytes_written_per_step"] == 4 * (2 * 256 + 7 * 64 + 16 + 4) + 4 * 3 * 4 + 8
    training.detach()
    groups = [set(method.router.of(method_timesteps(method, step)).tolist()) for step in range(2)]
    assert groups[0] | groups[1] < set(range(4)), "no group is absent"
    for name, parameter in method.parameters.items():
        group = int(name.rpartition(".")[2])
        count = sum(group in there for there in groups)
        state = method.optimizer.state[parameter]
        assert (float(state["step"]) if state else 0) == count, name
        assert torch.equal(parameter, to_words(first[name])) == (count == 0), name
    assert len(set(losses)) == 2


def method_timesteps(method: Any, step: int) -> torch.Tensor:
    told = method.settings
    return draw_step("finetune", told.seed, step, batch=told.batch, images=method.subject.images, dropout=0.0).timesteps


def test_tuneqdms_gradients_are_those_of_fp32_but_for_rounding(model: Path, tmp_path: Path) -> None:
    told = settings(tmp_path, model, "tuneqdm", batch=2)
    method = prepared(told)
    with torch.no_grad():
        for parameter in method.parameters.values():
            parameter.copy_(to_words(parameter))
    plan = ScalesPlan(method, 0, 0, told.lr)
    outputs = {name: what.removeprefix("gradient.") for what, name in plan.lowered.graph.outputs.items()}
    given = {**plan.frozen, **plan.states, **plan.inputs(0)}
    found = {outputs[node.name]: value for node, value in interpret(plan.graph, given, 0, 0) if node.name in outputs}
    loss = method.loss(0)
    loss.backward()
    assert float(found["loss"]) == pytest.approx(loss.item(), rel=0.01)
    cosines = []
    for name in plan.capture.trained:
        for image, group in enumerate(method.router.of(method_timesteps(method, 0)).tolist()):
            exact = method.parameters[f"{name}.{group}"].grad
            cosines.append(float(torch.nn.functional.cosine_similarity(found[name][image], exact, dim=0)))
    assert min(cosines) > 0.7
    assert sorted(cosines)[len(cosines) // 2] > 0.98


def test_codes_of_eight_bits_are_refused_for_a_whole_step(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"bits must be 4 for a whole step.*not 8"):
        settings(tmp_path, model, "tuneqdm", options=TuneqdmOptions(bits=8))


def test_hollowed_net_reads_boundary_tensors_from_device_memory(model: Path, tmp_path: Path) -> None:
    """Two steps from one submission, each with a tensor of its own."""
    told = settings(tmp_path, model, "hollowed-net")
    first = {name: to_words(parameter) for name, parameter in prepared(told).parameters.items()}
    method, training, losses = trained(told, 2, most=2, observer=GraphObserver())
    assert len(set(losses)) == 2
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
    training.detach()
    for name, parameter in method.parameters.items():
        assert not torch.equal(parameter, first[name]) or "lora_A" in name, name
    assert not any("mid_block" in name for name in method.parameters)
