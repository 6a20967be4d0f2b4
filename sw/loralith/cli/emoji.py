"""`loralith emoji`: the small text-to-image pipeline that the project trains on Noto's emoji."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.emoji.shipped import SHIPPED
from loralith.places import data

FOLDER = Path("build/emoji")
GALLERY = FOLDER / "gallery"


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("emoji", help="train, export and measure the small text-to-image pipeline of emoji")
    parts = parser.add_subparsers(dest="what", metavar="<what>", required=True)

    def part(name: str, text: str) -> argparse.ArgumentParser:
        added = parts.add_parser(name, help=text)
        added.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of the training's state (default: {FOLDER})")
        added.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on stdout")
        return added

    part("fetch", "fetch the pictures' packages with npm, and check them")
    train = part("train", "train the stages one after another; Ctrl-C leaves a checkpoint")
    train.add_argument("--preset", choices=("shipped", "tiny"), default="shipped", help="sizes and settings (default: shipped)")
    train.add_argument("--steps", type=int, default=9000, help="steps of text encoder and U-Net at which to end (default: 9000)")
    train.add_argument(
        "--stage",
        choices=("vae", "model", "decoder", "encoder"),
        help="this stage alone; decoder: refine the trained VAE, encoder: what `measure` judges with (default: vae, then model)",
    )
    train.add_argument("--resume", action="store_true", help="go on with the training in --folder, with its settings")
    train.add_argument(
        "--start-from", type=Path, metavar="PIPELINE", help="start from an exported pipeline's weights, with its settings and the next seed"
    )
    export = part("export", "write the pipeline's folder, at any time after the first checkpoint of text encoder and U-Net")
    export.add_argument("--output", type=Path, required=True, help="folder of the pipeline")
    draw = part("sample", "draw pictures of prompts with an exported pipeline")
    draw.add_argument("prompts", nargs="+", metavar="PROMPT", help="as `a photo of a red apple on a blue background`")
    draw.add_argument("--output", type=Path, required=True, help="PNG file of all pictures, in rows of --columns")
    draw.add_argument("--columns", type=int, default=8, help="pictures of a row (default: 8)")
    measure = part("measure", "judge an exported pipeline, or a folder of pictures of one subject, with the measuring encoder")
    measure.add_argument("--count", type=int, default=256, help="concepts that are drawn (default: 256)")
    measure.add_argument("--pictures", type=Path, help="folder of pictures to compare with --references, in place of a pipeline")
    measure.add_argument("--references", type=Path, help="folder of pictures of the subject")
    for added, usual in ((draw, SHIPPED), (measure, None)):
        text = "folder of the exported pipeline" + (" (default: the shipped one)" if usual else "")
        added.add_argument("--pipeline", type=Path, default=usual, help=text)
        added.add_argument("--steps", type=int, default=25, help="steps of the sampler (default: 25)")
        added.add_argument("--guidance", type=float, default=3.0, help="weight of the prompt (default: 3)")
        added.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    subject = part("subject", "write a few pictures of a held-out subject, with captions")
    subject.add_argument("name", help="as `robot`; a wrong one is answered with the list")
    subject.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    subject.add_argument("--count", type=int, default=6, help="pictures (default: 6)")
    gallery = part("gallery", "personalize the pipeline with held-out subjects by each method; pictures and fidelity; resumable")
    gallery.add_argument("--pipeline", type=Path, default=SHIPPED, help="folder of the pipeline (default: the shipped one)")
    gallery.add_argument("--subjects", default="robot,owl,rocket", help="held-out subjects, with commas (default: robot,owl,rocket)")
    gallery.add_argument("--rows", help="rows such as `lora; lora, FP32`, with semicolons (default: all)")
    gallery.add_argument("--output", type=Path, default=GALLERY, help=f"folder of the runs and pictures (default: {GALLERY})")
    gallery.add_argument("--device", default="direct", help="what the methods train on (default: direct)")
    gallery.add_argument("--config", default="base", help="its configuration (default: base)")
    gallery.add_argument("--publish", action="store_true", help="also write page and pictures to docs/results")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    parts = {
        "fetch": _fetch,
        "train": _train,
        "export": _export,
        "sample": _sample,
        "measure": _measure,
        "subject": _subject,
        "gallery": _gallery,
    }
    return parts[args.what](args)


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
    from loralith.emoji.catalogue import load_catalogue, load_other_pictures
    from loralith.emoji.run import StageProgress
    from loralith.emoji.settings import PRESETS
    from loralith.emoji.training import SOURCE, begin, train_measuring_encoder, train_stages
    from loralith.errors import INTERRUPTED, LoralithError
    from loralith.formats.run_folder import locked
    from loralith.progress import stop_on_interrupt

    last: dict[str, float] = {}

    def progress(stage: str, state: StageProgress) -> None:
        last.update(step=state.step, loss=state.loss)
        saved = "  checkpoint" if state.saved else ""
        output.log(f"{stage}: step {state.step}  loss {state.loss:.4f}  {state.steps_per_second:.2f} steps/s{saved}")

    catalogue = load_catalogue(args.folder / SOURCE)
    output.log(f"{len(catalogue.known)} pictures to learn, {len(catalogue.held_out)} subjects held out")
    if args.resume and args.start_from:
        raise LoralithError("--start-from begins a training; leave it out with --resume")
    settings = begin(args.folder, PRESETS[args.preset], resume=args.resume, start=args.start_from)
    stages = {"vae": ("vae",), "decoder": ("decoder",)}.get(args.stage, ("vae", "model"))
    with locked(args.folder), stop_on_interrupt() as stop:
        if args.stage == "encoder":
            other = load_other_pictures(args.folder / SOURCE)
            done = train_measuring_encoder(settings, catalogue, other, args.folder, progress=progress, stop=stop)
        else:
            done = train_stages(settings, catalogue, args.folder, steps=args.steps, stages=stages, progress=progress, stop=stop)
    if args.json:
        output.emit_json({"done": done, "folder": str(args.folder), **last})
    else:
        again = "done" if done else f"stopped; `loralith emoji train --folder {args.folder} --resume` goes on"
        print(f"{again}; export with `loralith emoji export --folder {args.folder} --output FOLDER`")
    return 0 if done else INTERRUPTED


def _export(args: argparse.Namespace) -> int:
    from loralith.emoji.catalogue import load_catalogue
    from loralith.emoji.training import SOURCE, begin, export_run

    settings = begin(args.folder, None, resume=True)
    result = export_run(settings, load_catalogue(args.folder / SOURCE), args.folder, args.output)
    if args.json:
        output.emit_json({**result, "output": str(args.output)})
    else:
        print(f"pipeline after {result['steps']} steps, {result['bytes'] / 1e6:.1f} MB, in {args.output}")
    return 0


def _sample(args: argparse.Namespace) -> int:
    from loralith.emoji.fidelity import sample, sheet
    from loralith.files import check_output

    check_output(args.output)
    made = sample(_pipeline(args.pipeline), args.prompts, steps=args.steps, guidance=args.guidance, seed=args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet(made, min(args.columns, len(made))).save(args.output, "PNG")
    if args.json:
        output.emit_json({"pictures": len(made), "output": str(args.output)})
    else:
        output.wrote(args.output)
    return 0


def _measure(args: argparse.Namespace) -> int:
    from loralith.emoji.catalogue import load_catalogue, load_other_pictures
    from loralith.emoji.fidelity import as_tensor, measure_pipeline, read_pictures, subject_fidelity
    from loralith.emoji.training import SOURCE, begin, load_judge

    settings = begin(args.folder, None, resume=True)
    judge = load_judge(settings, load_other_pictures(args.folder / SOURCE), args.folder)
    if args.pictures:
        made, real = (as_tensor(read_pictures(folder, settings.sizes.image)) for folder in (args.pictures, args.references))
        result = {"subject_cosine": subject_fidelity(judge, made, real), "pictures": len(made), "references": len(real)}
    else:
        known = load_catalogue(args.folder / SOURCE).known
        named = {"count": args.count, "steps": args.steps, "guidance": args.guidance, "seed": args.seed}
        result = measure_pipeline(_pipeline(args.pipeline), judge, known, **named)
    if args.json:
        output.emit_json(result)
    elif args.pictures:
        print(f"subject fidelity: mean cosine {result['subject_cosine']:.3f} of {len(made)} pictures with {len(real)} references")
    else:
        rows = [[name, f"{result['made'][name]:.3f}", f"{result['real'][name]:.3f}"] for name in result["made"]]
        output.table(f"{result['count']} prompts, guidance {args.guidance:g}", ["measure", "pipeline", "real pictures"], rows)
    return 0


def _subject(args: argparse.Namespace) -> int:
    from loralith.emoji.catalogue import PICTURE_SIZE, load_catalogue
    from loralith.emoji.subject import write_subject
    from loralith.emoji.training import SOURCE

    held_out = load_catalogue(args.folder / SOURCE).held_out
    paths = write_subject(held_out, args.name, args.output, count=args.count, size=PICTURE_SIZE)
    if args.json:
        output.emit_json({"pictures": [str(path) for path in paths]})
    else:
        output.wrote(*paths)
    return 0


def _gallery(args: argparse.Namespace) -> int:
    from loralith.device import open_device
    from loralith.emoji.catalogue import load_catalogue, load_other_pictures
    from loralith.emoji.gallery import VARIANTS, Variant, chosen, compute, page, published_pictures
    from loralith.emoji.training import SOURCE, begin, load_judge
    from loralith.pipeline.finetune import attacher
    from loralith.progress import stop_on_interrupt
    from loralith.reports.result_files import write

    rows = chosen([name.strip() for name in args.rows.split(";")]) if args.rows else list(VARIANTS)
    subjects = [name.strip() for name in args.subjects.split(",")]
    settings = begin(args.folder, None, resume=True)
    judge = load_judge(settings, load_other_pictures(args.folder / SOURCE), args.folder)
    held_out = load_catalogue(args.folder / SOURCE).held_out

    def started(subject: str, variant: Variant) -> None:
        output.log(f"{subject}: {variant.name}")

    with open_device(args.device, args.config) as device, stop_on_interrupt() as stop:
        place = (args.device, args.config, attacher(device))
        figures, pictures = compute(rows, subjects, held_out, judge, args.pipeline, args.output, place, started, stop)
    files = published_pictures(pictures, args.output)
    if args.publish:
        files += published_pictures(pictures, data("docs/results/emoji"))
        command = "loralith emoji gallery" + (f" --subjects {args.subjects}" if args.subjects != "robot,owl,rocket" else "")
        write(data("docs/results/emoji"), "The emoji pipeline, personalized", command, figures, page(figures), on_rtl=False)
    if args.json:
        output.emit_json({**figures, "pictures": [str(path) for path in files]})
    else:
        cells = [
            [row["row"], *(f"{row[key]:.3f}" for key in ("subject_cosine", "prompt_cosine", "other_cosine"))] for row in figures["rows"]
        ]
        output.table("means over subjects and prompts", ["row", "subject", "own prompt", "other prompts"], cells)
        output.wrote(*files)
    return 0


def _pipeline(folder: Path) -> Any:
    """The exported pipeline, FP32. Raises LoralithError where there is none."""
    from diffusers import StableDiffusionPipeline

    from loralith.emoji.export import INDEX
    from loralith.errors import LoralithError

    if not (folder / INDEX).is_file():
        raise LoralithError(f"{folder} holds no pipeline ({INDEX}); `loralith emoji export` writes one")
    return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
