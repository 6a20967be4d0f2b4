"""Tensors that training seldom meets, in every place of a layer, through a device's lists: defined results, and the reference's bits."""

import numpy as np
import pytest
import torch

from loralith.device import open_device
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.spec.numerics import K_LIMIT
from loralith.spec.scheme import FQT, SchemeError
from loralith.verif.fqt import Backward, Forward, LoraLayer
from loralith.verif.torch_quantize import QuantizedWeight

T, I, O, R = 12, 24, 20, 3
SHAPES = {"X": (T, I), "W": (O, I), "A": (R, I), "B": (O, R), "dY": (T, O)}
SIZES = {"X": 1.0, "W": 0.1, "A": 0.2, "B": 0.02, "dY": 1e-3}
EVERYTHING = ("X", "dY", "H", "dH", "A", "B")


def filled(kind: str, shape: tuple[int, ...], size: float) -> np.ndarray:
    x = np.random.default_rng(7).standard_normal(shape) * size
    if kind == "zero":
        x[:] = 0.0
    elif kind == "one huge outlier":
        x.flat[5] = 1e9 * size
    elif kind == "denormal":
        x *= 1e-40 / size
    elif kind == "all equal":
        x[:] = -0.75 * size
    elif kind == "a row and a column of zeros":
        x[1], x[:, 0] = 0.0, 0.0
    return x.astype(np.float32)


KINDS = ["zero", "one huge outlier", "denormal", "all equal", "a row and a column of zeros"]


@pytest.fixture(scope="module")
def device():
    with open_device("reference", "tiny") as device:
        yield device


def one_step(device, tensors: dict[str, np.ndarray], scheme: FQT, alpha: float = 5.0) -> tuple[Forward, Backward]:
    """A training step on the device and in the reference, compared bit for bit; the reference's results."""
    x, w, a, b, dy = (tensors[name] for name in SHAPES)
    weight = quantize_weight(w, scheme)
    layer = DeviceLayer(device, weight, alpha, len(a), scheme, 2)
    try:
        saved = layer.forward(x, a, b, 1)
        got = layer.backward(saved, dy)
    finally:
        layer.close()
    reference = LoraLayer(QuantizedWeight(torch.from_numpy(weight.q), torch.from_numpy(weight.scale)), alpha, scheme, 2)
    forward = reference.forward(torch.from_numpy(x), torch.from_numpy(a), torch.from_numpy(b), step=1)
    want = reference.backward(forward, torch.from_numpy(dy), torch.from_numpy(a))
    assert want.dx is not None
    for mine, other in ((saved.y, forward.y), (got.dx, want.dx), (got.da, want.da), (got.db, want.db)):
        assert mine is not None
        assert mine.tobytes() == other.numpy().tobytes()
        assert np.isfinite(mine).all()
    return forward, want


@pytest.mark.parametrize(
    "scheme",
    [FQT(), FQT(stochastic=EVERYTHING, adapter_scales="delayed"), FQT(adapter_scales="device")],
    ids=["default", "stochastic, delayed", "device"],
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", SHAPES)
def test_an_odd_tensor_in_any_place(device, place, kind, scheme):
    tensors = {name: filled(kind if name == place else "", shape, SIZES[name]) for name, shape in SHAPES.items()}
    if kind == "one huge outlier" and place in "AB":
        with pytest.raises(SchemeError, match="the adapter has outgrown the base weight"):
            one_step(device, tensors, scheme)
        return
    forward, backward = one_step(device, tensors, scheme)
    if kind in ("zero", "denormal"):
        zero = {"X": ("xq", "h_acc", "y_acc"), "A": ("aq", "h_acc"), "B": ("bq",)}.get(place, ())
        assert not any(getattr(forward, name).any() for name in zero)
        zero = {"X": ("db", "da"), "A": ("db",), "B": ("dh_acc", "da"), "dY": ("dyq", "dx", "da", "db")}.get(place, ())
        assert not any(getattr(backward, name).any() for name in zero)
    if kind == "all equal":
        q = {"X": forward.xq, "A": forward.aq, "dY": backward.dyq}.get(place)
        # W's scales, which differ from row to row, are in dY before it is quantized.
        assert q is None or place == "dY" or (q == -127).all()
    assert max(forward.saturated.values()) == max(backward.saturated.values()) == 0


@pytest.mark.parametrize("config", ["base", "ecp5"])
@pytest.mark.parametrize(("tokens", "rank"), [(1, 1), (1, 2), (2, 1)])
def test_results_smaller_than_a_bus_word(config, tokens, rank):
    """H and dH of one value: one row is not a packed store of several."""
    shapes = {"X": (tokens, I), "W": (O, I), "A": (rank, I), "B": (O, rank), "dY": (tokens, O)}
    with open_device("reference", config) as device:
        one_step(device, {name: filled("", shape, SIZES[name]) for name, shape in shapes.items()}, FQT())


def test_gradients_that_vanish_are_zeros_and_say_so(device):
    """dY times W's scales below 127 * 2**-126: nothing is left of it, and nothing rounds up to one from below zero."""
    tensors = {name: filled("", shape, SIZES[name]) for name, shape in SHAPES.items()} | {"dY": filled("", (T, O), 1e-36)}
    _, backward = one_step(device, tensors, FQT())
    assert backward.g == 1.0
    assert not any(value.any() for value in (backward.dyq, backward.dx, backward.da, backward.db))


def test_maxima_that_stay_zero_never_make_a_scale(device):
    """B zero for longer than the history: each pass measures, and the first other B is not clipped."""
    scheme = FQT(adapter_scales="delayed", history=3)
    tensors = {name: filled("", shape, SIZES[name]) for name, shape in SHAPES.items()}
    weight = quantize_weight(tensors["W"], scheme)
    layer = DeviceLayer(device, weight, 4.0, R, scheme)
    for step in range(6):
        b = tensors["B"] if step == 5 else np.zeros((O, R), np.float32)
        measures = layer.numerics.must_measure("dH")
        assert measures
        gradients = layer.backward(layer.forward(tensors["X"], tensors["A"], b, step), tensors["dY"])
        assert gradients.db.any()
        assert gradients.da.any() == (step == 5)
    assert layer.numerics.history["dH"][:2] == [0, 0]
    assert not layer.numerics.must_measure("dH")
    assert layer.saturations == {"H": 0, "dH": 0}
    layer.close()


def test_reductions_at_the_limit_are_exact_and_past_it_refused():
    """All values at +-127, the longest sums of both passes that one accumulator takes."""
    with open_device("reference", "base") as device:  # the smaller arrays' scratchpads do not hold so long a reduction
        check_limits(device)


def check_limits(device):
    ones = {"X": np.ones((1, K_LIMIT - 1), np.float32), "W": np.full((2, K_LIMIT - 1), -1.0, np.float32)}
    ones |= {"A": np.ones((1, K_LIMIT - 1), np.float32), "B": np.full((2, 1), 2.0**-20, np.float32), "dY": np.ones((1, 2), np.float32)}
    forward, _ = one_step(device, ones, FQT(stochastic=()), alpha=1.0)
    assert forward.h_max == (K_LIMIT - 1) * 127**2
    assert forward.y_acc.abs().max() > 1.9e9
    tokens = {"X": np.ones((K_LIMIT, 1), np.float32), "W": np.ones((1, 1), np.float32), "A": np.ones((1, 1), np.float32)}
    tokens |= {"B": np.ones((1, 1), np.float32), "dY": np.ones((K_LIMIT, 1), np.float32)}
    _, backward = one_step(device, tokens, FQT(stochastic=()), alpha=1.0)
    assert backward.db_acc.item() > K_LIMIT * 127 * 63
    wide = {name: np.ones((value.shape[0], K_LIMIT), np.float32) if value.shape[1] > 2 else value for name, value in ones.items()}
    with pytest.raises(SchemeError, match="a chain of 131071 and 1 products may overflow 32 bits"):
        one_step(device, wide, FQT())
    with pytest.raises(SchemeError, match=r"X must have at most 131071 tokens.*not 131072; use smaller batches"):
        one_step(device, tokens | {"X": np.ones((K_LIMIT + 1, 1), np.float32)}, FQT())
    assert len(device._heap.taken) == 1  # the buffer of command lists
