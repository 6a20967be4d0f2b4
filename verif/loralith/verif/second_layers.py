"""Section 7 of docs/numerics.md once more, as `second_numerics` has the others: frozen layers, attention, two words, and codes."""

from __future__ import annotations

from collections.abc import Callable

from .second_numerics import (
    TINY,
    Hashes,
    Integers,
    Matrix,
    fl,
    largest,
    quantize,
    quantize_weights,
    quotient,
    times_transposed,
    transposed,
    zeros,
)


def frozen(X: Matrix, W: Matrix, dY: Matrix, hashes: Hashes = None, qmax_w: int = 127) -> dict:
    """A frozen linear layer; `hashes` are those of dY."""
    x, w = quantize(X), quantize_weights(W, qmax_w)
    moved = quantize([[fl(v * sw) for v, sw in zip(row, w.sw, strict=True)] for row in dY], 127, hashes)
    Y = [[fl(acc * (x.scale * sw)) for acc, sw in zip(row, w.sw, strict=True)] for row in times_transposed(x.q, w.q)]
    dX = [[fl(acc * moved.scale) for acc in row] for row in times_transposed(moved.q, transposed(w.q))]
    return {"Y": Y, "dX": dX}


def attention(Q: Matrix, K: Matrix, V: Matrix, e: Matrix, dO: Matrix, hashes: dict[int, Callable[[int], int]]) -> dict:
    """One head; e is what torch made of S. `hashes` by role, of the tensors that round stochastically. dS comes from torch too, so it is
    not here: dP is the last number."""
    q, k, v = (quantize(values, 127, hashes.get(role)) for values, role in ((Q, 10), (K, 11), (V, 12)))
    S = [[fl(acc * (q.scale * k.scale)) for acc in row] for row in times_transposed(q.q, k.q)]
    P = [[round(fl(127 * x)) for x in row] for row in e]
    R = [sum(row) for row in P]
    O = [[fl(acc * (v.scale / total)) for acc in row] for row, total in zip(times_transposed(P, transposed(v.q)), R, strict=True)]
    over = quantize([[quotient(x, total) for x in row] for row, total in zip(dO, R, strict=True)], 127, hashes.get(13))
    dV = [[fl(acc * over.scale) for acc in row] for row in times_transposed(transposed(P), transposed(over.q))]
    d = quantize(dO, 127, hashes.get(1))
    dP = [[fl(acc * (d.scale * v.scale)) for acc in row] for row in times_transposed(d.q, v.q)]
    return {"S": S, "Pq": P, "R": R, "O": O, "dV": dV, "dP": dP}


def attention_inputs(Q: Matrix, K: Matrix, dS: Matrix, hashes: dict[int, Callable[[int], int]]) -> dict:
    """dQ and dK, from torch's dS."""
    q, k = quantize(Q, 127, hashes.get(10)), quantize(K, 127, hashes.get(11))
    d = quantize(dS, 127, hashes.get(14))
    dQ = [[fl(acc * (d.scale * k.scale)) for acc in row] for row in times_transposed(d.q, transposed(k.q))]
    dK = [[fl(acc * (d.scale * q.scale)) for acc in row] for row in times_transposed(transposed(d.q), transposed(q.q))]
    return {"dQ": dQ, "dK": dK}


def two_words(X: Matrix) -> tuple[float, Integers, Integers]:
    """sx, the high words and the low words."""
    scale = quotient(largest(X), 32639)
    if scale < TINY:
        return 1.0, zeros(X).q, zeros(X).q
    q = [[round(quotient(x, scale)) for x in row] for row in X]
    high = [[(x + 128) >> 8 for x in row] for row in q]
    low = [[x - 256 * y for x, y in zip(row, other, strict=True)] for row, other in zip(q, high, strict=True)]
    return scale, high, low


def two_word_product(X: Matrix, W: Matrix) -> Matrix:
    sx, high, low = two_words(X)
    w = quantize_weights(W)
    upper, lower = times_transposed(high, w.q), times_transposed(low, w.q)
    return [
        [fl((256 * a + b) * (sx * sw)) for a, b, sw in zip(row, other, w.sw, strict=True)] for row, other in zip(upper, lower, strict=True)
    ]


def codes(W: Matrix, bits: int) -> tuple[list[float], list[int], Integers]:
    """scale and zero point of each row, and the codes."""
    top = 2**bits - 1
    scales, points, result = [], [], []
    for row in W:
        lo, hi = min(*row, 0.0), max(*row, 0.0)
        scale = fl((hi - lo) / top)
        if scale < TINY:
            scale = 1.0
        z = max(0, min(top, round(quotient(-lo, scale))))
        scales.append(scale)
        points.append(z)
        result.append([max(0, min(top, round(quotient(x, scale)) + z)) for x in row])
    return scales, points, result


def tuned(x: Matrix, V: Integers, s_in: list[float], s_out: list[float], dY: Matrix, hashes: dict[int, Callable[[int], int]]) -> dict:
    """Codes with a zero point, forward and backward; V = Wq - z."""
    u = quantize([[fl(a * b) for a, b in zip(row, s_in, strict=True)] for row in x], 127, hashes.get(0))
    acc = times_transposed(u.q, V)
    y = [[fl(a * (u.scale * b)) for a, b in zip(row, s_out, strict=True)] for row in acc]
    d = quantize(dY, 127, hashes.get(13))
    accq = quantize([[fl(float(a)) for a in row] for row in acc], 127, hashes.get(4))
    sums = [sum(a * b for a, b in zip(left, right, strict=True)) for left, right in zip(transposed(d.q), transposed(accq.q), strict=True)]
    ds_out = [fl(total * (d.scale * accq.scale * u.scale)) for total in sums]
    v = quantize([[fl(a * b) for a, b in zip(row, s_out, strict=True)] for row in dY], 127, hashes.get(1))
    du = [[fl(a * v.scale) for a in row] for row in times_transposed(v.q, transposed(V))]
    dx = [[fl(a * b) for a, b in zip(row, s_in, strict=True)] for row in du]
    duq = quantize(du, 127, hashes.get(14))
    sums = [sum(a * b for a, b in zip(left, right, strict=True)) for left, right in zip(transposed(u.q), transposed(duq.q), strict=True)]
    ds_in = [fl(total * (u.scale * duq.scale / s)) if s else 0.0 for total, s in zip(sums, s_in, strict=True)]
    return {"u": u.q, "y": y, "ds_out": ds_out, "du": du, "dx": dx, "ds_in": ds_in}
