"""Loads that go ahead, and whole steps as one list: legal, free of races, and equal to the products' definition."""

from pathlib import Path

import numpy as np
import pytest

import loralith
from loralith.compiler.cycles import model
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import check
from loralith.compiler.schedules.training_step import Linear, compile_step, place, step_macs
from loralith.compiler.tokens.order import hoist_loads
from loralith.shapes.linear_operands import Mismatch, check_results, fill
from loralith.shapes.measured_run import fixed_os_cycles, measure
from loralith.shapes.published_models import image_linears, text_linears
from loralith.spec.commands import Command, LoadTarget, Opcode
from loralith.spec.config import Config, load_config

BASE = 1 << 32


def _work(config: Config, *shapes: Linear):
    work, address = [], BASE
    for linear in shapes:
        tensors, address = place(linear, address, config)
        work.append((linear, tensors))
    return work, address


def load(base: int, address: int = BASE) -> Command:
    fields = {"target": LoadTarget.RIGHT, "rows": 8, "address": address, "row_bytes": 4, "row_stride": 8}
    return Command.make(Opcode.LOAD, base=base, block_stride=1, **fields)


def compute(right: int) -> Command:
    return Command.make(Opcode.COMPUTE, m_rows=1, n_cols=4, k0=8, left0_stride=1, right0_stride=1, right0_base=right)


def store(address: int) -> Command:
    return Command.make(Opcode.STORE, rows=1, address=address, row_bytes=8, row_stride=8, block_stride=1)


def _hoisted(*commands: Command, ahead: int = 16) -> list[Command]:
    return list(hoist_loads(CommandList.of(commands), load_config("tiny"), ahead))


def test_a_load_overtakes_products_that_do_not_use_its_rows() -> None:
    first, second, third = compute(0), compute(1), load(5)
    assert _hoisted(first, second, third) == [third, first, second]
    assert _hoisted(first, second, third, ahead=1) == [first, third, second]


def test_a_load_stays_behind_a_product_that_reads_its_rows() -> None:
    first, second, third = compute(5), compute(1), load(5)
    assert _hoisted(first, second, third) == [first, third, second]


def test_a_load_stays_behind_a_store_of_its_bytes_and_behind_other_loads() -> None:
    written, product, early, late = store(BASE), compute(0), load(4), load(5)
    assert _hoisted(written, product, late) == [written, late, product]
    assert _hoisted(early, product, late) == [early, late, product]


SHAPES = (
    Linear("square", 13, 20, 24, 3),
    Linear("text", 7, 40, 12, 4, dx=False),
    Linear("one token", 1, 9, 17, 1),
)


@pytest.mark.parametrize("config", ["tiny", "ecp5", "base"])
def test_a_step_of_several_linears_is_legal_and_free_of_races(config: str) -> None:
    loaded = load_config(config)
    work, end = _work(loaded, *SHAPES, SHAPES[0])
    check(compile_step(work, loaded), loaded, (BASE, end))


@pytest.mark.parametrize("device", ["reference", "verilator"])
def test_a_step_of_several_linears_has_the_results_of_its_products(device: str) -> None:
    with loralith.open_device(device, config="tiny") as opened:
        base = opened.alloc(1 << 20, 4096)
        work = []
        for linear in (*SHAPES, SHAPES[0]):
            tensors, base = place(linear, base, opened.config)
            work.append((linear, tensors))
        expected = [fill(opened, linear, tensors, seed) for seed, (linear, tensors) in enumerate(work)]
        opened.run(compile_step(work, opened.config), 120)
        for (linear, tensors), results in zip(work, expected, strict=True):
            check_results(opened, linear, tensors, results)
        y = work[0][1].y
        opened.write(y.address, np.array([99], np.int8))
        with pytest.raises(Mismatch, match=r"square, rank 3: y\[0, 0\] is 99"):
            check_results(opened, *work[0], expected[0])


@pytest.mark.parametrize("rank", [32, 64, 128])
def test_a_high_rank(rank: int) -> None:
    """Blocks along tokens and outputs, and of the highest ranks along the rank too; gradients share a part of the memories."""
    linear = Linear("high rank", 600, 48, 320, rank)
    with loralith.open_device("reference", config="base") as device:
        tensors, end = place(linear, device.alloc(1 << 22, 4096), device.config)
        expected = fill(device, linear, tensors, 0)
        commands = compile_step([(linear, tensors)], device.config)
        check(commands, device.config, (tensors.x.address, end))
        device.run(commands, 60)
        check_results(device, linear, tensors, expected)
    parts = {note.rpartition(",")[2] for note in commands.notes if note.startswith("dB ") and note.count(",") == 2}
    assert (len(parts) > 1) == (rank > 32)


@pytest.mark.parametrize(
    ("config", "linear", "bound"),
    [
        ("tiny", Linear("square", 16, 64, 64, 4), 0.01),
        ("tiny", Linear("descriptors and short bursts on one channel", 33, 40, 24, 4), 0.01),
        ("tiny", Linear("gradients' loads among the descriptors", 33, 40, 24, 5), 0.01),
        ("tiny", Linear("bursts of one word", 24, 24, 24, 1), 0.01),
        ("base", Linear("long loads one after the other", 256, 320, 320, 4), 0.01),
        ("base", Linear("text", 77, 192, 160, 4, dx=False), 0.01),
        ("base", Linear("odd rank", 128, 96, 256, 3), 0.01),
    ],
)
def test_the_cycle_model_is_near_the_counters(config: str, linear: Linear, bound: float) -> None:
    with loralith.open_device("verilator", config=config) as device:
        found = measure(linear, 3, device)
    assert abs(found.model_error) < bound
    assert found.macs == 3 * linear.macs


def test_runs_are_taken_from_the_cache_whatever_ran_before(tmp_path: Path) -> None:
    """Where operands lie depends on the runs before; a run's name must not."""
    large, small = Linear("large", 40, 64, 48, 4), Linear("small", 8, 16, 24, 2)
    with loralith.open_device("verilator", config="tiny") as device:
        found = [measure(linear, 2, device, "here", tmp_path) for linear in (large, small)]
    for kept in tmp_path.iterdir():  # one of the four runs missing, as after a stop
        text = kept.read_text()
        kept.unlink()
        with loralith.open_device("verilator", config="tiny") as device:
            assert [measure(linear, 2, device, "here", tmp_path) for linear in (large, small)] == found
        assert kept.read_text() == text
    assert len(list(tmp_path.iterdir())) == 4


def test_useful_macs_and_the_ideal_baseline_of_sd15() -> None:
    """79,933,303,296 and 807,630: worked out by hand in the issue of published shapes, independent of this code."""
    image, text = image_linears("sd15", 4), text_linears("sd15", 4)
    assert sum(image.values()) + len(text) == 128
    assert sum(n * linear.macs for linear, n in image.items()) + step_macs(text) == 79_933_303_296
    assert step_macs(text) == 1_514_236_416
    assert sum(fixed_os_cycles(linear, load_config("paper")) for linear in text) == 807_630


def test_the_model_counts_the_steps_of_a_product() -> None:
    commands = CommandList.of([compute(0)])
    assert model(commands, load_config("tiny")).busy == 8
