"""`loralith emoji`: the small text-to-image pipeline that the project trains on Noto's emoji."""

import argparse
from pathlib import Path

from loralith.cli import output

FOLDER = Path("build/emoji")


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("emoji", help="train, export and measure the small text-to-image pipeline of emoji")
    parts = parser.add_subparsers(dest="what", metavar="<what>", required=True)

    def part(name: str, text: str) -> argparse.ArgumentParser:
        added = parts.add_parser(name, help=text)
        added.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of the training's state (default: {FOLDER})")
        output.add_json_option(added)
        return added

    part("fetch", "fetch the pictures' packages with npm, and check them")
    train = part("train", "train the stages one after another; Ctrl-C leaves a checkpoint")
    train.add_argument("--preset", choices=("shipped", "tiny"), default="shipped", help="sizes and settings (default: shipped)")
    train.add_argument("--steps", type=int, default=150_000, help="steps of text encoder and U-Net at which to end (default: 150000)")
    train.add_argument(
        "--stage", choices=("vae", "latents", "model", "decoder"), help="end after this stage; decoder: refine the VAE's decoder"
    )
    train.add_argument("--resume", action="store_true", help="go on with the training in --folder, with its settings")
    export = part("export", "write the pipeline's folder, at any time after the first checkpoint of text encoder and U-Net")
    export.add_argument("--output", type=Path, required=True, help="folder of the pipeline")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return {"fetch": _fetch, "train": _train, "export": _export}[args.what](args)


def _fetch(args: argparse.Namespace) -> int:
    from loralith.emoji.source import fetch
    from loralith.emoji.training import SOURCE

    paths = fetch(args.folder / SOURCE)
    if args.json:
        output.emit_json({"archives": [str(path) for path in paths]})
    else:
        output.wrote(*paths)
    return 0


def _train(args: argparse.Namespace) -> int:
    from loralith.diffusion.folder import locked
    from loralith.diffusion.interrupt import stop_on_interrupt
    from loralith.emoji.catalogue import load_catalogue
    from loralith.emoji.run import Told
    from loralith.emoji.settings import PRESETS
    from loralith.emoji.training import SOURCE, begin, train_stages
    from loralith.errors import INTERRUPTED

    last: dict[str, float] = {}

    def progress(stage: str, told: Told) -> None:
        last.update(step=told.step, loss=told.loss)
        saved = "  checkpoint" if told.saved else ""
        output.log(f"{stage}: step {told.step}  loss {told.loss:.4f}  {told.steps_per_second:.2f} steps/s{saved}")

    catalogue = load_catalogue(args.folder / SOURCE)
    output.log(f"{len(catalogue.known)} pictures to learn, {len(catalogue.held_out)} subjects held out")
    settings = begin(args.folder, PRESETS[args.preset], resume=args.resume)
    stages = {"vae": ("vae",), "latents": ("latents",), "decoder": ("decoder",)}.get(args.stage, ("latents", "model"))
    with locked(args.folder), stop_on_interrupt() as stop:
        done = train_stages(settings, catalogue, args.folder, steps=args.steps, stages=stages, progress=progress, stop=stop)
    if args.json:
        output.emit_json({"done": done, "folder": str(args.folder), **last})
    else:
        again = "done" if done else f"stopped; `loralith emoji train --folder {args.folder} --resume` goes on"
        print(f"{again}; export with `loralith emoji export --folder {args.folder} --output FOLDER`")
    return 0 if done else INTERRUPTED


def _export(args: argparse.Namespace) -> int:
    from loralith.emoji.catalogue import load_catalogue
    from loralith.emoji.training import SETTINGS, SOURCE, export_run, settings_from
    from loralith.files import read_json

    settings = settings_from(read_json(args.folder / SETTINGS))
    result = export_run(settings, load_catalogue(args.folder / SOURCE), args.folder, args.output)
    if args.json:
        output.emit_json({**result, "output": str(args.output)})
    else:
        print(f"pipeline after {result['steps']} steps, {result['bytes'] / 1e6:.1f} MB, in {args.output}")
    return 0
