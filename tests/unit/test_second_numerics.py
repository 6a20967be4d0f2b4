"""The reference against a second writing of docs/numerics.md, whose author had read that page alone (loralith.verif.second_numerics).

Every number of both is compared, on values chosen to lie at the edges of the page's rules: ties, subnormals, tensors that vanish, rows and
squares of very different size. `LORALITH_SECOND_CASES` asks for more layer steps than the usual number.
"""

from __future__ import annotations

import math
import os
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from loralith import open_device
from loralith.device.device import Device
from loralith.lora.codes import quantize_codes
from loralith.lora.quantize import quantize_weight as host_weight
from loralith.lora.rotation import rotate
from loralith.lora.two_words import WideLinear, quantize_words
from loralith.spec import numerics, scales
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words
from loralith.verif import second_layers
from loralith.verif import second_numerics as second
from loralith.verif.fqt import LoraLayer
from loralith.verif.torch_frozen import Attention, FrozenLinear
from loralith.verif.torch_quantize import quantize_weight, rotate_blocks
from loralith.verif.torch_tuned import Layer

CASES = int(os.environ.get("LORALITH_SECOND_CASES", "600"))
Matrix = list[list[float]]


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device("direct", "tiny") as opened:
        yield opened


def float32(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def some_float(rng: random.Random) -> float:
    """A finite FP32 value with any exponent."""
    return float32(rng.getrandbits(1) << 31 | rng.randrange(255) << 23 | rng.getrandbits(23))


def some_tensor(rng: random.Random, rows: int, columns: int, size: float = 1.0) -> Matrix:
    """FP32 values: of one size, of rows of many sizes, at ties of a grid, almost all zero, or zero throughout."""
    kind = rng.choice(("normal", "normal", "rows", "grid", "sparse", "zero", "subnormal"))
    spread = [2.0 ** rng.randint(-8, 8) if kind == "rows" else 1.0 for _ in range(rows)]

    def value(row: int) -> float:
        if kind == "grid":
            return rng.randint(-254, 254) / 2 * size
        if kind == "zero" or (kind == "sparse" and rng.random() < 0.9):
            return 0.0
        if kind == "subnormal":
            return rng.gauss(0, 1) * 2.0**-120
        return rng.gauss(0, 1) * size * spread[row]

    return [[float(np.float32(value(row))) for _ in range(columns)] for row in range(rows)]


def tensor(values: Matrix) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_rounding_to_fp32_is_numpy_s() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        x = struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0]
        if rng.random() < 0.8:
            x = some_float(rng) * (1 + rng.randint(-3, 3) * 2.0**-25)  # beside and at ties
        if math.isfinite(x):
            with np.errstate(over="ignore", under="ignore"):
                assert second.fl(x) == float(np.float32(x)), x


def test_quotients_are_binary32_s() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        x, y = some_float(rng), some_float(rng) or 1.0
        with np.errstate(over="ignore", under="ignore"):
            assert second.quotient(x, y) == float(np.float32(x) / np.float32(y)), (x, y)


def test_hashes_and_keys() -> None:
    rng = random.Random(3)
    for _ in range(1000):
        seed, step, layer, role, index = (rng.getrandbits(bits) for bits in (64, 32, 20, 4, 32))
        call, role = rng.getrandbits(rng.choice((3, 8, 12, 32))), role % 15
        key = second.tensor_key(seed, step, layer, call, role)
        assert key == numerics.hash_key(*hash_words(seed, step, layer, Role(role), call))
        assert second.hash32(key, index) == numerics.hash32(key, index)


def test_ratios_and_requantization() -> None:
    rng = random.Random(4)
    refused = 0
    for _ in range(3000):
        ratio = math.ldexp(rng.choice((rng.uniform(0.5, 1), 0.5, 1 - 2.0 ** -rng.randint(14, 20))), rng.randint(-34, 18))
        try:
            scale = numerics.Requantization.from_ratio(ratio)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match="has no mantissa and shift"):
                second.requantization(ratio)
            continue
        m, n = second.requantization(ratio)
        assert (m, n) == (scale.mantissa, scale.shift)
        acc = rng.choice((rng.randint(-(2**31), 2**31 - 1), rng.randint(-300, 300), (1 << n) // m * rng.randint(-130, 130)))
        acc = max(-(2**31), min(2**31 - 1, acc))
        for h, qmax in ((None, 127), (rng.getrandbits(32), 127), (None, 7), (rng.choice((0, 2**32 - 1)), 7)):
            mine = second.requantize(acc, m, n, h, qmax)
            assert (mine.q, mine.max_p, mine.saturated) == numerics.requantize(acc, scale, h, qmax), (acc, m, n, h, qmax)
    assert refused > 50


def test_chains() -> None:
    rng = random.Random(5)
    refused = 0
    for _ in range(2000):
        base, adapter, e = rng.randint(1, 60000), rng.randint(1, 200), rng.randint(-40, 14)
        try:
            theirs = scales.chain(base, adapter, e)
        except SchemeError:
            refused += 1
            with pytest.raises(ValueError, match="times the base"):
                second.chain(base, adapter, e)
            continue
        mine = second.chain(base, adapter, e)
        assert (mine.base_first, mine.n, mine.d, mine.k) == (theirs.base_first, theirs.shift, theirs.drop, theirs.exponent)
    assert refused > 20


def some_scheme(rng: random.Random) -> FQT:
    names = ("X", "dY", "H", "dH", "A", "B")
    return FQT(
        weight_bits=rng.choice((8, 8, 4)),
        activation_bits=rng.choice((8, 8, 4)),
        gradient_bits=rng.choice((8, 8, 4)),
        weight_scales=rng.choice(("channel", "channel", "tensor", "block")),
        weight_scale_range=rng.choice((1, 2, 16, 256)),
        weight_block=rng.choice((2, 4)),
        power_of_two=rng.random() < 0.4,
        stochastic=tuple(name for name in names if rng.random() < 0.5),
        adapter_scales=rng.choice(("measured", "measured", "delayed")),
        history=rng.choice((1, 3, 16)),
        headroom=rng.choice((1.0, 2.0, 3.5)),
        rotation=rng.choice((0, 0, 4, 16)),
        seed=rng.getrandbits(64),
    )


def layer_steps(rng: random.Random) -> tuple[second.Step, Callable[[], dict[str, Any]]]:
    """A step of a random layer under a random scheme: the second writing's, and what runs the reference's two passes."""
    scheme = some_scheme(rng)
    T, I, O, r = (rng.randint(1, most) for most in (6, 9, 7, 4))
    if scheme.rotation:
        I = rng.choice((4, 8, 16))
    X, W, A = some_tensor(rng, T, I), some_tensor(rng, O, I, 2.0 ** rng.randint(-10, 3)), some_tensor(rng, r, I)
    B, dY = some_tensor(rng, O, r, 2.0 ** rng.randint(-20, 0)), some_tensor(rng, T, O, 2.0 ** rng.randint(-24, 4))
    alpha = rng.choice((rng.uniform(0.1, 40), r * 2.0 ** rng.randint(-3, 3)))  # with ratios that are powers of two there are ties
    step, layer, call = rng.getrandbits(32), rng.getrandbits(10), rng.getrandbits(9)
    past = {name: [rng.choice((0, rng.randint(1, 2**20))) for _ in range(rng.randint(0, min(4, scheme.history)))] for name in ("H", "dH")}
    reference = LoraLayer(quantize_weight(tensor(W), scheme), alpha, scheme, layer=layer, history={n: list(m) for n, m in past.items()})
    mine = second.Step(
        X, W, A, B, dY, alpha, scheme.seed, step, layer, call, frozenset(scheme.stochastic), scheme.weight_bits, scheme.activation_bits,
        scheme.gradient_bits, scheme.weight_scales, scheme.weight_scale_range, scheme.weight_block, scheme.power_of_two,
        past if scheme.adapter_scales == "delayed" else None, scheme.headroom, scheme.history,
        scheme.rotation,
    )  # fmt: skip
    return mine, lambda: passes(reference, *map(tensor, (X, A, B, dY)), step, call)


def passes(layer: LoraLayer, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, dy: torch.Tensor, step: int, call: int) -> dict[str, Any]:
    """The reference's numbers by the page's names."""
    f = layer.forward(x, a, b, step=step, call=call)
    d = layer.backward(f, dy, a)
    return {
        "Xq": f.xq, "sx": f.sx, "Aq": f.aq, "sa": f.sa, "b": f.b, "Bq": f.bq, "acc H": f.h_acc, "h": f.h, "Hq": f.hq, "acc Y": f.y_acc,
        "Y": f.y, "g": d.g, "dYq": d.dyq, "acc dH": d.dh_acc, "h'": d.h_prime, "dHq": d.dhq, "acc dX": d.dx_acc, "dX": d.dx,
        "acc dB": d.db_acc, "dB": d.db, "acc dA": d.da_acc, "dA": d.da,
    }  # fmt: skip


def same(name: str, mine: Any, theirs: Any) -> None:
    theirs = theirs.tolist() if isinstance(theirs, torch.Tensor | np.ndarray) else theirs
    assert mine == theirs, name


def test_layer_steps() -> None:
    rng = random.Random(6)
    compared, refused, orders = 0, 0, set()
    for case in range(CASES):
        mine, run = layer_steps(rng)
        try:
            theirs = run()
        except SchemeError:  # an adapter that is thousands of times its layer, or a quotient that FP32 does not hold
            with pytest.raises(ValueError, match=r"times the base|is -?inf"):
                mine.run()
            refused += 1
            continue
        n = mine.run()
        for name, value in theirs.items():
            same(f"case {case}, {name}: {mine}", n[name], value)
        compared += 1
        orders |= {(order.base_first, order.n > 0, order.d > 0) for order in (n["chain Y"], n["chain dX"])}
    assert compared > CASES * 0.6, f"{refused} of {CASES} layers were refused"
    assert {(True, True, False), (True, True, True), (False, True, False)} <= orders


def test_rotations() -> None:
    rng = random.Random(12)
    for _ in range(100):
        length, rotation = rng.choice((3, 4, 8, 12, 16, 48, 64, 80)), rng.choice((0, 4, 16, 64, 256))
        size = scales.rotation_block(rotation, length)
        assert second.rotation_size(rotation, length) == size
        x = some_tensor(rng, rng.randint(1, 3), length, 2.0 ** rng.randint(-20, 20))
        same("X R", second.rotate(x, size), rotate_blocks(tensor(x), size))
        same("X R", second.rotate(x, size), rotate(np.array(x, np.float32), size))


def test_frozen_layers() -> None:
    rng = random.Random(7)
    for _ in range(40):
        T, I, O = (rng.randint(1, 7) for _ in range(3))
        X, W, dY = some_tensor(rng, T, I), some_tensor(rng, O, I), some_tensor(rng, T, O, 1e-3)
        scheme = FQT(seed=rng.getrandbits(64))
        layer = FrozenLinear(tensor(W), scheme, 5)
        key = second.tensor_key(scheme.seed, 3, 5, 2, 1)
        mine = second_layers.frozen(X, W, dY, lambda index, key=key: second.hash32(key, index))
        same("Y", mine["Y"], layer.forward(tensor(X), step=3, call=2).value)
        same("dX", mine["dX"], layer.backward(tensor(dY), (T, I), step=3, call=2).value)


def test_attention() -> None:
    rng = random.Random(8)
    for _ in range(40):
        queries, keys, d = (rng.randint(1, 7) for _ in range(3))
        Q, K, V = (some_tensor(rng, rows, d) for rows in (queries, keys, keys))
        dO, dS = some_tensor(rng, queries, d, 1e-3), some_tensor(rng, queries, keys, 1e-3)
        scheme = FQT(seed=rng.getrandbits(64), stochastic=rng.choice((("dY",), ("dY", "X"), ())))
        roles = [role for group in scheme.stochastic for role in {"dY": (1, 13, 14), "X": (10, 11, 12)}[group]]
        keys_of = {role: second.tensor_key(scheme.seed, 3, 5, 2, role) for role in roles}
        hashes = {role: lambda index, key=key: second.hash32(key, index) for role, key in keys_of.items()}
        reference = Attention(scheme, 5)
        _, S = reference.scores(tensor(Q)[None], tensor(K)[None], step=3, call=2)
        z = S.value - S.value.amax(dim=2, keepdim=True)
        e = torch.exp(z)
        P, O = reference.values(e, tensor(V)[None], step=3, call=2)
        mine = second_layers.attention(Q, K, V, e[0].tolist(), dO, hashes)
        mine |= second_layers.attention_inputs(Q, K, dS, hashes)
        same("S", mine["S"], S.value[0])
        same("Pq", mine["Pq"], P[0])
        same("O", mine["O"], O.value[0])
        for name in ("dV", "dP", "dQ", "dK"):
            same(name, mine[name], reference.backward(name, tensor(dO if name in ("dV", "dP") else dS)[None], step=3, call=2).value[0])


def test_tuned_layers_of_codes() -> None:
    rng = random.Random(9)
    for _ in range(40):
        T, I, O = (rng.randint(1, 7) for _ in range(3))
        bits = rng.choice((4, 8))
        x, dy = some_tensor(rng, T, I), some_tensor(rng, T, O, 1e-3)
        s_out, s_in = some_tensor(rng, 1, O)[0], some_tensor(rng, 1, I)[0]
        _, points, codes = second_layers.codes(some_tensor(rng, O, I), bits)
        scheme = FQT(seed=rng.getrandbits(64))
        keys = {role: second.tensor_key(scheme.seed, 3, 5, 2, role) for role in (1, 13, 14)}
        hashes = {role: lambda index, key=key: second.hash32(key, index) for role, key in keys.items()}
        V = [[code - z for code in row] for row, z in zip(codes, points, strict=True)]
        mine = second_layers.tuned(x, V, s_in, s_out, dy, hashes)
        layer = Layer(np.array(codes, np.uint8), np.array(points, np.uint8), None, scheme, 5)
        arrays = [np.array(values, np.float32) for values in (x, dy, s_out, s_in)]
        for name, theirs in zip(("y", "dx", "ds_out", "ds_in"), layer.step(*arrays, step=3, call=2), strict=True):
            same(name, mine[name], theirs.tolist())


def test_words_and_codes() -> None:
    rng = random.Random(10)
    for _ in range(200):
        rows, columns = rng.randint(1, 7), rng.randint(1, 7)
        x = some_tensor(rng, rows, columns, 2.0 ** rng.randint(-30, 30))
        words = quantize_words(np.array(x, np.float32))
        assert second_layers.two_words(x) == (words.scale, words.high.tolist(), words.low.tolist())
        for bits in (4, 8):
            found = quantize_codes(np.array(x, np.float32), bits)
            assert second_layers.codes(x, bits) == (found.scale.tolist(), found.zero.tolist(), found.code.tolist())


def test_products_of_two_words(device: Device) -> None:
    rng = random.Random(11)
    for _ in range(5):
        T, I, O = (rng.randint(1, 7) for _ in range(3))
        x, w = some_tensor(rng, T, I), some_tensor(rng, O, I)
        layer = WideLinear(device, host_weight(np.array(w, np.float32), FQT()), FQT(), 0)
        same("Y", second_layers.two_word_product(x, w), layer.forward(np.array(x, np.float32), 0).y.tolist())
