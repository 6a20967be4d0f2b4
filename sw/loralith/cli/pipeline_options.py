"""Arguments of `loralith finetune` that belong to pipelines of diffusers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from loralith.errors import LoralithError

__all__ = ["FIELDS", "OF_PIPELINES", "SHARED", "option_of", "pipeline_arguments", "refuse_without_pipeline"]

OF_PIPELINES = (
    "prompt",
    "class_prompt",
    "class_data",
    "class_images",
    "prior_weight",
    "resolution",
    "buckets",
    "upscale",
    "accumulation",
    "checkpointing",
    "optimizer",
    "weight_decay",
    "lr_schedule",
    "warmup",
    "ema",
    "min_snr",
    "noise_offset",
    "timestep_sampling",
    "caption_dropout",
    "validation_prompts",
    "validate_every",
    "sample_steps",
    "guidance",
    "initializer",
    "cache",
    "originals",
    "threads",
)
"""Destinations of options that only a pipeline has."""

SHARED = (
    *("output", "model", "data", "method", "rank", "alpha", "rank_pattern", "alpha_pattern", "rslora", "targets", "steps", "batch", "lr"),
    *("seed", "device", "config", "modules", "adapter_scales", "weight_bits", "rotation", "verify", "token", "perturbations", "mu", "bits"),
    *("experts", "input_scales", "hollow", "samples_stored", "boundary", "train"),
)
"""Destinations of the other options that a pipeline has."""

FIELDS = (*SHARED, *OF_PIPELINES)
"""What sets a field of `PipelineSettings`, by its name."""

NAMES: Mapping[str, str] = {
    "modules": "--map",
    "samples_stored": "--boundary-samples",
    "accumulation": "--gradient-accumulation",
    "checkpointing": "--gradient-checkpointing",
    "validation_prompts": "--validation-prompt",
}


def option_of(dest: str) -> str:
    """The option of a destination of FIELDS."""
    return NAMES.get(dest, f"--{dest.replace('_', '-')}")


def refuse_without_pipeline(args: argparse.Namespace) -> None:
    """Raises LoralithError for a pipeline's option beside a model that is none."""
    for dest in OF_PIPELINES:
        if dest in args.given:
            there = "has no model_index.json" if args.model and args.model.exists() else "is not there"
            where = f"{args.model} {there}" if args.model else "there is no --model"
            raise LoralithError(
                f"{args.given[dest]} is of pipelines, and {where}; give --model a folder that diffusers' save_pretrained wrote"
            )


def pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `pipeline.settings`: a destination is the field's name, None where it was not given."""
    data = parser.add_argument_group("pipelines: pictures and captions", "where --model is a folder of diffusers' save_pretrained")
    data.add_argument("--prompt", metavar="TEXT", help="caption of every picture (default: a .txt beside each, or metadata.jsonl)")
    data.add_argument("--class-prompt", metavar="TEXT", help="prior preservation: the class that must not be lost, as 'a photo of a dog'")
    data.add_argument("--class-data", type=Path, metavar="DIR", help="pictures of the class (default: the pipeline draws them)")
    data.add_argument("--class-images", type=int, metavar="N", help="how many it draws (default: 50)")
    data.add_argument("--prior-weight", type=float, help="of the class's loss (default: 1)")
    data.add_argument("--resolution", type=int, metavar="PIXELS", help="edge of a picture (default: the pipeline's own)")
    data.add_argument("--buckets", action="store_true", help="keep the pictures' aspect ratios, with the same area")
    data.add_argument("--upscale", action="store_true", help="enlarge pictures that are too small")
    data.add_argument("--caption-dropout", type=float, metavar="SHARE", help="captions that are dropped (default: 0)")
    data.add_argument("--cache", type=Path, metavar="DIR", help="latents and text embeddings, which runs may share (default: OUTPUT/cache)")
    train = parser.add_argument_group("pipelines: training")
    train.add_argument("--gradient-accumulation", dest="accumulation", type=int, metavar="N", help="batches of a step (default: 1)")
    train.add_argument("--gradient-checkpointing", dest="checkpointing", action="store_true", help="less memory, more time, the same bits")
    train.add_argument("--optimizer", choices=("adamw", "adamw8bit"), help="adamw8bit needs bitsandbytes (default: adamw)")
    train.add_argument("--weight-decay", type=float, help="(default: 0)")
    train.add_argument("--lr-schedule", choices=("constant", "linear", "cosine"), help="after the warmup (default: constant)")
    train.add_argument("--warmup", type=int, metavar="STEPS", help="steps of a rising learning rate (default: 0)")
    train.add_argument("--ema", type=float, metavar="DECAY", help="average the weights, and judge and save the average")
    train.add_argument("--min-snr", type=float, metavar="GAMMA", help="min-SNR weighting of noise and velocity prediction, usually 5")
    train.add_argument("--noise-offset", type=float, help="noise of a channel as a whole (default: 0)")
    train.add_argument("--timestep-sampling", choices=("auto", "uniform", "logit-normal"), help="(default: the objective's own)")
    train.add_argument("--threads", type=int, metavar="N", help="of torch; the bits depend on it (default: 1)")
    train.add_argument("--originals", type=Path, metavar="DIR", help="mapped weights' FP32 values lie in a file there, not in memory")
    train.add_argument("--initializer", metavar="WORD", help="zoodip: the word whose embedding --token starts from (default: a mean one)")
    judge = parser.add_argument_group("pipelines: validation")
    judge.add_argument(
        "--validation-prompt", dest="validation_prompts", action="append", metavar="TEXT", help="drawn before and after; may be repeated"
    )
    judge.add_argument("--validate-every", type=int, metavar="N", help="draw them each N steps too (default: 0, not)")
    judge.add_argument("--sample-steps", type=int, metavar="N", help="of a drawn picture (default: 20)")
    judge.add_argument("--guidance", type=float, help="of a drawn picture (default: the pipeline's own)")
