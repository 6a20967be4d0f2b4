"""What the step compiler takes of a tensor in the visit that makes it, or makes on chip, so that memory is not asked for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from helpers.step_cases import CONFIGS, SIZE, Case, integers, words
from loralith.compiler.step.compile import compile_step
from loralith.compiler.step.layouts import LaneDimensions
from loralith.compiler.step.pending import readers_of
from loralith.compiler.step.tiles import Work
from loralith.spec.commands import Opcode
from loralith.spec.config import Config
from loralith.spec.graph import Graph, Kind, Op
from loralith.spec.step import dimension_of, row_dimension
from loralith.step.operator_programs import norm, norm_backward


@pytest.fixture(params=sorted(CONFIGS))
def config(request: pytest.FixtureRequest) -> Config:
    return CONFIGS[request.param]


def moved(graph: Graph, config: Config, results: Sequence[Any], opcode: Opcode, work: Work | None = None) -> int:
    """Bytes that LOADs or STOREs move in the list of ``graph`` that leaves ``results``, of one kind of work or of all."""
    for i, node in enumerate(results):
        graph.set_output("loss" if i == 0 else f"result{i}", node.name)
    compiled = compile_step(graph, config, 0, SIZE, 3)
    total = 0
    for command, own in zip(compiled.commands.commands, compiled.works, strict=True):
        if command.opcode is opcode and work in (None, own):
            total += command["rows"] * command["row_bytes"]
    return total


@pytest.mark.parametrize("shape", [(), (3, 7), (2, 40, 33), (1, 200, 160)], ids=str)
@pytest.mark.parametrize("brain", [False, True])
def test_a_tensors_largest_magnitude_is_that_of_its_tiles(config: Config, shape: tuple[int, ...], brain: bool) -> None:
    """Of several readers after moves too, and where the largest element changes when it is rounded."""
    case = Case()
    b = case.b
    x = case.input("x", words(*shape, seed=9))
    y = b.multiply(x, 3.0)
    y = b.brain(y) if brain else y
    flat = b.reshape(y, (-1,))
    results = [b.largest(y), b.largest(flat), b.largest(b.permute(y, tuple(reversed(range(len(shape))))))]
    assert case.run(config, y, *results) >= 4


def test_a_tensor_is_not_read_again_for_its_largest_magnitude(config: Config) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(128, 160))
    y = b.brain(b.multiply(x, 3.0))
    bytes_read = moved(b.graph, config, [b.largest(y), y], Opcode.LOAD, Work.REDUCTION)
    assert 0 < bytes_read < y.shape[0] * y.shape[1]  # words of tiles, and not two bytes an element


def test_what_is_rounded_by_its_largest_magnitude_is_not_stored(config: Config) -> None:
    """bfloat16 times a row, for its maximum and for its integers."""
    case = Case()
    b, x, row = case.b, case.input("x", words(64, 128)), case.input("row", words(1, 128))
    g = b.brain(b.add(x, 1.0))
    scaled = b.multiply(g, b.expand(row, g.shape))
    q = b.quantize(scaled, b.scale(b.largest(scaled), 127), 127, stochastic=True)
    assert case.run(config, g, q) >= 3
    assert moved(b.graph, config, [g, q], Opcode.STORE) < 64 * 128 * (2 + 1) + 4096


def test_two_who_share_a_largest_magnitude_may_end_one_after_the_other(config: Config) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(40, 32))
    results = []
    for _ in range(12):  # memory is given back a little later
        y = b.brain(b.multiply(x, 3.0))
        q = b.quantize(y, b.scale(b.largest(y), 127), 127, stochastic=False)
        flat = b.reshape(y, (-1,))
        later = b.quantize(flat, b.scale(b.largest(flat), 127), 127, stochastic=True)
        x = b.multiply(b.word(q), 0.0625)
        results.append(later)
    for i, node in enumerate(results):
        b.graph.set_output("loss" if i == 0 else f"result{i}", node.name)
    assert compile_step(b.graph, config, 0, SIZE, 3).commands.commands  # without what a verified step keeps
    assert case.run(config, *results) >= len(results)


def test_a_product_leaves_its_largest_magnitude(config: Config) -> None:
    case = Case()
    b, x, w = case.b, case.frozen("x", integers(2, 50, 24)), case.frozen("w", integers(2, 24, 70))
    y = b.brain(b.multiply(b.word(b.matmul(x, w)), 0.0078125))
    assert case.run(config, b.largest(y), y) >= 2
    if config.rows == config.vector_lanes:
        assert moved(b.graph, config, [b.largest(y), y], Opcode.LOAD, Work.REDUCTION) < 2 * 50 * 70


@pytest.mark.parametrize("op", [Op.MULTIPLY, Op.SUBTRACT])
def test_softmaxs_gradient_meets_p_on_chip(config: Config, op: Op) -> None:
    """dS = P (dP - sums): neither dP nor P's words are stored. A difference of them likewise, in its order."""
    case = Case()
    b, heads, tokens, width = case.b, 2, 64, 8
    p = b.permute(case.frozen("p", integers(heads, tokens, tokens)), (0, 2, 1))
    unit, delta = case.input("unit", words(heads, tokens, 1)), case.input("delta", words(heads, tokens, 1))
    d_o, v = case.frozen("do", integers(heads, tokens, width)), case.frozen("v", integers(heads, width, tokens))
    p_words = b.multiply(b.word(p), unit)
    dp = b.multiply(b.word(b.matmul(d_o, v)), 0.0078125)
    ds = b.brain((b.multiply if op is Op.MULTIPLY else b.subtract)(p_words, b.subtract(dp, delta)))
    q = b.quantize(ds, b.scale(b.largest(ds), 127), 127, stochastic=True, lanes=1)
    assert case.run(config, q, ds) >= 2
    elements = heads * tokens * tokens
    assert moved(b.graph, config, [q, ds], Opcode.STORE) < elements * (2 + 1) + 8192


@pytest.mark.parametrize("op", [Op.ADD, Op.SUBTRACT, Op.MULTIPLY])
@pytest.mark.parametrize("turned", [False, True])
def test_chains_that_meet_are_one_visit(config: Config, op: Op, turned: bool) -> None:
    """One of them becomes an operand of the other, with tensors, rows and values of rows that it reads itself."""
    case = Case()
    b, shape = case.b, (6, 50, 64)
    t, u, v, w = (case.input(name, words(*shape, seed=i)) for i, name in enumerate("tuvw"))
    row, value = case.input("row", words(64)), case.input("value", words(6, 50, 1))
    one = b.multiply(b.add(u, value), 3.0)
    other = b.function(Op.EXP2, b.subtract(b.multiply(b.add(b.multiply(v, row), t), w), b.multiply(value, 0.5)))
    pair = (other, one) if turned else (one, other)
    y = b.brain({Op.ADD: b.add, Op.SUBTRACT: b.subtract, Op.MULTIPLY: b.multiply}[op](*pair))
    q = b.quantize(y, b.scale(b.largest(y), 127), 127, stochastic=True)
    assert case.run(config, q, y) >= 2
    elements = 6 * 50 * 64
    assert moved(b.graph, config, [q, y], Opcode.STORE) < elements * (2 + 1) + 8192


def test_chains_that_are_too_long_together_do_not_meet(config: Config) -> None:
    """A tile has 32 scalars: what both read does not fit."""
    case = Case()
    b, shape = case.b, (6, 64)

    def chain(name: str, count: int) -> Any:
        value = case.input(name, words(*shape))
        for i in range(count):
            value = b.add(value, case.input(f"{name}{i}", words(seed=i)))
        return value

    y = b.multiply(chain("u", 22), chain("v", 11))
    assert case.run(config, b.brain(y)) >= 2


@pytest.mark.parametrize(("tokens", "channels"), [(64, 48), (40, 200), (16, 700)])
@pytest.mark.parametrize("turned", [False, True])
def test_sums_of_chains_that_are_stored_nowhere(config: Config, tokens: int, channels: int, turned: bool) -> None:
    """A normalization, forward and backward, of bfloat16: nothing of as many elements is stored but what it is asked for, where tokens lie
    along the lanes and V0 has all channels of a word of them. In `ecp5` it has not, of 700."""
    case = Case()
    b, shape = case.b, (1, tokens, channels)

    def tensor(name: str) -> Any:
        own = (1, tokens, channels) if turned else (1, channels, tokens)
        y = b.brain(b.multiply(case.input(name, words(*own)), 3.0))
        return y if turned else b.permute(y, (0, 2, 1))

    x, grad, weight, bias = tensor("x"), tensor("grad"), case.input("w", words(channels)), case.input("bias", words(channels))
    y, mean, rstd = norm(b, x, (2,), weight, bias, 1e-5)
    dx = b.add(norm_backward(b, grad, x, mean, rstd, (2,), weight), 1.0)
    y, dx = b.brain(y), b.brain(dx)
    assert y.shape == dx.shape == shape
    assert case.run(config, y, dx) >= 8
    if not turned and 4 * channels <= config.v0_words:
        assert moved(b.graph, config, [y, dx], Opcode.STORE) < tokens * channels * 4 * 2 + 64 * tokens + 4096


@pytest.mark.parametrize(("groups", "size", "pixels"), [(8, 6, 1024), (4, 10, 1024), (16, 3, 2048)])
def test_sums_of_groups_in_two_stages_that_are_stored_nowhere(config: Config, groups: int, size: int, pixels: int) -> None:
    """A normalization of groups of channels, forward and backward, of images whose channels lie along the lanes."""
    case = Case()
    b, shape = case.b, (1, groups, size, pixels)

    def tensor(name: str) -> Any:
        y = b.brain(b.multiply(case.input(name, words(1, pixels, groups * size)), 3.0))
        return b.reshape(b.permute(y, (0, 2, 1)), shape)

    def channels(name: str) -> Any:
        return b.reshape(case.input(name, words(groups * size)), (1, groups, size, 1))

    x, grad, weight, bias = tensor("x"), tensor("grad"), channels("w"), channels("bias")
    y, mean, rstd = norm(b, x, (2, 3), weight, bias, 1e-5)
    y, dx = b.brain(y), b.brain(norm_backward(b, grad, x, mean, rstd, (2, 3), weight))
    assert case.run(config, y, dx) >= 8
    if groups * size % 16 == 0 and size * pixels > 4096:  # sums of each channel first, along the lanes
        assert moved(b.graph, config, [y, dx], Opcode.STORE) < groups * size * pixels * 2 * 4 + 65536


@pytest.mark.parametrize("brain", [False, True])
def test_a_chain_with_several_readers_is_stored_where_its_operands_have_as_many_bytes(config: Config, brain: bool) -> None:
    """FP32 of FP32 is stored; of bfloat16 it is computed anew for each reader."""
    case = Case()
    b, x = case.b, case.input("x", words(64, 48))
    x = b.brain(b.multiply(x, 0.5)) if brain else x
    shared = b.multiply(x, 3.0)
    results = [b.brain(b.multiply(shared, shared)), b.brain(b.add(shared, 1.0)), *([x] if brain else [])]
    assert case.run(config, *results) >= 3
    elements = 64 * 48
    stored = moved(b.graph, config, results, Opcode.STORE)
    assert (
        elements * 2 * len(results) + 4 * elements * (not brain) <= stored < elements * 2 * len(results) + 5 * elements * (not brain) + 2048
    )


def classes(graph: Graph) -> LaneDimensions:
    return LaneDimensions(graph, readers_of(graph))


def test_connected_tensors_lie_alike() -> None:
    """Two products whose sum is normalized by rows; transposed, the class is the same one; nothing asks for the third one's rows."""
    case = Case()
    b = case.b
    x, w = case.frozen("x", integers(64, 32)), case.frozen("w", integers(32, 48))
    first, second, third = (b.matmul(x, w) for _ in range(3))
    across = b.matmul(b.permute(w, (1, 0)), b.permute(x, (1, 0)))
    total = b.add(b.brain(b.word(first)), b.multiply(b.word(second), 2.0))
    total = b.add(total, b.permute(b.word(across), (1, 0)))
    b.graph.set_output("loss", b.sum(total, (1,), 1.0).name)
    b.graph.set_output("other", b.brain(b.word(third)).name)
    found = classes(b.graph)
    assert [found.rows_along_lanes(node) for node in (first, second, across, third)] == [True, True, False, False]
    assert found.dimension(total.name) == 0


@pytest.mark.parametrize("columns", [1024, 1040])
def test_sums_of_more_terms_than_v0_has_words_ask_for_no_rows_along_the_lanes(columns: int) -> None:
    case = Case()
    b = case.b
    product = b.matmul(case.frozen("x", integers(64, 32)), case.frozen("w", integers(32, columns)))
    b.graph.set_output("sums", b.sum(b.brain(b.word(product)), (1,), 1.0).name)
    assert classes(b.graph).rows_along_lanes(product) is (columns <= 1024)


def test_an_image_keeps_its_channels_along_the_lanes() -> None:
    """A product whose rows are summed up lies with its rows along the lanes; one that becomes an image too lies as the image."""
    case = Case()
    b = case.b
    x, w = case.frozen("x", integers(64, 32)), case.frozen("w", integers(32, 208))
    product = b.matmul(x, w)
    y = b.brain(b.word(product))
    b.graph.set_output("sums", b.sum(y, (1,), 1.0).name)
    assert classes(b.graph).rows_along_lanes(product)
    image = b.permute(b.reshape(y, (1, 8, 8, 208)), (0, 3, 1, 2))
    b.graph.set_output("loss", b.brain(b.add(image, 1.0)).name)
    assert not classes(b.graph).rows_along_lanes(product)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_a_convolution_of_one_place_leaves_the_matrix_that_is_made_of_it(config: Config, n: int, turned: bool) -> None:
    """An image, a matrix of its pixels, an image again: nothing is copied, whichever way the matrix is to lie."""
    case = Case()
    b, channels, outputs, side = case.b, 48, 32, 8
    x = b.reshape(case.frozen("x", integers(n * side * side, channels)), (n, side, side, channels))
    w, v = case.frozen("w", integers(outputs, channels, 1, 1)), case.frozen("v", integers(channels, outputs, 1, 1))
    bias = case.input("bias", words(1, outputs, 1, 1))
    shape = (n, outputs, side, side)

    def one(op: Op, q: Any, kernel: Any, shape: tuple[int, ...]) -> Any:
        return b.word(b.node(op, Kind.SUM, shape, q, kernel, stride=(1, 1), padding=(0, 0)))

    first = b.node(Op.CONVOLUTION, Kind.SUM, shape, b.permute(x, (0, 3, 1, 2)), w, stride=(1, 1), padding=(0, 0))
    image = b.brain(b.add(b.multiply(b.word(first), 0.0078125), bias))
    matrix = b.reshape(b.permute(image, (0, 2, 3, 1)), (n, side * side, outputs))
    pixels = side * side
    other = b.word(b.matmul(case.frozen("p", integers(n, pixels, 16)), case.frozen("r", integers(n, 16, outputs))))
    total = b.brain(b.add(matrix, b.multiply(other, 0.0078125)))
    top = b.largest(total)
    drawn = b.quantize(total, b.scale(top, 127), 127, stochastic=True, lanes=2 if turned else 1)
    back = b.permute(b.reshape(total, (n, side, side, outputs)), (0, 3, 1, 2))
    q = b.quantize(back, b.scale(b.largest(back), 127), 127, stochastic=False)
    results = [drawn, one(Op.CONVOLUTION, q, v, (n, channels, side, side)), one(Op.CONVOLUTION_INPUT, q, w, (n, channels, side, side))]
    results += [] if turned else [b.sum(total, (2,), top)]
    assert case.run(config, *results) >= 6
    found = classes(b.graph)
    assert found.rows_along_lanes(first) is not turned
    if n == 1:
        assert moved(b.graph, config, results, Opcode.LOAD, Work.COPY) == 8  # the step's key


def test_moves_there_and_back_are_no_nodes() -> None:
    case = Case()
    b, x = case.b, case.input("x", words(2, 6, 4))
    assert b.reshape(b.reshape(x, (12, 4)), (2, 6, 4)) is x
    assert b.permute(b.permute(x, (1, 2, 0)), (2, 0, 1)) is x
    twice = b.permute(b.permute(x, (1, 2, 0)), (1, 2, 0))
    assert twice.inputs == (x.name,)
    assert twice.attributes["order"] == (2, 0, 1)
    assert case.run(CONFIGS["tiny"], b.brain(twice)) >= 1


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((64, 320), 0),
        ((1, 64, 320), 1),
        ((8, 16, 40), 1),
        ((1, 320, 8, 8), 1),
        ((1, 15, 320), None),
        ((1, 8, 64, 40), None),
        ((320,), None),
    ],
)
def test_the_dimension_of_a_gradients_draws(shape: tuple[int, ...], rows: int | None) -> None:
    assert row_dimension(shape) == rows


def test_a_dimension_is_found_in_a_view() -> None:
    seen = np.lib.stride_tricks.as_strided(np.zeros(1), (8, 64, 40), (40, 320, 1))
    assert dimension_of(seen.shape, seen.strides, 64, 320) == 1
    assert dimension_of(seen.shape, seen.strides, 320, 1) == -1


def test_a_list_of_a_tensor_whose_scalar_lies_at_address_0_can_be_made(config: Config) -> None:
    case = Case()
    b = case.b
    bound = case.input("bound", words())
    assert bound.op is Op.INPUT
    x = case.input("x", words(40, 32))
    y = b.multiply(x, bound)
    b.graph.set_output("loss", y.name)
    assert compile_step(b.graph, config, 0, SIZE, 3).commands.commands
