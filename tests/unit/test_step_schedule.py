"""How a step's tiles become a list: places on chip, what waits for what by way of DRAM, tiles that join, bytes that the array moves."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import check
from loralith.compiler.step import byte_copies
from loralith.compiler.step.copies import copy
from loralith.compiler.step.dependencies import flow_of
from loralith.compiler.step.emitter import Emitter, Region
from loralith.compiler.step.fusion import fused
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.memory import Memory
from loralith.compiler.step.on_chip import OperandCache, ProgramCache, RowAllocator, ScalarCache
from loralith.compiler.step.schedule import scheduled
from loralith.compiler.step.views import View
from loralith.compiler.step.waiting_tiles import WaitingTiles
from loralith.compiler.tokens.sync import synchronize
from loralith.device.reference import ReferenceDevice
from loralith.errors import LoralithError
from loralith.spec.commands import LoadTarget, Opcode, OutMode, StoreSource, VectorFormat
from loralith.spec.config import PRESETS, Config
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, Operand, Source, Target

CONFIGS = {name: replace(PRESETS[name], vector_lanes=lanes) for name, lanes in (("tiny", 4), ("ecp5", 4), ("base", 16))}
BASE, SIZE = 0x1000_0000, 1 << 20


@pytest.fixture(params=sorted(CONFIGS))
def config(request: pytest.FixtureRequest) -> Config:
    return CONFIGS[request.param]


def emitter(config: Config, base: int = BASE) -> Emitter:
    return Emitter(config, Memory(base, SIZE))


def listed(e: Emitter) -> CommandList:
    commands, _ = scheduled(e.tiles, e.config, e.memory.base, e.memory.peak, lambda code: e.constant(code, "a program"))
    return CommandList(tuple(commands))


def doubled(e: Emitter, at: int, to: int, words: int, times: int = 1) -> None:
    """A tile: ``words`` words of V0 from bytes ``at``, times two, ``times`` times, to bytes ``to``."""
    nbytes = 4 * words * e.config.vector_lanes
    two = e.scalar(2.0, e.number(2.0))
    e.load(LoadTarget.V0, at, 1, nbytes, 0, 0)
    step = instruction(x_source=Source.V0, a=Operand.SCALAR, s0=two, target=Target.V0)
    e.vector((step,) * times, [Region(0, 0, 1)], 1, words)
    e.store(StoreSource.V0, to, 1, nbytes, 0, 0)
    e.end_tile()


@pytest.mark.parametrize("joined", [False, True])
def test_many_tiles_side_by_side_give_what_they_give_one_after_the_other(config: Config, joined: bool) -> None:
    """Thirty tiles that read what others wrote, and write over what they read; the list with tokens is legal, and in its order right."""
    with ReferenceDevice(config, memory_bytes=1 << 22) as device:
        e = emitter(config, device.alloc(SIZE))
        words = config.v0_words // 3
        nbytes = 4 * words * config.vector_lanes
        tensors = [e.buffer(f"x{i}", VectorFormat.FP32, nbytes // 4) for i in range(6)]
        values = np.random.default_rng(0).integers(-64, 64, nbytes // 4).astype("<f4")
        wanted = [values * (i + 1) for i in range(6)]
        for buffer, value in zip(tensors, wanted, strict=True):
            device.write(buffer.address, value.view(np.uint8))
        for i in range(30):
            source, target = i % 6, (2 * i + 1) % 6
            doubled(e, tensors[source].address, tensors[target].address, words, 1 + i % 3)
            wanted[target] = wanted[source] * 2.0 ** (1 + i % 3)
        if joined:
            before = len(e.tiles)
            e.tiles = fused(e.tiles, config, e.memory.base, e.memory.peak, [(b.address, b.address + nbytes) for b in tensors])
            assert len(e.tiles) < before
        commands = listed(e)
        for address, data in e.static.items():
            device.write(address, data)
        check(synchronize(commands, config, e.static), config, programs=e.static)
        device.run(commands)
        for buffer, value in zip(tensors, wanted, strict=True):
            np.testing.assert_array_equal(device.read(buffer.address, nbytes).view("<f4"), value)


def test_a_tile_that_does_not_fit_is_named_with_what_it_takes(config: Config) -> None:
    e = emitter(config)
    e.note = "the sum of all"
    words = config.v0_words
    buffer = e.buffer("x", VectorFormat.FP32, 3 * words * config.vector_lanes)
    doubled(e, buffer.address, buffer.address, words)
    listed(e)  # as much as there is
    doubled(e, buffer.address, buffer.address, 2 * words)
    said = f"the sum of all: a tile does not fit on chip of the configuration {config.name}: it takes "
    said += f"{2 * words} words of v0, which has {words}"
    with pytest.raises(LoralithError, match=f"^{re.escape(said)}$"):
        listed(e)


def test_independent_tiles_run_ahead_of_those_that_wait(config: Config) -> None:
    """A chain of tiles, and after it in the program another one that shares nothing with it: their LOADs alternate in the list."""
    e = emitter(config)
    chains = [[e.buffer(f"x{chain}{i}", VectorFormat.FP32, 64) for i in range(5)] for chain in range(2)]
    for buffers in chains:
        for source, target in pairwise(buffers):
            doubled(e, source.address, target.address, 1)
    loads = [c["address"] for c in listed(e) if c.opcode is Opcode.LOAD and c["target"] == LoadTarget.V0]
    second = [i for i, address in enumerate(loads) if address in {b.address for b in chains[1]}]
    assert min(second) < 2, "the second chain begins beside the first one"


@pytest.mark.parametrize(
    ("shape", "source", "target"),
    [
        ((4, 32, 12), (12, 48, 1), (32 * 16, 16, 1)),  # heads, cut
        ((32, 4, 12), (16, 32 * 16, 1), (48, 12, 1)),  # heads, put together
        ((64, 4), (4, 1), (16, 1)),  # rows of four bytes
        ((2, 4, 64, 6), (1536, 6, 24, 1), (4 * 64 * 16, 64 * 16, 16, 1)),  # two pixels in a row
    ],
    ids=str,
)
def test_bytes_that_the_array_moves(config: Config, shape: tuple[int, ...], source: Sequence[int], target: Sequence[int]) -> None:
    """INT8 tensors between layouts whose rows begin at bus words: bytes in the gaps of the target stay as they are."""
    elements = [1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) for strides in (source, target)]
    with ReferenceDevice(config, memory_bytes=1 << 22) as device:
        e = emitter(config, device.alloc(SIZE))
        a, b = (e.buffer(name, VectorFormat.INT8, n + 64) for name, n in zip("ab", elements, strict=True))
        before = [np.random.default_rng(seed).integers(-127, 128, buffer.nbytes).astype(np.int8) for seed, buffer in ((1, a), (2, b))]
        for buffer, value in zip((a, b), before, strict=True):
            device.write(buffer.address, value.view(np.uint8))
        copy(e, View(a, shape, tuple(source)), View(b, shape, tuple(target)))
        kinds = {draft.opcode for tile in e.tiles for draft in tile.drafts}
        if config.bus_bytes == 16:
            assert Opcode.COMPUTE in kinds
            assert Opcode.VECTOR not in kinds
        commands = listed(e)
        for address, data in e.static.items():
            device.write(address, data)
        device.run(commands)
        wanted = before[1].copy()
        for index in np.ndindex(*shape):
            wanted[np.dot(index, target)] = before[0][np.dot(index, source)]
        np.testing.assert_array_equal(device.read(b.address, b.nbytes).view(np.int8), wanted)


def test_bytes_that_the_array_cannot_move_are_left_to_others(config: Config) -> None:
    e = emitter(config)
    a, b = e.buffer("a", VectorFormat.INT8, 4096), e.buffer("b", VectorFormat.INT8, 4096)
    odd = View(a, (64, 12), (13, 1)), View(b, (64, 12), (16, 1))
    words = e.buffer("w", VectorFormat.BF16, 4096)
    assert not byte_copies.copy_bytes(e, *odd)
    assert not byte_copies.copy_bytes(e, View(words, (64, 12), (48, 1)), View(words, (64, 12), (16, 1), 2048))
    assert not e.tiles
    assert not e.static


def stores(e: Emitter, kept: list[tuple[int, int]] | None) -> list[int]:
    tiles = fused(e.tiles, e.config, BASE, e.memory.peak, kept)
    return [d.fields["address"] for tile in tiles for d in tile.drafts if d.opcode is Opcode.STORE]


def test_a_tile_that_goes_on_with_what_is_on_chip_becomes_one_with_it(config: Config) -> None:
    e = emitter(config)
    x, y, z = (e.buffer(name, VectorFormat.FP32, 8 * config.vector_lanes) for name in "xyz")
    doubled(e, x.address, y.address, 8)
    doubled(e, y.address, z.address, 8)
    kept = [(z.address, z.address + z.nbytes)]
    (tile,) = fused(e.tiles, config, BASE, e.memory.peak, kept)
    loads = [d.fields["address"] for d in tile.drafts if d.opcode is Opcode.LOAD and not d.scalar]
    assert loads == [x.address], "what y holds is on chip"
    assert stores(e, kept) == [z.address], "nobody reads y from memory"
    assert stores(e, None) == [y.address, z.address], "of a step that is verified every tensor stays"


def test_a_tile_does_not_join_one_that_another_waits_for(config: Config) -> None:
    """y = 2 x; v, twice the first half of y; w = y + v. The third tile finds y with the first one, but waits for the second one too, which
    waits for the first one: they would wait for each other in a circle."""
    width = 8 * config.vector_lanes
    with ReferenceDevice(config, memory_bytes=1 << 22) as device:
        e = emitter(config, device.alloc(SIZE))
        x, y, v, w = (e.buffer(name, VectorFormat.FP32, width) for name in "xyvw")
        values = np.arange(width, dtype="<f4")
        device.write(x.address, values.view(np.uint8))
        doubled(e, x.address, y.address, 8)
        doubled(e, y.address, v.address, 4)
        e.load(LoadTarget.V0, y.address, 1, 4 * width, 0, 0)
        e.load(LoadTarget.V1, v.address, 1, 2 * width, 0, 0)
        add = instruction(x_source=Source.V0, y_source=Source.V1, y_region=1, b=Operand.Y, target=Target.V0)
        e.vector((add,), [Region(0, 0, 1), Region(0, 0, 1)], 1, 4)
        e.store(StoreSource.V0, w.address, 1, 2 * width, 0, 0)
        e.end_tile()
        e.tiles = fused(e.tiles, config, e.memory.base, e.memory.peak, [(w.address, w.address + w.nbytes)])
        assert len(e.tiles) == 3
        commands = listed(e)
        for address, data in e.static.items():
            device.write(address, data)
        device.run(commands)
        np.testing.assert_array_equal(device.read(w.address, 2 * width).view("<f4"), 6 * values[: width // 2])


def test_what_was_written_over_on_chip_is_brought_again(config: Config) -> None:
    """Two tiles double y in place; the second one cannot have it from where the first one put its result."""
    e = emitter(config)
    x, y, z, w = (e.buffer(name, VectorFormat.FP32, 8 * config.vector_lanes) for name in "xyzw")
    for source, target in ((x, y), (y, z), (y, w)):
        doubled(e, source.address, target.address, 8)
    tiles = fused(e.tiles, config, BASE, e.memory.peak, [(b.address, b.address + b.nbytes) for b in (z, w)])
    loads = [d.fields["address"] for tile in tiles for d in tile.drafts if d.opcode is Opcode.LOAD and not d.scalar]
    assert loads == [x.address, y.address]


def test_who_writes_waits_for_those_who_read_before(config: Config) -> None:
    e = emitter(config)
    x, y, z = (e.buffer(name, VectorFormat.FP32, 8 * config.vector_lanes) for name in "xyz")
    doubled(e, x.address, y.address, 8)
    doubled(e, z.address, x.address, 8)
    flow = flow_of(e.tiles, config, BASE, e.memory.peak)
    reader = next(n for n, d in enumerate(flow.drafts) if d.opcode is Opcode.LOAD and d.fields["address"] == x.address)
    writer = next(n for n, d in enumerate(flow.drafts) if d.opcode is Opcode.STORE and d.fields["address"] == x.address)
    assert writer in flow.after[reader]


def test_a_store_beside_another_one_in_the_same_piece_of_memory_is_read_too(config: Config) -> None:
    """Two tiles write halves of 32 bytes, the third reads both: each is waited for, and neither is left out."""
    e = emitter(config)
    x, y, z = (e.buffer(name, VectorFormat.FP32, 8) for name in "xyz")
    for half in (0, 16):
        e.load(LoadTarget.V0, x.address + half, 1, 16, 0, 0)
        e.store(StoreSource.V0, y.address + half, 1, 16, 0, 0)
        e.end_tile()
    e.load(LoadTarget.V0, y.address, 1, 32, 0, 0)
    e.store(StoreSource.V0, z.address, 1, 32, 0, 0)
    e.end_tile()
    flow = flow_of(e.tiles, config, BASE, e.memory.peak)
    reader = next(n for n, d in enumerate(flow.drafts) if d.opcode is Opcode.LOAD and d.fields["address"] == y.address)
    writers = [n for n, d in enumerate(flow.drafts) if d.opcode is Opcode.STORE and d.fields["address"] in (y.address, y.address + 16)]
    assert flow.writers[reader] == set(writers)
    assert len(writers) == 2
    assert all(reader in flow.after[writer] for writer in writers)
    assert stores(e, [(z.address, z.address + 32)]) == [y.address, y.address + 16, z.address]


def test_memory_that_another_tensor_takes_does_not_bind_its_readers_to_the_first_one(config: Config) -> None:
    e = emitter(config)
    x = e.buffer("x", VectorFormat.FP32, 16)
    for name, half in (("old", 0), ("new", 32)):
        buffer = e.buffer(name, VectorFormat.FP32, 16)
        e.load(LoadTarget.V0, x.address, 1, 32, 0, 0)
        e.store(StoreSource.V0, buffer.address + half, 1, 32, 0, 0)
        e.end_tile()
        e.memory.give(buffer.address)
    e.load(LoadTarget.V0, buffer.address, 1, 64, 0, 0)
    flow = flow_of([*e.tiles, e._tile], config, BASE, e.memory.peak)
    old, new = (n for n, d in enumerate(flow.drafts) if d.opcode is Opcode.STORE)
    assert flow.writers[new + 1] == {new}
    assert new in flow.after[old]


def multiplied(e: Emitter, left: int, right: int, to: int) -> None:
    """A tile: a block of as many lanes and columns as the array has rows and columns, K one row of the scratchpads, as INT32."""
    c = e.config
    e.load(LoadTarget.LEFT, left, c.rows, c.bus_bytes, c.bus_bytes, 0, block_stride=1, transpose=1)
    e.load(LoadTarget.RIGHT, right, c.cols, c.bus_bytes, c.bus_bytes, 0, block_stride=1, transpose=1)
    strides = {"left0_stride": 1, "right0_stride": 1, "out_stride": -(-4 * c.cols // c.banks)}
    e.emit(Opcode.COMPUTE, m_rows=c.rows, n_cols=c.cols, k0=c.bus_bytes, out_mode=OutMode.INT32, to_out=1, **strides)
    e.store(StoreSource.OUT, to, c.rows, 4 * c.cols, 4 * c.cols, 0, block_stride=strides["out_stride"])
    e.end_tile()


def test_what_tiles_multiply_stays_on_chip_until_it_is_written_anew(config: Config) -> None:
    """Two left operands times three right ones, again after one of each has been written: each is brought once for each time that it was
    written, and the results are those of numpy."""
    with ReferenceDevice(config, memory_bytes=1 << 22) as device:
        e = emitter(config, device.alloc(SIZE))
        k, random = config.bus_bytes, np.random.default_rng(0)
        sizes = [config.rows, config.rows, config.cols, config.cols, config.cols]
        operands = [e.buffer(f"x{i}", VectorFormat.INT8, n * k) for i, n in enumerate(sizes)]
        values = [random.integers(-127, 128, (n, k)).astype(np.int8) for n in sizes]
        spare = [e.buffer(f"new{i}", VectorFormat.INT8, sizes[i] * k) for i in (0, 2)]
        news = [random.integers(-127, 128, (sizes[i], k)).astype(np.int8) for i in (0, 2)]
        results, wanted = [], []
        for again in (False, True):
            for left in range(2):
                for right in range(2, 5):
                    results.append(e.buffer("y", VectorFormat.FP32, config.rows * config.cols))
                    multiplied(e, operands[left].address, operands[right].address, results[-1].address)
                    own = [news[(0, 2).index(i)] if again and i in (0, 2) else values[i] for i in (left, right)]
                    wanted.append(own[0].astype(np.int32) @ own[1].astype(np.int32).T)
            for i, new in zip((0, 2), spare, strict=True):
                n = sizes[i] * k
                copy(e, View(new, (n,), (1,), 0), View(operands[i], (n,), (1,), 0))
        for buffer, value in zip([*operands, *spare], [*values, *news], strict=True):
            device.write(buffer.address, value.view(np.uint8).ravel())
        commands = listed(e)
        for address, data in e.static.items():
            device.write(address, data)
        check(synchronize(commands, config, e.static), config, programs=e.static)
        device.run(commands)
        for buffer, value in zip(results, wanted, strict=True):
            got = device.read(buffer.address, buffer.nbytes).view("<i4").reshape(config.rows, config.cols)
            np.testing.assert_array_equal(got, value)
    loads = [c for c in commands if c.opcode is Opcode.LOAD and c["target"] in (LoadTarget.LEFT, LoadTarget.RIGHT)]
    assert len(loads) == len(operands) + 2


def test_tiles_of_the_array_are_loaded_before_others(config: Config) -> None:
    """A product that is ready does not wait behind tiles that take longer and stand before it in the program."""
    e = emitter(config)
    words = config.v0_words // 4
    source, *targets = (e.buffer(f"x{i}", VectorFormat.FP32, words * config.vector_lanes) for i in range(5))
    operand, result = (e.buffer(name, VectorFormat.FP32, 4096) for name in ("operand", "result"))
    for target in targets:
        doubled(e, source.address, target.address, words, 8)
    multiplied(e, operand.address, operand.address, result.address)
    loads = [c["target"] for c in listed(e) if c.opcode is Opcode.LOAD]
    assert max(loads.index(LoadTarget.LEFT), loads.index(LoadTarget.RIGHT)) < loads.index(LoadTarget.V0)


def test_operands_stay_until_their_rows_are_taken() -> None:
    rows = OperandCache(10)
    assert rows.lookup("a") is None
    rows.hold("a", rows.allocate(4), 4, 7)
    assert rows.lookup("a") == (0, 7)
    rows.share("a")
    rows.free(0, 4)
    assert not rows.fits(7), "one of its two users is left"
    rows.free(0, 4)
    assert rows.fits(10)
    assert rows.lookup("a") == (0, 7), "nobody uses it, and it is there"
    rows.hold("b", rows.allocate(5), 5, 8)
    assert rows.lookup("a") == (0, 7)
    rows.share("a")
    assert not rows.fits(5), "it is in use again"
    rows.free(0, 4)
    assert rows.allocate(4) == 0
    assert rows.lookup("a") is None
    assert rows.lookup("b") == (4, 8)


def test_of_tiles_that_need_alike_one_is_tried() -> None:
    tiles = WaitingTiles(lambda tile: tile % 2)
    for tile in range(6):
        tiles.push(10 - tile, tile)
    tried: list[int] = []

    def full(tile: int) -> bool:
        tried.append(tile)
        return False

    assert tiles.first(lambda tile: True, full, 4) is None
    assert tried == [0, 1]
    assert tiles.first(lambda tile: True, lambda tile: tile % 2 == 1, 4) == 1
    assert tiles.first(lambda tile: tile != 0, lambda tile: True, 4) == 2, "one that waits no more is left out"
    tiles.push(99, 7)
    assert [tiles.first(lambda tile: True, lambda tile: True, 1) for _ in range(4)] == [7, 3, 4, 5]
    assert tiles.first(lambda tile: True, lambda tile: True, 1) is None


def test_places_scalars_and_programs_are_given_out_and_taken_back() -> None:
    rows = RowAllocator(10)
    assert [rows.allocate(4), rows.allocate(4)] == [0, 4]
    assert not rows.fits(4)
    rows.free(0, 4)
    assert rows.fits(4)
    assert not rows.fits(5)
    assert rows.allocate(2) == 8, "what was in use is left alone for as long as it can be"
    scalars = ScalarCache()
    first = scalars.acquire(3, {0: (64, 1)}, fresh=False)
    assert first is not None
    scalars.fill(first, 0, (64, 1), 7)
    assert scalars.lookup(first, 0, (64, 1)) == 7
    assert scalars.lookup(first, 0, (64, 2)) is None
    assert scalars.acquire(3, {0: (64, 1)}, fresh=False) == first, "who reads the same shares it"
    assert scalars.acquire(3, {0: (64, 1)}, fresh=True) != first, "who writes does not"
    programs = ProgramCache()
    long, short = tuple(bytes([i] * 8) for i in range(40)), (b"\1" * 8,) * 30
    assert programs.acquire([long], 5) == [long]
    assert programs.locate(long) == (0, 5)
    assert programs.acquire([short], 6) is None, "there is no room while the other one is in use"
    programs.release([long])
    assert programs.acquire([long], 6) == [], "it is still there"
    programs.release([long])
    assert programs.acquire([short], 6) == [short]
    first_instruction, _ = programs.locate(short)
    assert 0 <= first_instruction <= PROGRAM_INSTRUCTIONS - 30
