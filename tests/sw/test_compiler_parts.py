"""Plans that cut the rank in parts: the same bytes as with all of it at a time, and taken where the bus would limit a pass."""

from dataclasses import replace

import numpy as np
import pytest

import loralith
from loralith.compiler.proof.checker import check
from loralith.compiler.schedules.emit import Emitter
from loralith.compiler.schedules.gradient import Gradient, GradientPlan, GradientSteps, plan_gradient
from loralith.compiler.schedules.pass_plan import PassPlan, plan_passes
from loralith.compiler.schedules.passes import PassSteps
from loralith.compiler.schedules.training_step import SHARED, Linear, Tensors, _backward, _forward, compile_step, place
from loralith.compiler.storage.layout import skinny_shape
from loralith.compiler.tokens.order import LOOKAHEAD
from loralith.device.device import Device
from loralith.shapes.linear_operands import check_results, fill
from loralith.spec.commands import STAT_BYTES
from loralith.spec.config import load_config

LINEAR = Linear("parts", 40, 96, 80, 40)
WHOLE_RANK = PassPlan(m=16, n=32, k=48, r=64, left_slots=4, base_slots=2, skinny_slots=2)
KEY = (0x1234, 0x9876)


def _pass(device: Device, tensors: Tensors, plan: PassPlan, backward: bool) -> dict[str, np.ndarray]:
    """Runs a pass whose skinny result is rounded stochastically; the bytes of its results."""
    work = replace((_backward if backward else _forward)(LINEAR, tensors), stochastic=KEY)
    emitter = Emitter(device.config)
    for _ in PassSteps(emitter, work, LINEAR.rank, plan=plan).steps():
        pass
    commands = emitter.finish(LOOKAHEAD)
    check(commands, device.config, (device.memory_base, device.memory_base + device.memory_bytes))
    device.run(commands, 60)
    assert work.skinny is not None
    assert work.output is not None
    found = {"statistics": device.read(work.stats, STAT_BYTES).copy()}
    for name, layout in (("skinny", replace(work.skinny, cols=LINEAR.rank)), ("output", work.output)):
        found[name] = layout.unpack(device.read(layout.address, layout.nbytes), np.int8).copy()
        device.write(layout.address, np.zeros(layout.nbytes, np.uint8))
    return found


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("m", "n", "base_slots", "skinny_slots"), [(16, 16, 2, 2), (16, 16, 3, 0), (40, 32, 2, 0)])
def test_a_rank_in_parts_gives_the_same_bytes(m: int, n: int, base_slots: int, skinny_slots: int, backward: bool) -> None:
    """The last part has fewer columns; blocks of the reduction are summed part by part; noise and statistics are those of all columns."""
    with loralith.open_device("reference", config="ecp5") as device:
        tensors, _ = place(LINEAR, device.alloc(1 << 20, 4096), device.config)
        fill(device, LINEAR, tensors, 0)
        whole = _pass(device, tensors, WHOLE_RANK, backward)
        parts = _pass(device, tensors, PassPlan(m, n, 48, n, 2, base_slots, skinny_slots), backward)
    assert np.count_nonzero(whole["skinny"][:, -8:])
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values, err_msg=name)


@pytest.mark.parametrize("k", [8, 24, 40])
def test_a_gradient_whose_left_operand_comes_again_gives_the_same_sums(k: int) -> None:
    with loralith.open_device("reference", config="ecp5") as device:
        tensors, _ = place(LINEAR, device.alloc(1 << 20, 4096), device.config)
        fill(device, LINEAR, tensors, 0)
        rng = np.random.default_rng(0)
        h = rng.integers(-127, 128, (tensors.h.rows, tensors.h.cols), dtype=np.int8)
        device.write(tensors.h.address, tensors.h.pack(h))
        right = skinny_shape(LINEAR.rank, device.config).right(LINEAR.T, device.config).at(tensors.h.address)
        emitter = Emitter(device.config)
        plan = GradientPlan(m=24, k=k, n=16, reread_left=True)
        steps = GradientSteps(emitter, Gradient(tensors.dy, right, tensors.db), LINEAR.rank, "dB", plan=plan)
        assert len(list(steps.steps())) == steps.units
        device.run(emitter.finish(LOOKAHEAD), 60)
        dy = tensors.dy.unpack(device.read(tensors.dy.address, tensors.dy.nbytes), np.int8)
        db = tensors.db.unpack(device.read(tensors.db.address, tensors.db.nbytes), np.int32)
    np.testing.assert_array_equal(db, (dy.astype(np.int64).T @ h.astype(np.int64))[:, : LINEAR.rank])


@pytest.mark.parametrize("device", ["reference", "verilator"])
def test_a_step_that_the_bus_would_limit_cuts_the_rank(device: str) -> None:
    linear = Linear("bus bound", 64, 64, 64, 16)
    with loralith.open_device(device, config="tiny") as opened:
        tensors, _ = place(linear, opened.alloc(1 << 20, 4096), opened.config)
        expected = fill(opened, linear, tensors, 0)
        commands = compile_step([(linear, tensors)], opened.config)
        assert any(note.startswith("skinny 0,1,") for note in commands.notes)
        opened.run(commands, 120)
        check_results(opened, linear, tensors, expected)


def test_only_where_the_bus_would_limit_a_pass_is_the_rank_cut() -> None:
    config, window = load_config("ecp5"), SHARED.passes[0]
    assert all(plan.r == 64 and plan.skinny_slots for plan in plan_passes(1024, 640, 640, 64, config, 1, window, 16))
    best = plan_passes(1024, 640, 640, 128, config, 1, window, 16)[0]
    assert best.r < 128
    assert best.m >= 32  # with all of the rank at a time 16 tokens fit


def test_of_a_gradients_orders_the_one_that_reads_less_is_taken() -> None:
    """At rank 128 the sums of all columns leave room for 16 rows only, and H would come 40 times; at rank 32 once more is dearer."""
    config = load_config("ecp5")
    assert plan_gradient(1024, 640, 128, config, SHARED.gradients[0]).reread_left
    assert not plan_gradient(4096, 320, 32, config, SHARED.gradients[0]).reread_left
