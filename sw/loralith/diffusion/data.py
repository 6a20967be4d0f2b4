"""Images that the small diffusion model learns from: scikit-learn's handwritten digits.

The 1,797 images are real scans (UCI "Optical Recognition of Handwritten Digits", 8 x 8 pixels, ink 0..16) and are installed with
scikit-learn, so nothing is downloaded. They are enlarged to 16 x 16 and scaled to -1..1 (background -1).

Every fifth image of each class is kept for evaluation and never trained on. Classes 8 and 9 are held out: the model of
`loralith pretrain` never sees them, and `loralith finetune` personalizes it to one of them.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loralith.diffusion.determinism import generator
from loralith.diffusion.digits import DIGITS, EVALUATION_STRIDE, HELD_OUT, IMAGE_SIZE
from loralith.errors import LoralithError


@lru_cache(maxsize=1)
def _images() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    small = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 8.0 - 1.0  # [1797, 1, 8, 8]
    large = functional.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
    return large.contiguous(), torch.from_numpy(bunch.target).to(torch.int64)


def class_images(digit: int, *, evaluation: bool) -> Tensor:
    """All images of one class in the data set's order: [N, 1, 16, 16], FP32, -1..1.

    `evaluation` picks the fifth that is kept for evaluation, else the other four. Raises LoralithError for a digit that
    does not exist.
    """
    if digit not in DIGITS:
        raise LoralithError(f"digit must be one of 0..9, not {digit!r}")
    images, labels = _images()
    own = images[labels == digit]
    kept = torch.arange(len(own)) % EVALUATION_STRIDE == 0
    return own[kept if evaluation else ~kept].clone()


def labelled_images(digits: tuple[int, ...], *, evaluation: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 16, 16] and labels [N] of several classes, class after class."""
    parts = [class_images(digit, evaluation=evaluation) for digit in digits]
    labels = [torch.full((len(part),), digit, dtype=torch.int64) for digit, part in zip(digits, parts, strict=True)]
    return torch.cat(parts), torch.cat(labels)


def personal_images(digit: int, count: int, seed: int) -> Tensor:
    """The few images that a fine-tune is given: [count, 1, 16, 16], drawn without replacement, the same for the same seed.

    Raises LoralithError where `digit` is not held out or the class has fewer images.
    """
    if digit not in HELD_OUT:
        raise LoralithError(f"digit must be one of the held-out classes {_words(HELD_OUT)}, which the model has never seen, not {digit!r}")
    images = class_images(digit, evaluation=False)
    if not 1 <= count <= len(images):
        raise LoralithError(f"images must be 1 to {len(images)} (what digit {digit} has for training), not {count!r}")
    order = torch.randperm(len(images), generator=generator("personal images", seed, digit))
    return images[order[:count]]


def _words(values: tuple[int, ...]) -> str:
    return " and ".join(str(value) for value in values)
