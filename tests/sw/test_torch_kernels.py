"""Torch's kernels beside numpy's: the same integers, however operands lie in memory; and `direct` beside the reference device."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import loralith
from helpers.same_values import assert_same_values
from loralith.device.arithmetic import FLOAT32_EXACT_K, Kernels, exact_product, hash_array, hash_range, kernels, use_kernels
from loralith.lora import direct_attention
from loralith.lora import quantize as quantize_module
from loralith.lora.convolution_windows import Window
from loralith.lora.quantize import Stream, largest, quantize, quantize_power
from loralith.mapping import attach_model, torch_kernels
from loralith.mapping.kinds.attention_modules import exponentials, score_gradient
from loralith.mapping.torch_kernels import TorchKernels, integer_product, use_torch_kernels

SIZES = [(1, 5, 1), (3, 1, 2), (4, 64, 1), (1, 40, 7), (33, 17, 5), (64, 320, 4), (5, 1111, 16)]


@pytest.fixture(params=[False, True], ids=["numpy", "torch"])
def either(request):
    """`device.arithmetic` with numpy's kernels, and with torch's FP32 ones in two threads."""
    before, threads = kernels(), torch.get_num_threads()
    torch.set_num_threads(2)
    use_kernels(TorchKernels(integer=False) if request.param else Kernels())
    yield kernels()
    torch.set_num_threads(threads)
    use_kernels(before)


def laid_out(matrix, how):
    """The same values, row by row, column by column, as a part of wider rows, every second column of wider rows."""
    rows, cols = matrix.shape
    if how == "columns":
        return np.ascontiguousarray(matrix.T).T
    if how in ("part", "strided"):
        step = 1 if how == "part" else 2
        wide = np.full((rows, step * cols + 3), 99, np.int8)
        wide[:, : step * cols : step] = matrix
        return wide[:, : step * cols : step]
    return matrix


@pytest.mark.parametrize("size", SIZES)
def test_products_of_any_layout(size, either):
    M, K, N = size
    rng = np.random.default_rng(0)
    left, right = rng.integers(-128, 128, (M, K), dtype=np.int8), rng.integers(-128, 128, (K, N), dtype=np.int8)
    expected = left.astype(np.int64) @ right.astype(np.int64)
    for one, two in itertools.product(("rows", "columns", "part", "strided"), repeat=2):
        assert_same_values(exact_product(laid_out(left, one), laid_out(right, two)), expected, (one, two))
        assert_same_values(integer_product(laid_out(left, one), laid_out(right, two)), expected, (one, two))


def test_batches_the_ends_of_int8_and_nothing(either):
    left, right = np.full((2, 3, 9, 2100), -128, np.int8), np.full((2, 3, 2100, 8), -128, np.int8)
    left[..., 1], right[:, 1, ..., 2] = 127, 127
    expected = left.astype(np.int64) @ right.astype(np.int64)
    for multiply in (integer_product, exact_product):
        assert_same_values(multiply(left, right), expected)
        assert_same_values(multiply(right.mT, left.mT), expected.mT)
        assert multiply(np.zeros((3, 0), np.int8), np.zeros((0, 2), np.int8)).tolist() == [[0, 0]] * 3


def image_and_weight(window, N, channels, outputs, sizes, high):
    """Random INT8 operands, or, with ``high``, large ones, mostly odd, whose sums FP32 cannot round unnoticed."""
    rng = np.random.default_rng(1)
    shapes = (N, channels, *sizes), (outputs, channels // window.groups, *window.kernel)
    if high:
        return [np.where(rng.random(shape) < 0.02, np.int8(125), np.int8(127)) for shape in shapes]
    return [rng.integers(-128, 128, shape, dtype=np.int8) for shape in shapes]


WINDOWS = {
    "line": (Window((3,), (2,), (1,)), 2, 3, 4, (9,)),
    "odd": (Window((3, 2), (2, 1), (1, 0), (1, 2)), 2, 3, 4, (7, 5)),
    "rest": (Window((2, 2), (3, 2)), 1, 2, 3, (7, 6)),
    "groups": (Window((3, 3), padding=(1, 1), groups=3), 2, 6, 9, (4, 5)),
    "depthwise": (Window((3, 3), padding=(1, 1), groups=4), 1, 4, 4, (4, 5)),
    "volume": (Window((2, 3, 2), padding=(1, 0, 1)), 1, 2, 3, (3, 4, 3)),
    "long": (Window((3, 3), padding=(1, 1)), 1, 301, 203, (4, 5)),
}


@pytest.mark.parametrize("high", [False, True], ids=["random", "ends"])
@pytest.mark.parametrize("name", WINDOWS)
def test_convolutions_are_those_of_their_windows(name, high):
    """Against products of the windows' columns in int64. `long` has sums of 2,709 and 1,827 terms, which FP32 holds only in parts."""
    window, N, channels, outputs, sizes = WINDOWS[name]
    image, weight = image_and_weight(window, N, channels, outputs, sizes, high)
    found = TorchKernels(integer=False).convolutions(window, 0)
    assert found is not None
    filters = window.split_weight(weight.reshape(outputs, -1)).astype(np.int64)
    columns = window.split(window.columns(image)).astype(np.int64)
    expected = window.shaped(window.joined_outputs(columns @ filters.mT), image.shape)
    assert_same_values(found.convolution(image, weight, window), expected)
    gradient, _ = image_and_weight(window, N, outputs, outputs, expected.shape[2:], high)
    back = window.joined(window.split_outputs(window.rows_of(gradient)).astype(np.int64) @ filters)
    assert_same_values(found.convolution_input(gradient, weight, window, sizes), window.image(back, image.shape))


def test_only_exact_convolutions_are_offered():
    plain, grouped = Window((3, 3)), Window((3, 3), groups=2)
    offered = TorchKernels(integer=False)
    assert offered.convolutions(plain, 10**6)
    assert offered.convolutions(grouped, FLOAT32_EXACT_K)
    assert offered.convolutions(grouped, FLOAT32_EXACT_K + 1) is None
    assert offered.convolutions(Window((33, 32)), 33 * 32) is None
    assert TorchKernels(integer=True).convolutions(plain, 9) is None
    assert Kernels().convolutions(plain, 9) is None


def test_what_the_caller_has_set_for_its_own_operators_changes_nothing():
    """Autocast would round sums to bfloat16, a mode would count them as torch's."""
    window, N, channels, outputs, sizes = WINDOWS["odd"]
    image, weight = image_and_weight(window, N, channels, outputs, sizes, False)
    found = TorchKernels(integer=False)
    convolutions = found.convolutions(window, 0)
    assert convolutions is not None
    gradient = image_and_weight(window, N, outputs, outputs, window.output(*sizes), False)[0]

    def results():
        return [
            convolutions.convolution(image, weight, window),
            convolutions.convolution_input(gradient, weight, window, sizes),
            found.product(image[0, 0], image[0, 1].T),
            np.array(torch_kernels._exact_convolutions.__wrapped__()),
        ]

    expected = results()
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        for one, two in zip(results(), expected, strict=True):
            assert_same_values(one, two)
    assert counter.get_total_flops() == 0


def test_a_convolution_that_rounds_is_not_used(monkeypatch):
    """As Winograd's would."""
    plain = torch.nn.functional.conv2d
    monkeypatch.setattr(torch_kernels.functional, "conv2d", lambda x, *rest: plain(x, *rest) * (1 + (x.dtype == torch.float32) * 2.0**-22))
    assert not torch_kernels._exact_convolutions.__wrapped__()
    monkeypatch.undo()
    assert torch_kernels._exact_convolutions.__wrapped__()


def test_parts_run_in_threads_and_torch_keeps_its_number(either):
    """Results in order, torch with one thread in each, and as many as before outside; an error of a part is the caller's."""
    seen = either.each(lambda number: (number, torch.get_num_threads(), threading.get_ident()), range(50))
    assert [number for number, _, _ in seen] == list(range(50))
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as another:
        assert another.submit(torch.get_num_threads).result(60) == 2
    threaded = isinstance(either, TorchKernels)
    assert {threads for _, threads, _ in seen} == {1 if threaded else 2}
    assert (threading.get_ident() in {ident for _, _, ident in seen}) != threaded
    assert either.each(lambda number: sum(either.each(lambda n: n * number, range(3))), range(4)) == [0, 3, 6, 9]

    def refuses(number):
        if number == 7:
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        either.each(refuses, range(20))


def test_large_tensors_are_rounded_as_in_one_piece(either, monkeypatch):
    """In shares of 100 elements, of chunks of 7, as in one: values, hashes of their indices, the count of clipped ones, the maximum."""
    x = np.random.default_rng(2).standard_normal((37, 29)).astype(np.float32)
    stream = Stream(5, 6, 7)
    whole = [quantize(x, stream=stream), quantize(x), quantize_power(x, -6), largest(x)]
    monkeypatch.setattr(quantize_module, "_SHARE", 100)
    monkeypatch.setattr(quantize_module, "_CHUNK", 7)
    for one, two in zip(whole, [quantize(x, stream=stream), quantize(x), quantize_power(x, -6), largest(x)], strict=True):
        assert repr(one) == repr(two)
    assert whole[2][2] > 0
    x[5, 3] = np.nan
    assert np.isnan(largest(x))


def test_devices_on_the_host_use_them():
    before = kernels()
    try:
        use_kernels(Kernels())
        use_torch_kernels()
        first = kernels()
        assert isinstance(first, TorchKernels)
        use_torch_kernels()
        assert kernels() is first
    finally:
        use_kernels(before)


@pytest.mark.parametrize("start", [0, 5, 2**32 - 3])
def test_hashes_of_a_range(start):
    key = (0x89ABCDEF, 0xFFFFFFFE)
    ramp = np.arange(7, dtype=np.uint32) * np.uint32(1025)
    out, scratch = np.empty(7, np.uint32), np.empty(7, np.uint32)
    hash_range(key, ramp, start, out, scratch)
    assert_same_values(out, hash_array(key, np.arange(start, start + 7, dtype=np.uint64).astype(np.uint32)))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, 3)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Small(nn.Module):
    """A convolution whose window is odd in every way, attention with LoRA, a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.end = nn.Linear(5, 5), nn.Linear(6, 3)
        self.window = nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.attend = Attends()

    def forward(self, x):
        return self.end(self.attend(self.window(self.first(x)).flatten(2).mT))


def two_steps(name):
    """All results and gradients of two steps on a device, the weights of the convolution changed in between; what quantization lost."""
    torch.manual_seed(0)
    model = Small().requires_grad_(False)
    lora = LoraConfig(r=2, target_modules=["first", "to_q", "to_k", "to_v"], init_lora_weights=False)
    inject_adapter_in_model(lora, model)
    found = []
    with loralith.open_device(name, config="tiny") as device:
        attachment = loralith.attach(model, device, modules="all")
        for _ in range(2):
            y = model(torch.randn(2, 3, 7, 5))
            y.square().sum().backward()
            found += [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
            model.window.weight.mul_(1.5).add_(0.1)
        lost = {key: repr(loss) for key, loss in attachment.health.losses.items()}
    return found, lost


@pytest.mark.parametrize("part", [direct_attention.PART, 30])
def test_a_whole_model_has_the_reference_devices_bits(part, either, monkeypatch):
    """30 scores at a time are three of its rows."""
    monkeypatch.setattr(direct_attention, "PART", part)
    monkeypatch.setattr(attach_model, "use_torch_kernels", lambda: None)
    (direct, lost), (listed, losses) = two_steps("direct"), two_steps("reference")
    assert lost == losses
    assert any("P" in str(key) for key in losses)
    assert len(direct) == len(listed) == 2 * (1 + 8)
    assert all(torch.equal(one, two) for one, two in zip(direct, listed, strict=True))
    assert all(tensor.any() for tensor in direct)


def test_attention_in_place_is_attention():
    """What passes without an observer do to their own tensors."""
    s, dp, p = torch.randn(2, 5, 7), torch.randn(2, 5, 7), torch.rand(2, 5, 7)
    mask = torch.randn(1, 1, 7)
    kept = exponentials(s, 0.3, mask), score_gradient(p, dp, 0.3)
    assert_same_values(exponentials(s, 0.3, mask, s), kept[0])
    assert_same_values(score_gradient(p, dp, 0.3, dp), kept[1])
    assert_same_values(s, kept[0])
    assert_same_values(dp, kept[1])
