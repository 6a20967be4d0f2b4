"""The test vectors of docs/numerics.md: ``python -m loralith.verif.golden_tables`` prints them, and a test compares them with the page."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loralith.spec import numerics, scales, scheme
from loralith.spec.numerics import Requantization
from loralith.spec.scheme import FQT, Role

from .fqt import LoraLayer
from .torch_quantize import quantize_weight

__all__ = ["tables"]


def _table(title: str, header: str, rows: Sequence[tuple[object, ...]]) -> str:
    names = header.split()
    lines = [f"**{title}**", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def _hash() -> str:
    return _table("Hash", "seed step tensor index hash", [(*row[:4], f"{row[4]:#010x}") for row in numerics.HASH_VECTORS])


def _ratios() -> str:
    ratios = (1.0, 0.5, 127.0, 1 / 3, 0.00123, 65535.0, 1 - 2.0**-18, 2.0**-32)
    pairs = [Requantization.from_ratio(ratio) for ratio in ratios]
    return _table("Ratio to integers", "ratio mantissa shift", [(r, p.mantissa, p.shift) for r, p in zip(ratios, pairs, strict=True)])


def _requantization() -> str:
    rows = []
    for acc, mantissa, shift in (
        *((1, 32768, 16), (3, 32768, 16), (-1, 32768, 16), (-3, 32768, 16), (5, 43691, 16), (-1000, 65535, 20), (300, 65535, 16)),
        *((-(2**31), 32768, 40), (2**31 - 1, 65535, 47), (1, 32768, 16), (-1, 32768, 16), (77, 50000, 0), (0, 32768, 47)),
    ):
        h = numerics.hash32(numerics.hash_key(1, 2, 3), len(rows))
        scale = Requantization(mantissa, shift)
        nearest, stochastic = numerics.requantize(acc, scale), numerics.requantize(acc, scale, h)
        rows.append((acc, mantissa, shift, f"{h:#010x}", nearest[0], stochastic[0], nearest[1]))
    return _table("Requantization", "acc mantissa shift hash nearest stochastic max_p", rows)


def _quantization() -> str:
    rows = []
    for x, maximum in ((0.5, 127.0), (1.5, 127.0), (-2.5, 127.0), (1.0, 1.0), (0.1, 1.0), (-0.1, 1.0), (1e-3, 0.7), (1e-40, 1e-40)):
        x, maximum = scales.float32(x), scales.float32(maximum)
        h = numerics.hash32(numerics.hash_key(1, 2, 3), 100 + len(rows))
        scale = scales.scale_of(maximum)
        gone = scales.vanishes(maximum)
        q = [0 if gone else scales.quantize_value(x, scale, h=value) for value in (None, h)]
        rows.append((x, maximum, scale, f"{h:#010x}", *q))
    return _table("Quantization (FP32 values, written exactly)", "x max scale hash nearest stochastic", rows)


def _chains() -> str:
    rows = []
    for k_base, k_adapter, e in ((320, 4, 0), (320, 4, -5), (320, 4, -12), (1280, 16, -7), (77, 128, -40), (320, 4, 3)):
        plan = scales.chain(k_base, k_adapter, e)
        rows.append((k_base, k_adapter, e, "base" if plan.base_first else "adapter", plan.shift, plan.drop, plan.exponent))
    return _table("Chains", "K_base K_adapter e first n d k", rows)


def _layer() -> str:
    """A whole step, small enough for pencil and paper."""
    fqt = FQT(seed=1)
    x, w = torch.tensor([[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]]), torch.tensor([[0.5, 0.25, -0.125], [-1.0, 0.125, 0.75]])
    a, b, dy = torch.tensor([[0.1, 0.2, -0.3]]), torch.tensor([[0.01], [-0.02]]), torch.tensor([[1e-3, -2e-3], [5e-4, 3e-3]])
    layer = LoraLayer(quantize_weight(w, fqt), alpha=2.0, scheme=fqt, layer=0)
    f = layer.forward(x, a, b, step=1)
    g = layer.backward(f, dy, a)
    assert g.a_chain is not None
    assert g.dx_acc is not None
    assert g.dx is not None
    named = {
        "sw": layer.weight.scale,
        "Wq": layer.weight.q,
        "sx": f.sx,
        "Xq": f.xq,
        "sa": f.sa,
        "Aq": f.aq,
        "b": f.b,
        "Bq": f.bq,
        "acc H": f.h_acc,
        "h": f.h,
        "requantization": (f.requantization.mantissa, f.requantization.shift),
        "Hq": f.hq,
        "chain of Y": (("base" if f.chain.base_first else "adapter") + " first", f.chain.shift, f.chain.drop, f.chain.exponent),
        "Bq for Y": f.b_chain,
        "acc Y": f.y_acc,
        "Y": f.y,
        "g": g.g,
        "hashes of dY": [f"{h:#010x}" for h in _hashes(fqt, Role.DY, 4)],
        "dYq": g.dyq,
        "acc dH": g.dh_acc,
        "h'": g.h_prime,
        "hashes of dH": [f"{h:#010x}" for h in _hashes(fqt, Role.DH, 2)],
        "dHq": g.dhq,
        "chain of dX": (
            (("base" if g.chain.base_first else "adapter") + " first", g.chain.shift, g.chain.drop, g.chain.exponent) if g.chain else None
        ),
        "Aq for dX": g.a_chain,
        "acc dX": g.dx_acc,
        "dX": g.dx,
        "acc dB": g.db_acc,
        "dB": g.db,
        "acc dA": g.da_acc,
        "dA": g.da,
    }
    head = (
        f"X = {x.tolist()}, W = {w.tolist()}, A = {[[0.1, 0.2, -0.3]]}, B = {[[0.01], [-0.02]]}, dY = {[[1e-3, -2e-3], [5e-4, 3e-3]]} "
        "as FP32; alpha = 2, layer 0, call 0, step 1, scheme FQT(seed=1)."
    )
    rows = [(name, _text(value)) for name, value in named.items()]
    return _table("A whole layer step", "name value", rows).replace("\n\n", f"\n\n{head}\n\n", 1)


def _hashes(fqt: FQT, role: Role, count: int) -> list[int]:
    key = numerics.hash_key(fqt.seed, 1, scheme.tensor_id(0, role))
    return [numerics.hash32(key, index) for index in range(count)]


def _text(value: object) -> str:
    """Integers as they are; FP32 values with the nine digits that tell them apart."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(part) for part in value) + "]"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def tables() -> str:
    """All tables, as Markdown."""
    return "\n\n".join((_hash(), _ratios(), _requantization(), _quantization(), _chains(), _layer())) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
