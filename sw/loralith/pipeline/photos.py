"""The pictures of a fine-tune and their captions. Loads no torch.

A folder holds PNG and JPEG files (see `formats.image_file`). Captions are one prompt for all, or a text file beside each picture
(`cat.png`, `cat.txt`), or `metadata.jsonl` as `imagefolder` has it: a JSON object a line with `file_name` and `text`.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from loralith.errors import LoralithError
from loralith.files import FileError, read_text
from loralith.formats.image_file import ImageError, read_image

__all__ = ["Photo", "PhotoError", "bucket_of", "check_sizes", "cut", "photos_digest", "read_photos"]

IMAGES = (".png", ".jpg", ".jpeg")
OTHER_IMAGES = (".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl")
METADATA = "metadata.jsonl"
CAPTION_KEYS = ("text", "caption", "prompt")
ASPECT_LIMIT = 2.0
"""The longest bucket's ratio of edges; longer pictures are cropped to it."""


class PhotoError(LoralithError):
    """Pictures or captions that cannot be learned from; the message names the file."""


@dataclass(frozen=True)
class Photo:
    """``size``: (width, height) upright, in pixels. ``digest``: SHA-256 of the file."""

    path: Path
    caption: str
    size: tuple[int, int]
    digest: str


def read_photos(folder: Path, prompt: str | None, *, option: str = "data") -> list[Photo]:
    """Every picture of a folder with its caption, in order of name; each is decoded once, so that what is cut short is found here.

    prompt : the caption of all; captions that the folder has are then left aside, with a warning. option : names the folder in messages.

    Raises PhotoError for what is no folder or holds no pictures, a picture that `image_file` refuses, pictures of other formats, a picture
    without a caption, a caption without a picture, and captions that are empty or not UTF-8.
    """
    if not folder.is_dir():
        raise PhotoError(f"{option} {folder} is not a folder; give one with pictures")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    listed = folder / METADATA
    in_folder = [path for path in files if path.parent == folder or listed.is_file()]
    for path in folder.iterdir():
        if path.is_symlink() and not path.exists():
            raise PhotoError(f"{path} is a link to {path.readlink()}, which is not there; copy the file, or take the link away")
    images = [path for path in in_folder if path.suffix.lower() in IMAGES]
    for path in in_folder:
        if path.suffix.lower() in OTHER_IMAGES:
            raise PhotoError(f"{path} is not read; PNG and JPEG are: save it as one of them, or move it away")
    if not images:
        kinds = ", ".join(IMAGES)
        raise PhotoError(f"{option} {folder} holds no pictures ({kinds}); they must be in the folder itself, or named by its {METADATA}")
    texts = {path.with_suffix("").name: path for path in in_folder if path.suffix.lower() == ".txt" and path.parent == folder}
    if prompt is not None:
        if texts or listed.is_file():
            warnings.warn(f"{folder} has captions, which are left aside: the prompt {prompt!r} is for all pictures", stacklevel=2)
        captions = [prompt] * len(images)
    elif listed.is_file():
        captions = _listed(listed, folder, images)
    else:
        captions = _beside(images, texts)
    return [_photo(path, caption) for path, caption in zip(images, captions, strict=True)]


def _photo(path: Path, caption: str) -> Photo:
    try:
        size = read_image(path, "RGB").size
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except ImageError as error:
        raise PhotoError(str(error)) from None
    except OSError as error:
        raise PhotoError(f"{path} cannot be read: {error.strerror}") from None
    return Photo(path, caption, size, digest)


def _beside(images: Sequence[Path], texts: dict[str, Path]) -> list[str]:
    stems = Counter(path.stem for path in images)
    for path in images:
        if path.stem not in texts:
            raise PhotoError(f"{path} has no caption: give --prompt for all pictures, or write one to {path.with_suffix('.txt').name}")
        if stems[path.stem] > 1:
            raise PhotoError(f"{path} has the name of another picture there, so that it is not clear whose {path.stem}.txt is")
    for stem, path in texts.items():
        if stem not in stems:
            raise PhotoError(f"{path} is a caption without a picture")
    return [_caption(texts[path.stem]) for path in images]


def _caption(path: Path) -> str:
    try:
        words = " ".join(read_text(path).split())
    except FileError as error:
        raise PhotoError(f"{path} is not a caption: {error.reason}") from None
    if not words:
        raise PhotoError(f"{path} is an empty caption; write what the picture shows, or give --prompt for all pictures")
    return words


def _listed(listed: Path, folder: Path, images: Sequence[Path]) -> list[str]:
    """The captions of a metadata.jsonl, by picture."""
    try:
        lines = read_text(listed).splitlines()
    except FileError as error:
        raise PhotoError(str(error)) from None
    found: dict[Path, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{listed}:{number}"
        try:
            entry: Any = json.loads(line)
        except ValueError as error:
            raise PhotoError(f"{place} is not JSON: {error}") from None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise PhotoError(f"{place} has no file_name; a line is an object with file_name and text")
        path = folder / name
        if path not in images:
            raise PhotoError(f"{place} names {name}, which is no picture in {folder}")
        if path in found:
            raise PhotoError(f"{place} names {name} again; a picture has one caption")
        caption = next((entry[key] for key in CAPTION_KEYS if key in entry), None)
        if not isinstance(caption, str) or not caption.strip():
            raise PhotoError(f"{place} has no caption for {name}: its text is {caption!r}")
        found[path] = " ".join(caption.split())
    for path in images:
        if path not in found:
            raise PhotoError(f"{path} has no caption in {listed.name}; add a line, or give --prompt for all pictures")
    return [found[path] for path in images]


def photos_digest(photos: Sequence[Photo]) -> str:
    """SHA-256 of all pictures and captions, in order."""
    text = json.dumps([[photo.path.name, photo.digest, photo.caption] for photo in photos])
    return hashlib.sha256(text.encode()).hexdigest()


def bucket_of(size: tuple[int, int], resolution: int, multiple: int, buckets: bool) -> tuple[int, int]:
    """(height, width) in pixels that a picture of size (width, height) is made: square, or with ``buckets`` that of about the same area and
    of the ratio next to the picture's, its edges multiples of an eighth of the resolution."""
    if not buckets:
        return resolution, resolution
    step = max(multiple, resolution // 8 // multiple * multiple)
    ratio = min(max(size[0] / size[1], 1 / ASPECT_LIMIT), ASPECT_LIMIT)
    edges = range(step, int(resolution * ASPECT_LIMIT) + 1, step)
    pairs = [(height, min(resolution * resolution // height // step * step, edges[-1])) for height in edges]
    fitting = [pair for pair in [*pairs, (resolution, resolution)] if pair[1] and 1 / ASPECT_LIMIT <= pair[1] / pair[0] <= ASPECT_LIMIT]
    return min(fitting, key=lambda pair: (abs(math.log(pair[1] / pair[0] / ratio)), -pair[0] * pair[1]))


def check_sizes(photos: Sequence[Photo], resolution: int, multiple: int, *, buckets: bool, upscale: bool) -> None:
    """Raises PhotoError for a resolution that the pipeline cannot have, and for a picture that would have to be enlarged."""
    if resolution % multiple:
        near = [edge for edge in (resolution // multiple * multiple, -(-resolution // multiple) * multiple) if edge]
        raise PhotoError(f"resolution must be a multiple of {multiple} pixels for this pipeline, not {resolution}; {near[-1]} is near")
    for photo in photos:
        height, width = bucket_of(photo.size, resolution, multiple, buckets)
        share = min(photo.size[0] / width, photo.size[1] / height)
        if share < 1 and not upscale:
            fits = int(resolution * share) // multiple * multiple
            advice = f"--resolution {fits} or less, or " if fits else ""
            raise PhotoError(
                f"{photo.path} is {photo.size[0]} x {photo.size[1]}, too small for {width} x {height}: give {advice}--upscale to enlarge it"
            )


def cut(photo: Photo, height: int, width: int) -> Image.Image:
    """The picture's middle at that size, in RGB."""
    image = read_image(photo.path, "RGB")
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
