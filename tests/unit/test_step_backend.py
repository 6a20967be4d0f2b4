"""The step compiler's backend: each kind of node compiled, run on the reference device, and compared with the graph's interpretation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.step_cases import BASE, CONFIGS, SIZE, Case, integers, words
from loralith.compiler.proof.checker import IllegalList, check
from loralith.compiler.step.compile import compile_step
from loralith.compiler.step.memory import Memory, MemoryTooSmall
from loralith.compiler.tokens.sync import synchronize
from loralith.device.reference import ReferenceDevice
from loralith.errors import LoralithError
from loralith.spec.config import PRESETS, Config
from loralith.spec.graph import Kind, Op
from loralith.spec.vector.program import INSTRUCTION, Source, Target
from loralith.step.optimizer import AdamW, moments_of, with_adamw
from loralith.step.program import StepProgram
from loralith.verif.graph import interpret


@pytest.fixture(params=sorted(CONFIGS))
def config(request: pytest.FixtureRequest) -> Config:
    return CONFIGS[request.param]


SHAPES = ((7,), (3, 6), (2, 5, 16), (2, 8, 4, 4), (3, 1, 5), (40, 33))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_elementwise_nodes_with_every_way_to_broadcast(config: Config, shape: tuple[int, ...]) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(*shape))
    results = []
    for i in range(2 ** len(shape)):
        own = tuple(n if i >> d & 1 else 1 for d, n in enumerate(shape))
        y = case.input(f"y{i}", words(*own, seed=i))
        results += [b.multiply(x, y), b.subtract(y, x), b.brain(b.add(b.subtract(x, y), 0.5)), b.multiply(b.add(y, 1.0), y)]
    assert case.run(config, *results) > len(results)


def test_functions_and_squares(config: Config) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(5, 24, scale=3.0))
    square = b.multiply(x, x)
    positive = b.add(square, 0.25)
    results = [b.function(Op.EXP2, x), b.function(Op.PHI, x), b.function(Op.RECIPROCAL, positive), b.function(Op.RSQRT, positive)]
    sigmoid = b.function(Op.RECIPROCAL, b.add(b.function(Op.EXP2, b.multiply(x, -1.4375)), 1.0))
    results += [b.multiply(x, sigmoid), b.subtract(1.0, sigmoid), b.brain(b.multiply(b.add(sigmoid, x), positive))]
    case.run(config, *results)


@pytest.mark.parametrize(
    ("shape", "dims"), [((6, 40), (1,)), ((3, 4, 5, 16), (2, 3)), ((40, 3), (0,)), ((5, 7, 3), (1,)), ((1030,), (0,))], ids=str
)
def test_sums_maxima_and_counts(config: Config, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(*shape))
    bound = b.largest(x)
    total = b.sum(x, dims, bound)
    top = b.node(Op.MAXIMUM, Kind.WORD, total.shape, x, dims=dims)
    q = b.quantize(x, b.scale(bound, 127), 127, stochastic=False)
    count = b.node(Op.COUNT, Kind.WORD, total.shape, q, dims=dims)
    case.run(config, total, top, count, b.multiply(b.word(q), 2.0))


@pytest.mark.parametrize(("shape", "across"), [((2, 20, 2304), False), ((2, 20, 2304), True), ((1, 33, 1100), True), ((2, 17000), False)])
def test_maxima_and_counts_that_v0_does_not_hold(config: Config, shape: tuple[int, ...], across: bool) -> None:
    """Of rows in memory, and of lanes where they lie across: as softmax has them of 4,096 keys."""
    case = Case()
    b, last = case.b, len(shape) - 1
    x = case.input("x", words(*((*shape[:-2], shape[-1], shape[-2]) if across else shape)))
    if across:
        x = b.permute(x, (*range(last - 1), last, last - 1))
    top = b.maximum(x, last)
    q = b.quantize(x, b.scale(b.largest(x), 127), 127, stochastic=False)
    case.run(config, top, b.count(q, last), b.word(q))


@pytest.mark.parametrize(("shape", "dims"), [((2, 5120), (1,)), ((1, 4, 12, 1024), (2, 3)), ((4100, 3), (0,))], ids=str)
def test_long_sums(config: Config, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(*shape))
    total = b.sum(x, dims, b.largest(x))
    assert len(list(b.graph.of(Op.SUM))) == 2
    case.run(config, total)


@pytest.mark.parametrize("lanes", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 5, 8), (4, 1, 6), (2, 12, 1)], ids=str)
def test_stochastic_rounding_along_each_dimension(config: Config, shape: tuple[int, ...], lanes: int) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(*shape))
    scale = b.scale(b.largest(x), 127)
    case.run(config, b.word(b.quantize(x, scale, 127, True, lanes)), b.word(b.quantize(b.brain(x), scale, 127, True, lanes)))


def test_stochastic_rounding_of_more_rows_than_a_tile_has(config: Config) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(1100, 5))
    case.run(config, b.word(b.quantize(x, b.scale(b.largest(x), 127), 127, True, 1)))


def test_of_nothing_but_zeros_the_scale_is_the_least(config: Config) -> None:
    case = Case()
    b, x = case.b, case.input("x", torch.zeros(4, 4))
    scale = b.scale(b.largest(x), 127)
    case.run(config, scale, b.word(b.quantize(x, scale, 127, False)))


def test_moves(config: Config) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(2, 6, 4, 8))
    y = b.brain(case.input("y", words(2, 3, 4, 8)))
    turned = b.permute(x, (0, 2, 3, 1))
    tokens = b.reshape(turned, (2, 32, 6))
    heads = b.reshape(b.permute(b.reshape(tokens, (2, 32, 3, 2)), (0, 2, 1, 3)), (6, 32, 2))
    odd = b.slice(b.slice(x, 3, 1, 8, 2), 2, 0, 4, 2)
    joined = b.node(Op.CONCAT, Kind.WORD, (2, 9, 4, 8), x, y, dim=1)
    larger = b.node(Op.REPEAT, Kind.WORD, (2, 6, 8, 16), x, rows=2, cols=2)
    flat = b.reshape(b.slice(x, 1, 1, 4), (2 * 3 * 4 * 8,))
    groups = b.reshape(joined, (2, 3, 3, 32))
    case.run(
        config, *(b.multiply(n, 1.5) for n in (tokens, heads, odd, joined, larger, flat, groups, b.expand(b.slice(x, 0, 0, 1), x.shape)))
    )


@pytest.mark.parametrize(
    ("a", "c"),
    [((5, 7), (7, 9)), ((40, 300), (300, 20)), ((3, 6, 2), (3, 2, 33)), ((2, 3, 5, 8), (1, 3, 8, 4)), ((70, 4), (4, 64))],
    ids=str,
)
def test_products(config: Config, a: tuple[int, ...], c: tuple[int, ...]) -> None:
    case = Case()
    b = case.b
    x, w = case.input("x", words(*a)), case.input("w", words(*c))
    xq, wq = (b.quantize(n, b.scale(b.largest(n), 127), 127, stochastic=False) for n in (x, w))
    order = (*range(len(c) - 2), len(c) - 1, len(c) - 2)
    result = b.word(b.matmul(xq, wq))
    bias = case.input("bias", words(c[-1]))
    rows = case.input("rows", words(*result.shape[:-1], 1))
    again = b.permute(b.permute(wq, order), order)
    fused = b.brain(b.add(b.multiply(b.multiply(b.word(b.matmul(xq, again)), 0.0078125), rows), bias))
    joined = b.add(b.multiply(b.word(b.matmul(xq, wq)), 0.5), fused)
    case.run(config, result, fused, joined)


@pytest.mark.parametrize(("stride", "kernel", "channels"), [(1, 3, (3, 20)), (2, 3, (9, 4)), (1, 1, (16, 5))], ids=str)
def test_convolutions_and_their_inputs_gradients(config: Config, stride: int, kernel: int, channels: tuple[int, int]) -> None:
    case = Case()
    b, (c, o) = case.b, channels
    pad = kernel // 2
    x = case.input("x", words(2, c, 8, 8))
    w = case.frozen("w.q", integers(o, c, kernel, kernel))
    q = b.quantize(x, b.scale(b.largest(x), 127), 127, stochastic=False)
    size = (8 + 2 * pad - kernel) // stride + 1
    shape = (2, o, size, size)
    bias = b.reshape(case.input("bias", words(o)), (1, -1, 1, 1))
    place = {"stride": (stride, stride), "padding": (pad, pad)}
    sums = b.node(Op.CONVOLUTION, Kind.SUM, shape, q, w, **place)
    y = b.brain(b.add(b.multiply(b.word(sums), 0.0009765625), bias))
    gradient = b.quantize(y, b.scale(b.largest(y), 127), 127, True, 1)
    back = b.word(b.node(Op.CONVOLUTION_INPUT, Kind.SUM, x.shape, gradient, w, **place))
    case.run(config, y, back, b.add(b.multiply(back, 0.001953125), x))


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (20, 4), (24, 3), (40, 2), (6, 6)], ids=str)
def test_groups_of_channels_are_normalized_where_a_convolution_leaves_them(config: Config, channels: int, groups: int) -> None:
    """Sums over a group's channels and pixels, values for each group; the result lies as [N, H, W, C] again."""
    case = Case()
    b = case.b
    q = b.quantize(case.input("x", words(2, 3, 8, 8)), 0.0625, 127, stochastic=False)
    w = case.frozen("w.q", integers(channels, 3, 3, 3))
    sums = b.node(Op.CONVOLUTION, Kind.SUM, (2, channels, 8, 8), q, w, stride=(1, 1), padding=(1, 1))
    y = b.brain(b.multiply(b.word(sums), 0.0009765625))
    inside = b.reshape(y, (2, groups, channels // groups, 64))
    mean = b.multiply(b.sum(inside, (2, 3), b.largest(inside)), 0.0078125)
    centred = b.subtract(inside, mean)
    squares = b.sum(b.multiply(centred, centred), (2, 3), b.multiply(b.largest(y), 100.0))
    weight = b.reshape(case.input("weight", words(channels)), (1, groups, channels // groups, 1))
    normal = b.reshape(b.brain(b.multiply(b.multiply(centred, b.function(Op.RSQRT, b.add(squares, 0.5))), weight)), y.shape)
    gradient = b.quantize(normal, b.scale(b.largest(normal), 127), 127, True, 1)
    case.run(config, mean, squares, b.add(normal, y), b.word(gradient))
    compiled = compile_step(case.b.graph, config, BASE, SIZE, 0, verify=True)
    assert [compiled.tensors[node.name][0].strides[1] for node in (y, normal)] == [1, 1]


@pytest.mark.parametrize("shape", [(2, 40, 24), (3, 64, 5), (1, 130, 33)], ids=str)
def test_softmax_with_rows_along_the_lanes(config: Config, shape: tuple[int, int, int]) -> None:
    """Maxima and counts of a product's rows, and stochastic rounding along them: the product is stored with its rows along the lanes."""
    case = Case()
    b, (n, rows, columns) = case.b, shape
    x, keys = (b.quantize(case.input(name, words(n, size, 8)), 0.03125, 127, False) for name, size in (("x", rows), ("k", columns)))
    z = b.multiply(b.word(b.matmul(x, b.permute(keys, (0, 2, 1)))), 0.0001220703125)
    e = b.function(Op.EXP2, b.subtract(z, b.maximum(z, -1)))
    p = b.quantize(b.multiply(e, 127.0), 1.0, 127, stochastic=False)
    unit = b.function(Op.RECIPROCAL, b.count(p, -1))
    out = b.multiply(b.word(b.matmul(p, keys)), unit)
    s = b.brain(
        b.multiply(b.multiply(b.word(p), unit), b.subtract(z, b.sum(b.multiply(out, out), (-1,), b.multiply(b.largest(out), 4096.0))))
    )
    case.run(config, z, out, b.word(b.quantize(s, b.scale(b.largest(s), 127), 127, True, 1)))
    compiled = compile_step(case.b.graph, config, BASE, SIZE, 0, verify=True)
    assert compiled.tensors[z.name][0].strides[1] == 1


@pytest.mark.parametrize("shape", [(2, 64, 300), (1, 48, 77), (3, 40, 24), (2, 16, 1040)], ids=str)
def test_softmax_whose_scores_are_nowhere(config: Config, shape: tuple[int, int, int]) -> None:
    """S is made once for its rows' maxima and once for P, where rows are whole words of as many lanes as the array has rows."""
    case = Case()
    b, (n, rows, columns) = case.b, shape
    x, keys = (b.quantize(case.input(name, words(n, size, 40)), 0.03125, 127, False) for name, size in (("x", rows), ("k", columns)))
    z = b.multiply(b.multiply(b.word(b.matmul(x, b.permute(keys, (0, 2, 1)))), b.largest(case.input("s", words(1)))), 0.000244140625)
    log2e = 1.44268798828125
    top = b.maximum(z, -1)
    e = b.function(Op.EXP2, b.subtract(b.multiply(z, log2e), b.multiply(top, log2e)))
    p = b.quantize(b.multiply(e, 127.0), 1.0, 127, stochastic=False)
    count = b.count(p, -1)
    case.run(config, b.function(Op.RECIPROCAL, count), b.word(p), top)
    compiled = compile_step(case.b.graph, config, BASE, SIZE, 0, verify=True)
    twice = config.rows == config.vector_lanes and rows % config.rows == 0
    assert (z.name not in compiled.tensors) == twice
    counted = any(note.startswith(f"{count.name} ") for note in compiled.commands.notes)
    assert counted != twice, "integers are counted where they are made"


@pytest.mark.parametrize("shape", [(2, 64, 96), (1, 24, 40), (1, 16, 700)], ids=str)
@pytest.mark.parametrize("second", [False, True])
def test_what_is_alike_in_all_columns_comes_from_lane_registers(config: Config, shape: tuple[int, int, int], second: bool) -> None:
    """dS of softmax: a product's epilogue subtracts a row, and multiplies by integers that another row multiplies; or with two rows."""
    case = Case()
    b, (n, rows, columns) = case.b, shape
    x, keys = (b.quantize(case.input(name, words(n, size, 24)), 0.03125, 127, False) for name, size in (("x", rows), ("k", columns)))
    p = b.quantize(b.multiply(b.word(b.matmul(x, b.permute(keys, (0, 2, 1)))), 0.00390625), 1.0, 127, False)
    one, other = (case.input(name, words(n, rows, 1)) for name in ("one", "other"))
    dp = b.multiply(b.word(b.matmul(x, b.permute(keys, (0, 2, 1)))), 0.0078125)
    if second:
        s = b.brain(b.multiply(b.subtract(b.multiply(dp, one), other), b.word(p)))
    else:
        s = b.brain(b.multiply(b.multiply(b.word(p), other), b.subtract(dp, one)))
    case.run(config, s, b.largest(s), b.count(p, -1), b.word(b.quantize(s, b.scale(b.largest(s), 127), 127, True, 1)))
    compiled = compile_step(case.b.graph, config, BASE, SIZE, 0, verify=True)
    codes = [INSTRUCTION.unpack(data[i : i + 8]) for data in compiled.static.values() for i in range(0, len(data) // 8 * 8, 8)]
    taken = any(code["target"] == Target.LANE and code["x_source"] == Source.V0 and code["once"] for code in codes)
    assert taken == (config.rows == config.vector_lanes)


@pytest.mark.parametrize("width", [12, 10, 5])
def test_heads_whose_rows_begin_within_bus_words(config: Config, width: int) -> None:
    """Words and integers are cut into heads, multiplied and put together again."""
    case = Case()
    b, heads = case.b, 4
    x = b.brain(case.input("x", words(24, heads * width)))

    def cut(node: Any) -> Any:
        return b.permute(b.reshape(node, (24, heads, width)), (1, 0, 2))

    q = cut(b.quantize(x, b.scale(b.largest(x), 127), 127, stochastic=False))
    scores = b.word(b.matmul(q, b.permute(q, (0, 2, 1))))
    out = b.brain(b.multiply(b.word(b.matmul(b.quantize(scores, b.scale(b.largest(scores), 127), 127, False), q)), 0.0009765625))
    joined = b.reshape(b.permute(out, (1, 0, 2)), (24, heads * width))
    turned = b.quantize(cut(x), b.scale(b.largest(x), 127), 127, True, 2)
    case.run(config, scores, b.multiply(out, cut(x)), b.add(joined, x), b.word(turned))


def test_a_convolution_of_two_words(config: Config) -> None:
    case = Case()
    b, x = case.b, case.input("x", words(2, 1, 8, 8))
    q = b.quantize(x, b.scale(b.largest(x), 127 << 8), 127 << 8, stochastic=False)
    w = case.frozen("w.q", integers(6, 1, 3, 3))
    sums = b.node(Op.CONVOLUTION, Kind.SUM, (2, 6, 8, 8), q, w, stride=(1, 1), padding=(1, 1))
    case.run(config, b.word(sums))


def test_a_trained_matrix_over_two_steps(config: Config) -> None:
    """Two whole steps with the optimizer: losses, states and bytes of the host; a program that reuses memory gives the same."""
    graph, given = small_step()
    optimizer = AdamW(0.01)
    graph = with_adamw(graph, optimizer)
    given |= {name: torch.zeros(graph["A"].shape) for name in moments_of("A")}
    values = {name: value.numpy() for name, value in given.items()}
    with ReferenceDevice(config, memory_bytes=SIZE) as device:
        programs = [StepProgram(device, graph, 3, values, values, verify=verify) for verify in (True, False)]
        for step in range(2):
            given |= {name: torch.tensor(value) for name, value in optimizer.scalars(step + 1).items()}
            inputs = {node.name: given[node.name].numpy() for node in graph.of(Op.INPUT)}
            losses = [program.step(inputs, step) for program in programs]
            found = {node.name: value for node, value in interpret(graph, given, 3, step)}
            assert losses == [found[graph.outputs["loss"]].item()] * 2
            for what, name in graph.outputs.items():
                if what.startswith("state."):
                    given[what.removeprefix("state.")] = found[name]
                    for program in programs:
                        np.testing.assert_array_equal(program.state(what.removeprefix("state.")), found[name].numpy())
        assert programs[0].traffic.written == 2 * (sum(given[node.name].numel() * 4 for node in graph.of(Op.INPUT)) + 8)
        assert programs[0].traffic.read == 8


def small_step() -> tuple[Any, dict[str, Tensor]]:
    """loss = sum of (x A)^2 as the step's numbers have it, and the gradient of A."""
    case = Case()
    b, x = case.b, case.input("x", words(6, 12))
    case.given["A"] = words(12, 4)
    a = b.node(Op.STATE, Kind.WORD, (12, 4), name="A")
    sx, sa = b.scale(b.largest(x), 127), b.scale(b.largest(a), 127)
    xq, aq = b.quantize(x, sx, 127, False), b.quantize(a, sa, 127, False)
    y = b.brain(b.multiply(b.word(b.matmul(xq, aq)), b.multiply(sx, sa)))
    m = b.largest(y)
    flat = b.reshape(b.multiply(y, y), (24,))
    loss = b.reshape(b.sum(flat, (0,), b.multiply(b.multiply(m, m), 2.0)), ())
    grad = b.multiply(y, 2.0)
    sg = b.scale(b.largest(grad), 127)
    gradient = b.brain(b.multiply(b.word(b.matmul(b.permute(xq, (1, 0)), b.quantize(grad, sg, 127, True))), b.multiply(sx, sg)))
    b.graph.set_output("loss", loss.name)
    b.graph.set_output("gradient.A", gradient.name)
    return b.graph, case.given


def test_the_list_of_a_step_is_legal_with_tokens(config: Config) -> None:
    graph, _ = small_step()
    compiled = compile_step(with_adamw(graph, AdamW(0.01)), config, BASE, SIZE, 0)
    check(synchronize(compiled.commands, config, compiled.static), config, programs=compiled.static)
    with pytest.raises(IllegalList, match="no token orders them"):
        check(compiled.commands, config, programs=compiled.static)


def test_a_step_that_does_not_fit_is_refused_with_the_numbers() -> None:
    graph, _ = small_step()
    with pytest.raises(MemoryTooSmall, match=r"does not fit into 1024 bytes of device memory: .* takes \d+, \d+ are in use"):
        compile_step(graph, CONFIGS["tiny"], BASE, 1024, 0)


def test_a_configuration_without_vector_lanes_is_refused() -> None:
    graph, _ = small_step()
    with pytest.raises(LoralithError, match="needs vector lanes; the configuration plain has none"):
        compile_step(graph, replace(PRESETS["tiny"], name="plain", vector_lanes=0), BASE, SIZE, 0)


def test_a_sum_that_no_command_holds_is_refused_by_name() -> None:
    case = Case()
    b, x = case.b, case.input("x", words(2, 5000))
    b.graph.set_output("loss", b.node(Op.SUM, Kind.WORD, (2, 1), x, b.largest(x), dims=(1,)).name)
    with pytest.raises(LoralithError, match=r"n2 \(sum of .*a reduction over 5000 elements takes 1250 words of 4 lanes, and V0 has 1024"):
        compile_step(b.graph, CONFIGS["tiny"], BASE, SIZE, 0)


def test_what_the_host_writes_lies_where_no_tensor_was() -> None:
    memory = Memory(0, 4096)
    first = memory.take(100, "a")
    memory.give(first)
    assert memory.take(100, "b", fresh=True) == 128
    assert memory.take(100, "c") == first
