"""What a fine-tune learns: a digit of the built-in set that the model has never seen, or a folder of images with captions.

A folder has PNG or JPEG images (see `image_file`), each with a caption beside it in a text file of the same name (`cat.png`, `cat.txt`), in
the prompt's vocabulary. Of the images in order of name the first and every fifth after it are kept for evaluation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from loralith.diffusion.data import DIGITS, EVALUATION_STRIDE, IMAGE_SIZE, class_images, personal_images
from loralith.diffusion.prompt import digit_prompt, tokenize
from loralith.errors import LoralithError
from loralith.files import FileError, read_text
from loralith.formats.image_file import ImageError, grey, read_image

__all__ = ["DataError", "Subject", "digit_subject", "folder_digest", "folder_subject"]

IMAGES = (".png", ".jpg", ".jpeg")


class DataError(LoralithError):
    """A folder that cannot be learned from; the message names the file."""


@dataclass(frozen=True)
class Subject:
    """Images [N, 1, 16, 16] with a caption each; those that are kept for evaluation; ``name`` for headings."""

    name: str
    images: Tensor
    captions: tuple[str, ...]
    held_out: Tensor
    held_captions: tuple[str, ...]

    @cached_property
    def prompt(self) -> str:
        """What samples are drawn for: the most common caption."""
        return Counter(self.captions).most_common(1)[0][0]

    @property
    def digit(self) -> int | None:
        """The digit that a classifier should see in samples, None where the prompt names none."""
        return next((digit for digit in DIGITS if self.prompt == digit_prompt(digit)), None)


def digit_subject(digit: int, count: int, seed: int) -> Subject:
    """A held-out digit of the built-in set."""
    images, held_out = personal_images(digit, count, seed), class_images(digit, evaluation=True)
    prompt = digit_prompt(digit)
    return Subject(f"the digit {digit}", images, (prompt,) * len(images), held_out, (prompt,) * len(held_out))


def _files(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """Images in order of name, and captions by stem."""
    if not folder.is_dir():
        raise DataError(f"data {folder} is not a folder; give one with images and captions")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in IMAGES]
    return images, {path.stem: path for path in files if path.suffix.lower() == ".txt"}


def folder_digest(folder: Path) -> str:
    """SHA-256 of the names and bytes of all images and captions. Raises DataError for what is no folder."""
    images, captions = _files(folder)
    total = hashlib.sha256()
    for path in [*images, *captions.values()]:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        total.update(f"{path.name} {len(content)};".encode() + content)
    return total.hexdigest()


def folder_subject(folder: Path) -> Subject:
    """A folder of images with captions, see above. Images are turned upright, on white, grey, and made 16 x 16.

    Raises DataError, with the file's name: for an image without a caption and a caption without an image, an empty caption or one with a
    word that is not in the vocabulary, a file that `image_file` refuses, sizes that differ or are not square, and fewer than two images.
    """
    files, texts = _files(folder)
    if len(files) < 2:
        raise DataError(f"data {folder} holds {len(files)} images ({', '.join(IMAGES)}); at least 2 are needed, one of them to judge by")
    stems = Counter(path.stem for path in files)
    for path in files:
        if stems[path.stem] > 1:
            raise DataError(f"{path} has the name of another image there, so that their caption {path.stem}.txt is not clear")
        if path.stem not in texts:
            raise DataError(f"{path} has no caption: {path.with_suffix('.txt').name} is missing")
    for stem, path in texts.items():
        if stem not in stems:
            raise DataError(f"{path} is a caption without an image")
    captions = [_caption(texts[path.stem]) for path in files]
    tensors = _images(files)
    kept = torch.arange(len(files)) % EVALUATION_STRIDE == 0
    chosen, judged = ([caption for caption, k in zip(captions, kept.tolist(), strict=True) if k == side] for side in (False, True))
    return Subject(folder.name, tensors[~kept], tuple(chosen), tensors[kept], tuple(judged))


def _images(files: list[Path]) -> Tensor:
    """[N, 1, 16, 16] in -1..1, dark ink 1. Raises DataError."""
    tensors, sizes = [], []
    for path in files:
        try:
            image = read_image(path)
        except ImageError as error:
            raise DataError(str(error)) from None
        width, height = image.size
        sizes.append(image.size)
        if image.size != sizes[0]:
            other = "{} x {}".format(*sizes[0])
            raise DataError(f"images must be of one size: {path.name} is {width} x {height}, {files[0].name} is {other}")
        if width != height:
            raise DataError(f"images must be square, since they are made {IMAGE_SIZE} x {IMAGE_SIZE}: {path.name} is {width} x {height}")
        level = torch.tensor(list(grey(image, IMAGE_SIZE).tobytes()), dtype=torch.float32)
        tensors.append(1.0 - level.reshape(1, IMAGE_SIZE, IMAGE_SIZE) / 127.5)
    return torch.stack(tensors)


def _caption(path: Path) -> str:
    try:
        words = read_text(path).split()
    except FileError as error:
        raise DataError(f"{path} is not a caption: {error.reason}") from None
    if not words:
        raise DataError(f"{path} is an empty caption")
    try:
        tokenize(" ".join(words))
    except LoralithError as error:
        raise DataError(f"{path}: {error}") from None
    return " ".join(words)
