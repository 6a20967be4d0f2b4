"""A digit classifier that says which share of the samples shows the wanted class.

A small convolutional network over all ten digits, trained on the images that are not kept for evaluation, with shifts and noise so that it
judges a sample by its shape.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from loralith.diffusion.data import DIGITS, labelled_images
from loralith.diffusion.determinism import generator, repeatable, seed_global
from loralith.errors import LoralithError
from loralith.formats.checkpoint import write_tensors

CLASSIFIER_FILE = "classifier.safetensors"


class DigitClassifier(nn.Sequential):
    """Images [N, 1, 16, 16] in -1..1 to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48 * 16, len(DIGITS)),
        )


@torch.no_grad()
def classify(model: DigitClassifier, images: Tensor) -> Tensor:
    """The recognized digit of each image: [N, 1, 16, 16] to [N], int64."""
    return model(images).argmax(dim=1)


def train_classifier(*, seed: int = 0, steps: int = 1500, batch: int = 64, lr: float = 2e-3) -> tuple[DigitClassifier, float]:
    """The trained classifier and its share of right answers on the evaluation images of all ten digits."""
    images, labels = labelled_images(DIGITS, evaluation=False)
    with repeatable():
        seed_global("classifier weights", seed)
        model = DigitClassifier()
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            random = generator("classifier", seed, step)
            picks = torch.randint(len(images), (batch,), generator=random)
            shift = torch.randint(-1, 2, (2,), generator=random).tolist()
            noise = 0.2 * torch.randn((batch, *images.shape[1:]), generator=random)
            seen = torch.roll(images[picks], shift, dims=(2, 3)) + noise
            loss = functional.cross_entropy(model(seen), labels[picks])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval().requires_grad_(False)
        test, truth = labelled_images(DIGITS, evaluation=True)
        return model, float((classify(model, test) == truth).float().mean())


def save_classifier(model: DigitClassifier, folder: Path) -> None:
    write_tensors({name: tensor.to(torch.float16) for name, tensor in model.state_dict().items()}, folder / CLASSIFIER_FILE)


def load_classifier(folder: Path | None = None) -> DigitClassifier:
    """The package's classifier, or that of another folder; raises LoralithError that names a missing or damaged file."""
    from loralith.diffusion.unet import assets

    path = (folder or assets()) / CLASSIFIER_FILE
    model = DigitClassifier()
    try:
        model.load_state_dict({name: tensor.to(torch.float32) for name, tensor in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise LoralithError(f"{path} does not hold the digit classifier's weights: {error}") from error
    return model.eval().requires_grad_(False)
