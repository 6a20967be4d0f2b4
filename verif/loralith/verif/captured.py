"""Golden vectors of real tensors: X, W, A, B and dY of every LoRA layer of the small diffusion model, taken while it trained.

`loralith capture` takes them; assets/captured.safetensors holds them with a digest of every result that the reference computes from
them. ``python -m loralith.verif.captured --output build/golden`` writes them as layer files of `loralith.verif.golden`; ``--check`` without
``--output`` compares the digests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from loralith.files import write_bytes
from loralith.spec.scheme import FQT

from .golden import INPUTS, LAYER_TENSORS, LayerCase, layer_vector, write_vector

__all__ = ["CAPTURED", "CapturedLayer", "digest", "read_captured", "write_captured"]

VERSION = 1
CAPTURED = Path(__file__).parent / "assets" / "captured.safetensors"


@dataclass(frozen=True)
class CapturedLayer:
    """One layer's tensors in one training step.

    Attributes: ``case``, its sizes and place in training; ``inputs``, x [T, I], w [O, I], a [r, I], b [O, r] and dy [T, O], float32, with
    w exactly representable in float16; ``timesteps``, the diffusion step of each row of X and dY; ``expected``, the `digest` of the
    reference's results, empty where it is not known yet.
    """

    case: LayerCase
    inputs: Mapping[str, Tensor]
    timesteps: tuple[int, ...]
    expected: str = ""


def digest(layer: CapturedLayer) -> str:
    """SHA-256 over the reference's results, `golden.LAYER_TENSORS` in that order."""
    tensors, _ = layer_vector(layer.case, layer.inputs)
    total = hashlib.sha256()
    for name in LAYER_TENSORS:
        value = tensors[name].contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        total.update(value.numpy().tobytes())
    return total.hexdigest()


def write_captured(path: Path, layers: Sequence[CapturedLayer]) -> None:
    """Writes one file with every digest; the same layers give the same bytes. Raises ValueError for a w that float16 changes."""
    tensors, cases = {}, []
    for layer in layers:
        name = layer.case.name
        for key in INPUTS:
            tensors[f"{name}/{key}"] = layer.inputs[key].detach().clone().contiguous()
        half = tensors[f"{name}/w"].half()
        if not torch.equal(half.float(), tensors[f"{name}/w"]):
            raise ValueError(f"{name}: w must be representable in float16, as the model's files hold it")
        tensors[f"{name}/w"] = half
        case = {**asdict(layer.case), "scheme": layer.case.scheme.to_dict()}
        cases.append({"case": case, "timesteps": list(layer.timesteps), "expected": digest(layer)})
    text = json.dumps({"version": VERSION, "layers": cases}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    write_bytes(save(dict(sorted(tensors.items())), metadata={"loralith": text}), path)


def read_captured(path: Path = CAPTURED) -> list[CapturedLayer]:
    """The layers of a file. Raises ValueError for a file that holds none of this version."""
    with safe_open(path, framework="pt") as file:
        meta = json.loads((file.metadata() or {}).get("loralith", "{}"))
        if meta.get("version") != VERSION or "layers" not in meta:
            raise ValueError(f"{path} holds no captured tensors of version {VERSION}, but {meta.get('version')!r}")
        layers = []
        for entry in meta["layers"]:
            case = LayerCase(**{**entry["case"], "scheme": FQT.from_dict(entry["case"]["scheme"])})
            inputs = {key: file.get_tensor(f"{case.name}/{key}").float() for key in INPUTS}
            layers.append(CapturedLayer(case, inputs, tuple(entry["timesteps"]), entry["expected"]))
    return layers


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 0, or 1 where a digest differs."""
    parser = argparse.ArgumentParser(prog="python -m loralith.verif.captured", description="Write or check golden vectors of real tensors.")
    parser.add_argument("--output", type=Path, help="folder in which to write layer files")
    parser.add_argument("--check", action="store_true", help="compute every result again and compare digests")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    layers = read_captured(CAPTURED)
    if options.check or options.output is None:
        for layer in layers:
            if digest(layer) != layer.expected:
                print(f"{layer.case.name}: the reference's results differ from the recorded ones", file=sys.stderr)
                return 1
        print(f"{len(layers)} layers agree")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        for layer in layers:
            write_vector(options.output / f"{layer.case.name}.safetensors", *layer_vector(layer.case, layer.inputs))
        print(f"wrote {len(layers)} files to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
