"""Golden vectors: inputs and every bit that must come of them, in files.

``python -m loralith.verif.golden --output build/golden`` writes them; ``--check`` recomputes each file in the folder from the inputs
in it and reports the first difference. A file is safetensors with one metadata entry, ``loralith``, canonical JSON; equal content
gives equal bytes.

A layer file holds the float inputs ``x w a b dy``, the quantized and integer tensors in `LAYER_TENSORS`, and in its metadata sizes,
scheme, scales, exponents, chains, requantizations and hash keys. `numerics.safetensors` holds columns of single values: hash,
requantization, quantization.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from loralith.spec import numerics
from loralith.spec.numerics import Requantization
from loralith.spec.scales import quantize_value
from loralith.spec.scheme import FQT, Role, tensor_id

from .fqt import LoraLayer
from .golden_compare import compare
from .torch_quantize import quantize_weight

__all__ = ["LAYER_TENSORS", "LayerCase", "layer_cases", "layer_vector", "numerics_vector", "read_vector", "write_vector"]

VERSION = 1
INPUTS = ("x", "w", "a", "b", "dy")
LAYER_TENSORS = (
    *("wq", "sw", "xq", "aq", "bq", "h_acc", "hq", "b_chain", "y_acc", "y_scale", "y"),
    *("dyq", "dh_acc", "dhq", "a_chain", "dx_acc", "dx", "db_acc", "db_scale", "db", "da_acc", "da"),
)
"""Results in the order in which they are computed, so that the first one to differ is nearest to the cause."""


def write_vector(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes one file; the same tensors and metadata give the same bytes. Raises ValueError for a NaN or infinity in ``meta``."""
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False)
    plain = {name: tensors[name].detach().clone().contiguous() for name in sorted(tensors)}
    path.write_bytes(save(plain, metadata={"loralith": text}))


def read_vector(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and the metadata. Raises ValueError for a file that is no vector of this version."""
    with safe_open(path, framework="pt") as file:
        meta = json.loads((file.metadata() or {}).get("loralith", "{}"))
        if meta.get("version") != VERSION:
            raise ValueError(f"{path} is not a golden vector of version {VERSION}, but {meta.get('version')!r}")
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, meta


@dataclass(frozen=True)
class LayerCase:
    """One layer step: sizes, what scales it, and its place in training. Inputs are drawn from ``draw``."""

    name: str
    T: int
    I: int
    O: int
    r: int
    alpha: float
    scheme: FQT
    b_size: float = 0.02
    layer: int = 1
    step: int = 3
    call: int = 0
    draw: int = 0

    def inputs(self) -> dict[str, Tensor]:
        """Float32 X [T, I], W [O, I], A [r, I], B [O, r] and dY [T, O]."""
        generator = torch.Generator().manual_seed(self.draw)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        return {
            "x": normal(self.T, self.I),
            "w": normal(self.O, self.I) * 0.05 * torch.exp(normal(self.O, 1) / 2),
            "a": normal(self.r, self.I) * 0.1,
            "b": normal(self.O, self.r) * self.b_size,
            "dy": normal(self.T, self.O) * 1e-3,
        }


def layer_cases() -> list[LayerCase]:
    """T in {1, 64, 77} by r in {1, 3, 4, 5, 16}, by three sizes, of which the last is small enough for slow simulations; schemes and sizes
    of B take turns, so that every order of the chain, a coarser copy, both roundings, INT4 weights and a scale per tensor occur."""
    schemes = (FQT(seed=7), FQT(stochastic=()), FQT(weight_scales="tensor", seed=1 << 40), FQT(weight_bits=4))
    schemes += (FQT(stochastic=("X", "dY", "H", "dH", "A", "B"), seed=3),)
    cases = []
    for I, O in ((40, 24), (72, 56), (22, 13)):
        for T in (1, 64, 77):
            for r in (1, 3, 4, 5, 16):
                n = len(cases)
                cases.append(
                    LayerCase(
                        name=f"layer_I{I}_O{O}_T{T}_r{r}",
                        T=T,
                        I=I,
                        O=O,
                        r=r,
                        alpha=r + 1.5,
                        scheme=schemes[(n + n // 5) % len(schemes)],
                        b_size=(0.02, 1e-5, 3.0, 1e-3)[n % 4],
                        layer=n,
                        step=100 + n,
                        call=n % 3,
                        draw=n,
                    )
                )
    return cases


def layer_vector(case: LayerCase, inputs: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of one layer file, from the case's own inputs or from those given."""
    inputs = inputs or case.inputs()
    weight = quantize_weight(inputs["w"], case.scheme)
    layer = LoraLayer(weight, case.alpha, case.scheme, case.layer)
    forward = layer.forward(inputs["x"], inputs["a"], inputs["b"], step=case.step, call=case.call)
    backward = layer.backward(forward, inputs["dy"], inputs["a"])
    results = {"wq": weight.q, "sw": weight.scale, **vars(backward), **vars(forward)}
    tensors = {name: inputs[name] for name in INPUTS} | {name: results[name] for name in LAYER_TENSORS}
    keys = {
        role.name: numerics.hash_key(case.scheme.seed, case.step, tensor_id(case.layer, role, case.call))
        for role in Role
        if role <= Role.B_CHAIN and case.scheme.is_stochastic(role)
    }
    meta = {
        "version": VERSION,
        "kind": "layer",
        "case": {**asdict(case), "scheme": case.scheme.to_dict()},
        "scaling": case.alpha / case.r,
        "hash_keys": keys,
        **{name: getattr(forward, name) for name in ("sx", "sa", "b", "h", "h_max")},
        **{name: getattr(backward, name) for name in ("g", "h_prime", "dh_max", "dx_scale", "da_scale")},
        "requantization": {"H": asdict(forward.requantization), "dH": asdict(backward.requantization)},
        "chain": {"Y": asdict(forward.chain), "dX": asdict(backward.chain) if backward.chain else None},
        "saturated": {**forward.saturated, **backward.saturated},
    }
    return tensors, json.loads(json.dumps(meta))  # as it comes back from a file


def numerics_vector() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Single values, from `loralith.spec` on Python integers; row i of each group of columns belongs together.

    hash_*: seed (low and high word), step, tensor, index, key0, key1, hash. requantize_*: acc, mantissa, shift, hash; nearest and
    stochastic (q), magnitude (\\|acc * mantissa\\|), nearest_saturated, stochastic_saturated (0 or 1). quantize_*: x, scale (float32),
    hash; nearest and stochastic (q).
    """
    hashes = [row[:4] for row in numerics.HASH_VECTORS]
    hashes += [(5, step, tensor, index) for step in (0, 1, 999) for tensor in (0, 1, 16, 4099) for index in (0, 1, 77, 2**31, 2**32 - 1)]
    rows = []
    for seed, step, tensor, index in hashes:
        key = numerics.hash_key(seed, step, tensor)
        rows.append((seed & numerics.MASK32, seed >> 32, step, tensor, index, *key, numerics.hash32(key, index)))
    tensors = _columns("hash", ("seed_low", "seed_high", "step", "tensor", "index", "key0", "key1", "hash"), rows)

    rows = []
    key = numerics.hash_key(1, 2, 3)
    for shift in (0, 1, 2, 7, 15, 16, 31, 32, 33, 40, 46, 47):
        for mantissa in (32768, 32769, 43691, 65535):
            one = 1 << shift
            accs = {0, 1, -1, 2**31 - 1, -(2**31), one // mantissa, -(one // mantissa)}
            accs |= {(k * one + one // 2) // mantissa for k in (-128, -3, 1, 2, 126, 127)}  # near ties and near saturation
            accs |= {(2 * k + 1) * (one >> 16) for k in (-2, 0, 1, 63)}  # ties, for mantissa 32768
            for acc in sorted(a for a in accs if numerics.ACC_MIN <= a <= numerics.ACC_MAX):
                h = numerics.hash32(key, len(rows))
                scale = Requantization(mantissa, shift)
                nearest, stochastic = numerics.requantize(acc, scale), numerics.requantize(acc, scale, h)
                rows.append((acc, mantissa, shift, h, nearest[0], stochastic[0], nearest[1], int(nearest[2]), int(stochastic[2])))
    names = ("acc", "mantissa", "shift", "hash", "nearest", "stochastic", "magnitude", "nearest_saturated", "stochastic_saturated")
    tensors |= _columns("requantize", names, rows)

    x = torch.tensor([0.0, -0.0, 0.5, 1.5, -2.5, 126.5, 127.0, -127.0, 1e-40, -1e-40, 0.1, -0.1, 3.7, -64.25])
    x = torch.cat([x * factor for factor in (1.0, 0.3, 1.0 / 127)])
    scale = torch.tensor([1.0, 0.3, 1.0 / 127]).repeat_interleave(len(x) // 3)
    hashed = [numerics.hash32(key, 10_000 + i) for i in range(len(x))]
    pairs = list(zip(x.tolist(), scale.tolist(), hashed, strict=True))
    tensors |= {"quantize_x": x, "quantize_scale": scale, "quantize_hash": torch.tensor(hashed)}
    tensors["quantize_nearest"] = torch.tensor([quantize_value(v, s) for v, s, _ in pairs])
    tensors["quantize_stochastic"] = torch.tensor([quantize_value(v, s, h=h) for v, s, h in pairs])
    return tensors, {"version": VERSION, "kind": "numerics"}


def _columns(group: str, names: tuple[str, ...], rows: list[tuple[int, ...]]) -> dict[str, Tensor]:
    table = torch.tensor(rows, dtype=torch.int64)
    return {f"{group}_{name}": table[:, i].clone() for i, name in enumerate(names)}


def generate(folder: Path) -> list[Path]:
    """Writes every vector; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = {case.name: layer_vector(case) for case in layer_cases()}
    vectors["numerics"] = numerics_vector()
    paths = [folder / f"{name}.safetensors" for name in vectors]
    for path, (tensors, meta) in zip(paths, vectors.values(), strict=True):
        write_vector(path, tensors, meta)
    return paths


def check(path: Path) -> str | None:
    """Recomputes one file from the inputs in it; the first difference as text, None where every bit agrees."""
    tensors, meta = read_vector(path)
    if meta["kind"] == "numerics":
        step, name, order = 0, "numerics", list(tensors)
        again, meta_again = numerics_vector()
    else:
        values = {**meta["case"], "scheme": FQT.from_dict(meta["case"]["scheme"])}
        case = LayerCase(**values)
        step, name, order = case.step, case.name, list(LAYER_TENSORS)
        again, meta_again = layer_vector(case, {name: tensors[name] for name in INPUTS})
    difference = compare({key: tensors[key] for key in order}, again, layer=name, step=step)
    if difference is not None:
        return str(difference)
    for key, value in meta.items():
        if meta_again.get(key) != value:
            return f"step {step}, layer {name}: {key} is {meta_again.get(key)!r}, expected {value!r}"
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 0, or 1 where a check found a difference."""
    parser = argparse.ArgumentParser(prog="python -m loralith.verif.golden", description="Write or check golden vectors.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the vectors")
    parser.add_argument("--check", action="store_true", help="recompute what the folder holds instead of writing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not options.check:
        print(f"wrote {len(generate(options.output))} files to {options.output}")
        return 0
    paths = sorted(options.output.glob("*.safetensors"))
    if not paths:
        print(f"error: {options.output} holds no vectors", file=sys.stderr)
        return 1
    for path in paths:
        difference = check(path)
        if difference is not None:
            print(f"{path.name}: {difference}", file=sys.stderr)
            return 1
    print(f"{len(paths)} files agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
