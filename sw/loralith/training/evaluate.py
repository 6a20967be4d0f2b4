"""How well a model draws: loss on images that were kept for it, and which share of its samples a classifier recognizes; and looks at what
trains, in plain FP32 on a model of its own, so that the run is not touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loralith.diffusion.classifier import DigitClassifier, classify
from loralith.diffusion.data import class_images
from loralith.diffusion.objective import held_out_loss
from loralith.diffusion.prompt import PromptEncoder, digit_prompt
from loralith.diffusion.schedule import Denoiser, noise_schedule, sample
from loralith.diffusion.subject import Subject
from loralith.methods.settings import EvaluationSettings
from loralith.reports.run_report import Evaluation, Look

if TYPE_CHECKING:
    from loralith.methods.training_method import Method


def evaluate(
    model: Denoiser,
    encoder: PromptEncoder,
    classifier: DigitClassifier,
    digit: int,
    settings: EvaluationSettings,
    subject: Subject | None = None,
) -> Evaluation:
    """Judges a model in plain FP32, by a digit of the built-in set or by a subject of its own.

    All draws are fixed, so that any two models see the same images, noise and time steps.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            prompt, null = encoder.encode(subject.prompt if subject else digit_prompt(digit)), encoder.encode("")
            images = subject.held_out if subject else class_images(digit, evaluation=True)
            condition = torch.cat([encoder.encode(caption) for caption in subject.held_captions]) if subject else prompt
            loss = held_out_loss(model, noise_schedule(), images, condition, rounds=settings.rounds)
            many = (settings.samples, -1, -1)
            samples = sample(model, prompt.expand(many), null.expand(many), seed=0, steps=settings.sample_steps, guidance=settings.guidance)
            recognized = classify(classifier, samples)
    finally:
        model.train(training)
    wanted = subject.digit if subject else digit
    accuracy = None if wanted is None else float((recognized == wanted).float().mean())
    return Evaluation(loss, accuracy, samples, recognized)


LOOK_SAMPLES = 8


@torch.no_grad()
def look(method: Method, step: int) -> Look:
    """The result as it is now, after ``step`` steps."""
    model, encoder = method.evaluation_model()
    subject, evaluation = method.subject, method.settings.evaluation
    condition = torch.cat([encoder.encode(caption) for caption in subject.held_captions])
    loss = held_out_loss(model, noise_schedule(), subject.held_out, condition, rounds=evaluation.rounds)
    prompt, null = encoder.encode(subject.prompt, LOOK_SAMPLES), encoder.encode("", LOOK_SAMPLES)
    drawn = sample(model, prompt, null, seed=0, steps=evaluation.sample_steps, guidance=evaluation.guidance)
    return Look(step, loss, drawn)
