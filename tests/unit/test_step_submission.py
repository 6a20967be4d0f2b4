"""Several steps from one submission, other optimizers, and what a step program refuses: on the reference device, to the bit."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.step.memory import MemoryTooSmall
from loralith.compiler.tokens.sync import synchronize
from loralith.device.device_errors import DeviceFault, OutOfMemory
from loralith.device.reference import ReferenceDevice
from loralith.errors import LoralithError
from loralith.spec.commands import COMMAND_BYTES, Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.graph import Graph, Kind, Op
from loralith.step.builder import Builder
from loralith.step.host import to_words
from loralith.step.optimizer import SGD, AdamW, Optimizer, moments_of, with_optimizer
from loralith.step.program import StepProgram
from loralith.training.verification import GraphObserver, VerificationError
from loralith.verif.graph import interpret

CONFIG = replace(PRESETS["tiny"], name="tiny-lanes", vector_lanes=4)
SIZE, SEED = 1 << 22, 3
BATCHES = [to_words(torch.randn(6, 12, generator=torch.Generator().manual_seed(seed))) for seed in range(5)]
FIRST = to_words(torch.randn(12, 4, generator=torch.Generator().manual_seed(9)))


def trained_matrix(optimizer: Optimizer) -> Graph:
    """loss = sum of (x A)^2 in the step's numbers, A's gradient stochastically rounded, and its update."""
    b = Builder()
    x, a = b.node(Op.INPUT, Kind.WORD, (6, 12), name="x"), b.node(Op.STATE, Kind.WORD, (12, 4), name="A")
    sx, sa = b.scale(b.largest(x), 127), b.scale(b.largest(a), 127)
    xq, aq = b.quantize(x, sx, 127, False), b.quantize(a, sa, 127, False)
    y = b.brain(b.multiply(b.word(b.matmul(xq, aq)), b.multiply(sx, sa)))
    most = b.largest(y)
    loss = b.sum(b.reshape(b.multiply(y, y), (24,)), (0,), b.multiply(b.multiply(most, most), 2.0))
    grad = b.multiply(y, 2.0)
    sg = b.scale(b.largest(grad), 127)
    product = b.matmul(b.permute(xq, (1, 0)), b.quantize(grad, sg, 127, True))
    b.graph.set_output("loss", b.reshape(loss, ()).name)
    b.graph.set_output("gradient.A", b.brain(b.multiply(b.word(product), b.multiply(sx, sg))).name)
    return with_optimizer(b.graph, optimizer)


def first_states(optimizer: Optimizer) -> dict[str, Tensor]:
    moments = moments_of("A") if isinstance(optimizer, AdamW) else ()
    return {"A": FIRST, **{name: torch.zeros(FIRST.shape) for name in moments}}


def inputs(optimizer: Optimizer, step: int) -> dict[str, Tensor]:
    return {"x": BATCHES[step], **{name: torch.tensor(value) for name, value in optimizer.scalars(step + 1).items()}}


def arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in values.items()}


def wanted(optimizer: Optimizer, count: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and states of ``count`` steps of the graph's interpretation."""
    graph, states, losses = trained_matrix(optimizer), first_states(optimizer), []
    for step in range(count):
        found = {node.name: value for node, value in interpret(graph, states | inputs(optimizer, step), SEED, step)}
        losses.append(float(found[graph.outputs["loss"]]))
        states = {name: found[graph.outputs[f"state.{name}"]] for name in states}
    return losses, arrays(states)


@pytest.fixture
def device() -> Iterator[ReferenceDevice]:
    with ReferenceDevice(CONFIG, memory_bytes=SIZE) as opened:
        yield opened


@pytest.mark.parametrize("optimizer", [AdamW(0.01), SGD(0.03)], ids=["adamw", "sgd"])
def test_steps_of_one_list_are_those_of_lists_of_their_own(device: ReferenceDevice, optimizer: Optimizer) -> None:
    """Submissions of three and of two steps, of a program of three."""
    before = device.heap.used
    program = StepProgram(device, trained_matrix(optimizer), SEED, {}, arrays(first_states(optimizer)), most=3)
    steps = [arrays(inputs(optimizer, step)) for step in range(5)]
    losses = program.steps(steps[:3], 0) + program.steps(steps[3:], 3)
    expected, states = wanted(optimizer, 5)
    assert losses == expected
    assert len(set(losses)) == 5
    for name, value in states.items():
        np.testing.assert_array_equal(program.state(name), value)
    scalars = len(optimizer.scalars(1))
    assert program.traffic.written == 5 * (6 * 12 * 4 + 4 * scalars + 8)
    assert program.traffic.read == 5 * 4
    assert program.traffic.steps == 5
    program.free()
    assert device.heap.used == before


def test_the_list_of_several_steps_and_its_beginning_are_legal(device: ReferenceDevice) -> None:
    optimizer = AdamW(0.01)
    program = StepProgram(device, trained_matrix(optimizer), SEED, {}, arrays(first_states(optimizer)), most=3, tokens=synchronize)
    static, one = program.compiled.static, program.list_bytes // 3
    assert one * 3 == program.list_bytes
    for steps in (1, 2, 3):
        check(CommandList.unpack(program.packed[: steps * one]), CONFIG, programs=static)
    without = StepProgram(device, trained_matrix(optimizer), SEED, {}, arrays(first_states(optimizer)), most=3)
    with pytest.raises(IllegalList, match="no token orders them"):
        check(CommandList.unpack(without.packed), CONFIG, programs=static)


def test_verify_interprets_every_step_of_a_submission(device: ReferenceDevice) -> None:
    optimizer = AdamW(0.01)
    states = first_states(optimizer)
    program = StepProgram(device, trained_matrix(optimizer), SEED, {}, arrays(states), most=2, verify=True)
    given = [inputs(optimizer, step) for step in range(2)]
    losses = program.steps([arrays(values) for values in given], 0)
    observer = GraphObserver()
    observer.submission(program, [given[0] | states, given[1]], SEED, 0, losses)
    assert observer.compared > 500
    for wrong in (0, 1):
        other = list(losses)
        other[wrong] *= 1.5
        with pytest.raises(VerificationError, match=f"step {wrong}"):
            observer.submission(program, [given[0] | states, given[1]], SEED, 0, other)
    program.set_state("A", np.zeros((12, 4), np.float32))
    with pytest.raises(VerificationError, match="step 1"):
        observer.submission(program, [given[0] | states, given[1]], SEED, 0, losses)


def test_a_fault_names_its_command(device: ReferenceDevice) -> None:
    optimizer = SGD(0.01)
    program = StepProgram(device, trained_matrix(optimizer), SEED, {}, arrays(first_states(optimizer)), most=2)
    batch = arrays(inputs(optimizer, 0))
    infinite = {**batch, "x": np.full((6, 12), np.inf, np.float32)}
    with pytest.raises(DeviceFault, match="VECTOR_RANGE") as caught:
        program.steps([batch, infinite], 0)
    assert caught.value.status.command >= program.list_bytes // COMMAND_BYTES // 2
    assert "LOAD" in str(caught.value)


def test_bad_submissions_are_refused_before_anything_is_written(device: ReferenceDevice) -> None:
    optimizer = SGD(0.01)
    graph, states = trained_matrix(optimizer), arrays(first_states(optimizer))
    program = StepProgram(device, graph, SEED, {}, states, most=2)
    batch = arrays(inputs(optimizer, 0))
    for batches, message in (
        ([], "has 1 to 2 steps, not 0"),
        ([batch] * 3, "has 1 to 2 steps, not 3"),
        ([batch, {**batch, "x": batch["x"][:5]}], r"x must be \[6, 12\], not \[5, 12\]"),
        ([{"x": batch["x"]}], r"step\.rate: no value was given"),
    ):
        with pytest.raises(LoralithError, match=message):
            program.steps(batches, 0)
    assert program.traffic.written == 0
    with pytest.raises(LoralithError, match="updates are counted from 1, not 0"):
        optimizer.scalars(0)


def test_programs_that_cannot_be_take_no_memory(device: ReferenceDevice) -> None:
    optimizer = SGD(0.01)
    graph, states = trained_matrix(optimizer), arrays(first_states(optimizer))
    before = device.heap.used
    for more, values, error, message in (
        ({"most": 0}, states, LoralithError, "at least one step, not 0"),
        ({}, {}, LoralithError, "A: no value was given"),
        ({}, {"A": states["A"][:3]}, LoralithError, r"A must be \[12, 4\], not \[3, 4\]"),
        ({"most": 10_000}, states, OutOfMemory, "memory_bytes="),
        ({"memory_budget": 1000}, states, MemoryTooSmall, r"takes \d+ bytes of device memory and the budget has 1000; the smallest"),
    ):
        with pytest.raises(error, match=message) as caught:
            StepProgram(device, graph, SEED, {}, values, **more)
        assert device.heap.used == before
    least = int(str(caught.value).split("the step takes ")[1].split()[0])
    assert StepProgram(device, graph, SEED, {}, states, memory_budget=least).memory_bytes == least


def test_an_input_may_be_picked_from_a_table_in_device_memory(device: ReferenceDevice) -> None:
    """The same losses and states as with the input written before each step, for fewer bytes."""
    optimizer = AdamW(0.01)
    states, order = first_states(optimizer), [2, 0, 0, 1, 2]
    plain = StepProgram(device, trained_matrix(optimizer), SEED, {}, arrays(states))
    batches = [arrays(inputs(optimizer, step)) for step in range(5)]
    wanted = [
        plain.step({**batch, "x": BATCHES[entry].numpy()}, step) for step, (batch, entry) in enumerate(zip(batches, order, strict=True))
    ]
    table = {"x": torch.stack(BATCHES[:3]).numpy()}
    program = StepProgram(device, trained_matrix(optimizer), SEED, {}, arrays(states), most=3, tables=table)
    picked = [{**batch, "x": np.array(entry)} for batch, entry in zip(batches, order, strict=True)]
    losses = program.steps(picked[:3], 0)
    assert [*losses, *program.steps(picked[3:], 3)] == wanted
    np.testing.assert_array_equal(program.state("A"), plain.state("A"))
    pointers = sum(command.opcode is Opcode.LOAD for command in loads_from(program, "x"))
    assert program.traffic.written == plain.traffic.written - 5 * (6 * 12 * 4 - 8 * pointers)
    assert program.table_bytes == 3 * 320, "each entry begins at a multiple of 64 bytes"


def test_each_load_from_a_table_reads_its_own_part_of_the_entry(device: ReferenceDevice) -> None:
    """A tensor of several tiles: what is largest lies in the last one."""
    b = Builder()
    x = b.node(Op.INPUT, Kind.WORD, (40, 128), name="x")
    b.graph.set_output("loss", b.largest(b.add(b.multiply(x, 2.0), 1.0)).name)
    table = np.zeros((3, 40, 128), np.float32)
    table[:, 39, 127] = [1.0, 2.0, 3.0]
    program = StepProgram(device, b.graph, SEED, {}, {}, tables={"x": table})
    assert len(loads_from(program, "x")) > 1
    assert [program.step({"x": np.array(entry)}, 0) for entry in (2, 0, 1)] == [7.0, 3.0, 5.0]


def loads_from(program: StepProgram, name: str) -> list[Command]:
    """Of the first step, the LOADs of an input by its place in the list that was compiled."""
    buffer = program.compiled.inputs[name].buffer
    return [c for c in program.compiled.commands.commands if c.opcode is Opcode.LOAD and 0 <= c["address"] - buffer.address < buffer.nbytes]


def test_tables_that_cannot_be_are_refused_before_anything_is_written(device: ReferenceDevice) -> None:
    optimizer = SGD(0.01)
    graph, states = trained_matrix(optimizer), arrays(first_states(optimizer))
    before = device.heap.used
    for name, shape, message in (
        ("y", (2, 6, 12), "y has a table and is no input of the step; inputs are x, step.rate"),
        ("x", (2, 6, 11), r"the table of x must be \[entries, 6, 12\], not \[2, 6, 11\]"),
        ("x", (0, 6, 12), r"the table of x must be \[entries, 6, 12\], not \[0, 6, 12\]"),
    ):
        with pytest.raises(LoralithError, match=message):
            StepProgram(device, graph, SEED, {}, states, tables={name: np.zeros(shape, np.float32)})
        assert device.heap.used == before
    program = StepProgram(device, graph, SEED, {}, states, tables={"x": np.ones((2, 6, 12), np.float32)})
    rate = arrays({name: torch.tensor(value) for name, value in optimizer.scalars(1).items()})
    with pytest.raises(LoralithError, match="x must be an entry 0 to 1 of its table, not 2"):
        program.step({**rate, "x": np.array(2)}, 0)
    with pytest.raises(LoralithError, match="x: no entry of its table was given"):
        program.step(rate, 0)
    assert program.traffic.written == 0


def test_sgd_goes_against_the_gradient() -> None:
    optimizer = SGD(0.03)
    graph = trained_matrix(optimizer)
    found = {node.name: value for node, value in interpret(graph, first_states(optimizer) | inputs(optimizer, 0), SEED, 0)}
    gradient, after = found[graph.outputs["gradient.A"]], found[graph.outputs["state.A"]]
    assert float(gradient.abs().max()) > 0.1
    torch.testing.assert_close(after, FIRST - 0.03 * gradient, rtol=2**-14, atol=2**-14)
