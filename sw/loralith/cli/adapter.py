"""`loralith adapter`: what an adapter file holds, and the same adapter for other tools."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output

if TYPE_CHECKING:
    from loralith.formats.adapter_layers import Adapter
    from loralith.formats.lycoris_layers import FactorAdapter


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("adapter", help="look at an adapter of PEFT, diffusers, kohya or ComfyUI, or write it for all of them")
    parser.add_argument("path", type=Path, help="a folder of PEFT or diffusers, or a .safetensors file of diffusers, kohya or ComfyUI")
    parser.add_argument("--model", default="small", help="model that it is for, as `loralith plan` takes it (default: small)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="a new or empty folder: PEFT's files, diffusers' and kohya's, which ComfyUI reads, are written there",
    )
    parser.add_argument("--unet-only", action="store_true", help="leave out layers of text encoders that the file has, named in a warning")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import torch

    from loralith.diffusion.peft_adapter import module_shapes
    from loralith.diffusion.published import find_model
    from loralith.errors import LoralithError
    from loralith.files import check_output_folder
    from loralith.formats.adapter_file import read_adapter
    from loralith.formats.adapter_tensors import is_lycoris
    from loralith.formats.lycoris_file import read_lycoris
    from loralith.formats.unet_config import UNET, build_model

    if args.output:
        check_output_folder(args.output)
        if args.output.exists() and any(args.output.iterdir()):
            raise LoralithError(f"output {args.output} is not empty; give a new or empty folder")
    with output.plain_warnings():
        source = find_model(args.model, transformers=True)
        with torch.device("meta"):
            model = build_model(source)
        shapes = module_shapes(model)
        lycoris = is_lycoris(args.path)
        adapter: Any = (read_lycoris if lycoris else read_adapter)(args.path, shapes, unet_only=args.unet_only)
    found = _factors(adapter, shapes) if lycoris else _figures(adapter)
    figures = {"source": adapter.source, **found, "metadata": dict(adapter.metadata), "left_out": adapter.left_out, "written": []}
    if args.output:
        unet = source.kind == UNET
        _written(_writers(adapter, lycoris, args.output, shapes, type(model), unet=unet))
        figures["written"] = [str(path) for path in sorted(args.output.iterdir())]
    if args.json:
        output.emit_json(figures)
        return 0
    rows = [(layer["name"], f"{layer['inputs']} -> {layer['outputs']}", layer["rank"], layer["alpha"]) for layer in figures["layers"]]
    kinds = ", ".join(name for name, there in (("DoRA", figures["dora"]), ("rsLoRA", figures["rslora"])) if there)
    title = ", ".join(filter(None, (adapter.source, "" if figures["kind"] == "LoRA" else figures["kind"], kinds)))
    output.table(title, ("layer", "shape", "rank", "alpha"), rows)
    for path in figures["written"]:
        print(path)
    return 0


def _figures(adapter: Adapter) -> dict[str, Any]:
    layers = [
        {"name": name, "rank": layer.rank, "alpha": layer.alpha, "inputs": layer.a.shape[1], "outputs": layer.b.shape[0]}
        for name, layer in sorted(adapter.layers.items())
    ]
    return {"kind": "LoRA", "rslora": adapter.rslora, "dora": adapter.dora, "layers": layers}


def _factors(adapter: FactorAdapter, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Of LoKr and LoHa; rank and alpha are None where both of LoKr's matrices are whole."""
    from loralith.formats.lycoris_layers import KINDS

    layers = [
        {
            "name": name,
            "rank": layer.rank,
            "alpha": None if layer.rank is None else layer.scale * layer.rank,
            "inputs": shapes[name][1],
            "outputs": shapes[name][0],
        }
        for name, layer in sorted(adapter.layers.items())
    ]
    return {"kind": KINDS[adapter.kind], "rslora": False, "dora": False, "layers": layers}


def _writers(
    adapter: Any, lycoris: bool, folder: Path, shapes: dict[str, tuple[int, ...]], base: type, *, unet: bool
) -> dict[str, Callable[[], None]]:
    """What writes the adapter, by the tool that it is for."""
    from loralith.formats.adapter_file import write_diffusers, write_kohya, write_peft
    from loralith.formats.adapter_layers import DIFFUSERS_PREFIX, TRANSFORMER_PREFIX
    from loralith.formats.lycoris_file import write_lycoris_diffusers, write_lycoris_kohya, write_lycoris_peft
    from loralith.formats.run_folder import KOHYA_FILE

    prefix, kohya = DIFFUSERS_PREFIX if unet else TRANSFORMER_PREFIX, folder / KOHYA_FILE
    sdxl = any(name.startswith("add_embedding") for name in shapes)
    if lycoris:
        return {
            "diffusers": lambda: write_lycoris_diffusers(adapter, folder, shapes, prefix),
            "kohya": lambda: write_lycoris_kohya(adapter, set(shapes), kohya, stability_names=sdxl),
            "PEFT": lambda: write_lycoris_peft(adapter, folder, shapes, base),
        }
    return {
        "diffusers": lambda: write_diffusers(adapter, folder, prefix=prefix),
        "kohya": lambda: write_kohya(adapter, set(shapes), kohya, stability_names=sdxl),
        "PEFT": lambda: write_peft(adapter, folder, base=base),
    }


def _written(writers: dict[str, Callable[[], None]]) -> None:
    """Writes for each tool that can hold the adapter, and warns of the others. Raises AdapterError where none can."""
    from loralith.formats.adapter_checks import AdapterError

    failed: list[AdapterError] = []
    for tool, write in writers.items():
        try:
            write()
        except AdapterError as error:
            failed.append(error)
            output.log(f"warning: no file of {tool}'s: {error}")
    if len(failed) == len(writers):
        raise failed[-1]
