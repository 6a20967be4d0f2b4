"""Compiled products: legal on every preset, right on the reference device, and cut to use the array."""

from __future__ import annotations

import numpy as np
import pytest

from loralith.compiler.proof.checker import check
from loralith.compiler.schedules.matmul import best_fold, compile_matmul, plan_matmul
from loralith.compiler.storage.layout import fold_right, row_major, skinny_packed
from loralith.compiler.storage.regions import DoesNotFit, Regions
from loralith.device import open_device
from loralith.spec.config import PRESETS, Config

SMALLEST = Config("smallest", 4, 4, 8, 4, 128, 128, 256, 128, scale_bytes=64, stat_slots=8)


def shapes(seed: int, count: int, most: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(seed)
    return [tuple(int(x) for x in np.exp(rng.uniform(0, np.log(most)))) for _ in range(count)]  # type: ignore[misc]


@pytest.mark.parametrize("config", [*PRESETS.values(), SMALLEST], ids=lambda c: c.name)
def test_every_list_is_legal_and_right(config: Config) -> None:
    rng = np.random.default_rng(2)
    with open_device("reference", config, memory_bytes=1 << 22) as device:
        most = (30, 30, 90) if config is SMALLEST else (150, 150, 900)
        for i, (M, N, K) in enumerate(shapes(3, 12, most)):
            plan = plan_matmul(M, N, K, config, fold=config.folds[i % len(config.folds)])
            layouts = plan.layouts(config)
            left, right = rng.integers(-128, 128, (M, K)).astype(np.int8), rng.integers(-128, 128, (K, N)).astype(np.int8)
            with device.arena():
                addresses = [device.alloc(layout.nbytes) for layout in layouts]
                commands = compile_matmul(plan, addresses[0], addresses[1], addresses[2], config)
                check(commands, config, (device.memory_base, device.memory_base + device.memory_bytes))
                device.write(addresses[0], layouts[0].pack(left))
                device.write(addresses[1], layouts[1].pack(fold_right(right, plan.fold, config) if plan.fold > 1 else right))
                device.run(commands)
                out = layouts[2].unpack(device.read(addresses[2], layouts[2].nbytes), np.int32)
            assert (out == left.astype(np.int32) @ right.astype(np.int32)).all(), plan


def test_blocks_of_k_are_summed_on_chip() -> None:
    plan = plan_matmul(40, 40, 3000, SMALLEST)
    assert plan.blocks[2] > 1
    commands = compile_matmul(plan, 0, 1 << 20, 1 << 21, SMALLEST)
    check(commands, SMALLEST)
    assert sum(c.opcode.name == "STORE" for c in commands) == plan.blocks[0] * plan.blocks[1]


@pytest.mark.parametrize(("N", "fold"), [(1, 16), (4, 4), (5, 16), (8, 2), (16, 1), (320, 1)])
def test_fold_uses_the_whole_array(N: int, fold: int) -> None:
    assert best_fold(320, N, PRESETS["base"]) == fold


def test_skinny_products_take_the_columns() -> None:
    """r x I of dA over T tokens: computed as its transpose, so that r = 4 fills a 16 x 16 array."""
    device = open_device("reference", "base")
    device.matmul(np.ones((4, 77), np.int8), np.ones((77, 320), np.int8))
    assert device.last_counters.busy == 20 * 20  # 20 row blocks, ceil(77 / 4) steps


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_a_resident_operand_is_read_once(config: Config) -> None:
    M, N, K = 8 * config.rows, 8 * config.cols, 4 * config.banks
    plan = plan_matmul(M, N, K, config)
    commands = compile_matmul(plan, 0, 1 << 20, 1 << 21, config)
    loaded = [c for c in commands if c.opcode.name == "LOAD"]
    mb, nb, kb = plan.blocks
    if kb == 1:
        assert len(loaded) <= mb * nb + min(mb, nb)


def test_does_not_fit_says_so() -> None:
    regions = Regions(SMALLEST)
    regions.take("left", 4, 8)
    with pytest.raises(DoesNotFit, match=r"4 lanes x 32 need 4 rows of left; 3 are free"):
        regions.take("left", 4, 32)
    mark = regions.mark()
    regions.take("left", 4, 24)
    regions.release(mark)
    assert regions.free_rows("left") == 3


def test_a_configuration_too_small_for_a_tile_says_so() -> None:
    too_small = Config("small", 4, 4, 8, 4, 128, 128, 128, 64, scale_bytes=64, stat_slots=8)
    with pytest.raises(DoesNotFit, match=r"no block of 40 x 40 x 3000 fits the scratchpads of configuration 'small'"):
        plan_matmul(40, 40, 3000, too_small)


def test_fold_is_not_for_sums_shorter_than_a_drain() -> None:
    assert best_fold(4, 320, PRESETS["base"]) == 1


def test_unknown_fold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fold must be one of \(1, 2, 4\) on 'tiny', not 3; the nearest is 2"):
        plan_matmul(4, 4, 4, PRESETS["tiny"], fold=3)


def test_layouts_pack_and_unpack() -> None:
    config = PRESETS["base"]
    values = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    for layout, stride in ((row_major(4, 3, config), 16), (skinny_packed(4, 3, config), 4)):
        assert layout.stride == stride
        image = layout.pack(values)
        assert image.size == layout.nbytes
        assert (layout.unpack(image, np.int8) == values).all()
        assert not image.reshape(4, stride)[:, 3:].any()
    assert skinny_packed(4, 100, config).stride == 128
    part = row_major(4, 3, config).at(256).block(1, 2, 2, 1)
    assert (part.address, part.rows, part.row_bytes, part.stride) == (256 + 16 + 2, 2, 1, 16)
    with pytest.raises(ValueError, match=r"rows 3\.\.4"):
        row_major(4, 3, config).block(3, 2, 0, 1)
    with pytest.raises(ValueError, match="expected 4 x 3"):
        row_major(4, 3, config).pack(values.T)


def test_a_packed_skinny_tensor_is_a_folded_operand() -> None:
    """What a packed store writes is already in the folded array's order, where C fills a bus word."""
    config = PRESETS["base"]
    values = np.arange(32, dtype=np.int8).reshape(8, 4)
    assert (skinny_packed(8, 4, config).pack(values) == fold_right(values, 4, config).reshape(-1).view(np.uint8)).all()
