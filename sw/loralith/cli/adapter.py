"""`loralith adapter`: what an adapter file holds, and the same adapter for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output


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
    from loralith.formats.adapter_checks import AdapterError
    from loralith.formats.adapter_file import read_adapter, write_diffusers, write_kohya, write_peft
    from loralith.formats.adapter_layers import DIFFUSERS_PREFIX, TRANSFORMER_PREFIX
    from loralith.formats.run_folder import KOHYA_FILE
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
        adapter = read_adapter(args.path, shapes, unet_only=args.unet_only)
    layers = [
        {"name": name, "rank": layer.rank, "alpha": layer.alpha, "inputs": layer.a.shape[1], "outputs": layer.b.shape[0]}
        for name, layer in sorted(adapter.layers.items())
    ]
    figures: dict[str, Any] = {
        "source": adapter.source,
        "rslora": adapter.rslora,
        "dora": adapter.dora,
        "metadata": dict(adapter.metadata),
        "layers": layers,
        "left_out": adapter.left_out,
        "written": [],
    }
    if args.output:
        unet = source.kind == UNET
        write_diffusers(adapter, args.output, prefix=DIFFUSERS_PREFIX if unet else TRANSFORMER_PREFIX)
        sdxl = any(name.startswith("add_embedding") for name in shapes)
        try:
            write_kohya(adapter, set(shapes), args.output / KOHYA_FILE, stability_names=sdxl)
        except AdapterError as error:  # PEFT's and diffusers' files hold it all the same
            output.log(f"warning: no file of kohya's: {error}")
        write_peft(adapter, args.output, base=type(model))
        figures["written"] = [str(path) for path in sorted(args.output.iterdir())]
    if args.json:
        output.emit_json(figures)
        return 0
    rows = [(layer["name"], f"{layer['inputs']} -> {layer['outputs']}", layer["rank"], layer["alpha"]) for layer in layers]
    kind = ("", ", DoRA")[adapter.dora] + ("", ", rsLoRA")[adapter.rslora]
    output.table(f"{adapter.source}{kind}", ("layer", "shape", "rank", "alpha"), rows)
    for path in figures["written"]:
        print(path)
    return 0
