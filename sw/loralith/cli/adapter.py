"""`loralith adapter`: what an adapter file holds, and the same adapter for other tools."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output

if TYPE_CHECKING:
    from loralith.formats.adapter_layers import Adapter
    from loralith.formats.lycoris_layers import FactorAdapter
    from loralith.formats.text_encoder_file import TextEncoder

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Found:
    """A file's adapter of the denoiser, None where it has none, and those of the text encoders by part; ``metadata`` of its header."""

    source: str
    adapter: Adapter | FactorAdapter | None
    encoders: list[TextEncoder] = field(default_factory=list)
    texts: dict[str, Adapter] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("adapter", help="look at an adapter of PEFT, diffusers, kohya or ComfyUI, or write it for all of them")
    parser.add_argument("path", type=Path, help="a folder of PEFT or diffusers, or a .safetensors file of diffusers, kohya or ComfyUI")
    parser.add_argument(
        "--model",
        default="small",
        help="model that it is for, as `loralith plan` takes it (default: small); of a pipeline's folder, and of sd15, sdxl, sd3 and flux, "
        "the text encoders too",
    )
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
        found = _read(args, shapes)
    figures = _figures(found, shapes)
    if args.output:
        _written(_writers(found, args.output, shapes, type(model), unet=source.kind == UNET))
        figures["written"] = [str(path) for path in sorted(args.output.rglob("*")) if path.is_file()]
    if args.json:
        output.emit_json(figures)
        return 0
    kinds = ", ".join(name for name, there in (("DoRA", figures["dora"]), ("rsLoRA", figures["rslora"])) if there)
    title = ", ".join(filter(None, (found.source, "" if figures["kind"] == "LoRA" else figures["kind"], kinds)))
    lists = {title: figures["layers"]} if found.adapter else {}
    lists |= {f"{found.source}, {part}": layers for part, layers in figures["text_encoders"].items()}
    for heading, layers in lists.items():
        rows = [(layer["name"], f"{layer['inputs']} -> {layer['outputs']}", layer["rank"], layer["alpha"]) for layer in layers]
        output.table(heading, ("layer", "shape", "rank", "alpha"), rows)
    for path in figures["written"]:
        print(path)
    return 0


def _read(args: argparse.Namespace, shapes: Shapes) -> _Found:
    """Raises AdapterError."""
    from loralith.diffusion.text_encoders import find_text_encoders
    from loralith.formats.adapter_file import kept_header, read_adapter
    from loralith.formats.adapter_tensors import is_lycoris, open_adapter
    from loralith.formats.lycoris_file import read_lycoris
    from loralith.formats.text_encoder_file import read_text_encoders

    if is_lycoris(args.path):
        factors = read_lycoris(args.path, shapes, unet_only=args.unet_only)
        return _Found(factors.source, factors, metadata=dict(factors.metadata))
    opened = open_adapter(args.path)
    text = {} if args.unet_only else opened.of_text_encoders()
    encoders = find_text_encoders(args.model) if text else []
    if not encoders:
        lora = read_adapter(args.path, shapes, unet_only=args.unet_only)
        return _Found(lora.source, lora, metadata=dict(lora.metadata))
    texts = read_text_encoders(opened, encoders)
    rest = None if len(text) == len(opened.tensors) else read_adapter(args.path, shapes, text_apart=True)
    return _Found(str(opened.path), rest, encoders, texts, kept_header(opened.header))


def _figures(found: _Found, shapes: Shapes) -> dict[str, Any]:
    from loralith.formats.lycoris_layers import KINDS, FactorAdapter

    adapter = found.adapter
    kind = KINDS[adapter.kind] if isinstance(adapter, FactorAdapter) else "LoRA"
    layers = _factors(adapter, shapes) if isinstance(adapter, FactorAdapter) else _layers(adapter) if adapter else []
    loras = [one for one in (adapter, *found.texts.values()) if one is not None and not isinstance(one, FactorAdapter)]
    return {
        "source": found.source,
        "kind": kind,
        "rslora": any(one.rslora for one in loras),
        "dora": any(one.dora for one in loras),
        "metadata": found.metadata,
        "layers": layers,
        "text_encoders": {part: _layers(one) for part, one in found.texts.items()},
        "left_out": adapter.left_out if adapter else (),
        "written": [],
    }


def _layers(adapter: Adapter) -> list[dict[str, Any]]:
    return [
        {"name": name, "rank": layer.rank, "alpha": layer.alpha, "inputs": layer.a.shape[1], "outputs": layer.b.shape[0]}
        for name, layer in sorted(adapter.layers.items())
    ]


def _factors(adapter: FactorAdapter, shapes: Shapes) -> list[dict[str, Any]]:
    """Of LoKr and LoHa; rank and alpha are None where both of LoKr's matrices are whole."""
    return [
        {
            "name": name,
            "rank": layer.rank,
            "alpha": None if layer.rank is None else layer.scale * layer.rank,
            "inputs": shapes[name][1],
            "outputs": shapes[name][0],
        }
        for name, layer in sorted(adapter.layers.items())
    ]


def _writers(found: _Found, folder: Path, shapes: Shapes, base: type, *, unet: bool) -> dict[str, Callable[[], None]]:
    """What writes the adapter, by the tool that it is for."""
    from loralith.diffusion.text_encoders import encoder_class
    from loralith.formats.adapter_file import write_diffusers, write_kohya, write_peft
    from loralith.formats.adapter_layers import DIFFUSERS_PREFIX, TRANSFORMER_PREFIX
    from loralith.formats.lycoris_file import write_lycoris_diffusers, write_lycoris_kohya, write_lycoris_peft
    from loralith.formats.lycoris_layers import FactorAdapter
    from loralith.formats.run_folder import KOHYA_FILE
    from loralith.formats.text_encoder_file import diffusers_text, kohya_text, module_names

    prefix, kohya = DIFFUSERS_PREFIX if unet else TRANSFORMER_PREFIX, folder / KOHYA_FILE
    sdxl = any(name.startswith("add_embedding") for name in shapes)
    adapter, known, metadata = found.adapter, set(shapes), found.metadata
    if isinstance(adapter, FactorAdapter):
        return {
            "diffusers": lambda: write_lycoris_diffusers(adapter, folder, shapes, prefix),
            "kohya": lambda: write_lycoris_kohya(adapter, known, kohya, stability_names=sdxl),
            "PEFT": lambda: write_lycoris_peft(adapter, folder, shapes, base),
        }

    def write_kohyas() -> None:
        beside = kohya_text(found.texts, found.encoders)
        write_kohya(adapter, known, kohya, stability_names=sdxl, beside=beside, metadata=metadata)

    def write_pefts() -> None:
        """A model has a folder of its own each, the denoiser's is ``folder`` itself."""
        if adapter is not None:
            write_peft(adapter, folder, base=base)
        for encoder in found.encoders:
            if encoder.part in found.texts:
                write_peft(module_names(encoder, found.texts[encoder.part]), folder / encoder.part, base=encoder_class(encoder.kind))

    return {
        "diffusers": lambda: write_diffusers(adapter, folder, None, prefix, diffusers_text(found.texts), metadata),
        "kohya": write_kohyas,
        "PEFT": write_pefts,
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
