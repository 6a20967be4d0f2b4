"""How well a model draws a digit: loss on images that were kept for it, and which share of its samples a classifier recognizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from loralith.diffusion.classifier import DigitClassifier, classify
from loralith.diffusion.data import class_images
from loralith.diffusion.objective import held_out_loss
from loralith.diffusion.prompt import PromptEncoder, digit_prompt
from loralith.diffusion.schedule import Denoiser, noise_schedule, sample
from loralith.diffusion.subject import Subject
from loralith.methods.settings import EvaluationSettings


@dataclass(frozen=True)
class Evaluation:
    """held_out_loss: mean squared error; accuracy: share of samples recognized as the digit, None where there is none; samples
    [N, 1, 16, 16] and the digits [N] that the classifier sees in them."""

    held_out_loss: float
    accuracy: float | None
    samples: Tensor
    recognized: Tensor


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
