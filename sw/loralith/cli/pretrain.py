"""`loralith pretrain`: trains the diffusion model and the digit classifier that come with the package."""

import argparse
from dataclasses import asdict
from pathlib import Path

from loralith.cli import output


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("pretrain", help="train the package's small diffusion model and digit classifier anew")
    parser.add_argument("--output", type=Path, default=Path("build/pretrain"), help="folder of the weights (default: build/pretrain)")
    parser.add_argument("--steps", type=int, help="training steps (default: 3600, about 15 minutes on one core)")
    parser.add_argument("--seed", type=int, help="of every draw (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output, with its settings")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from loralith.diffusion.classifier import save_classifier, train_classifier
    from loralith.diffusion.pretraining import PretrainSettings, check_pretrain_folder, pretrain, resumed_settings

    if args.resume:
        settings = resumed_settings(args.output, steps=args.steps, seed=args.seed)
    else:
        settings = PretrainSettings(**{name: value for name in ("steps", "seed") if (value := getattr(args, name)) is not None})
    losses: list[float] = []

    def progress(step: int, loss: float, rate: float) -> None:
        losses.append(loss)
        if step % 50 == 0 or step == settings.steps:
            output.log(f"step {step}/{settings.steps}  loss {loss:.4f}  {rate:.2f} steps/s")

    check_pretrain_folder(args.output)
    model, accuracy = train_classifier(seed=settings.seed)
    save_classifier(model, args.output)
    output.log(f"classifier: {accuracy:.1%} of the evaluation images")
    pretrain(settings, args.output, resume=args.resume, progress=progress)
    tail = losses[-100:]
    result = {"settings": asdict(settings), "classifier_accuracy": accuracy, "loss": sum(tail) / len(tail) if tail else None}
    result["output"] = str(args.output)
    if args.json:
        output.emit_json(result)
    else:
        print(f"classifier {accuracy:.1%}; weights in {args.output}")
    return 0
