"""Pictures of other programs as the grey or colour that they show: every kind of pixel is right or refused.

| in the file | becomes |
|---|---|
| EXIF orientation | turned upright |
| grey of 1 to 8 bits, RGB, palette, CMYK | as Pillow converts them; grey by ITU-R 601 |
| grey of 16 bits | 8 bits, 65535 to 255, to nearest |
| transparency: alpha, a palette's, one colour's | laid on white |
| several pictures, as cameras write in one JPEG (MPO) | the first |
| an animation; 32-bit integers and floats; LAB; other formats than PNG and JPEG, whatever the name | refused |
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from loralith.errors import LoralithError

__all__ = ["ImageError", "grey", "read_image"]

FORMATS = ("PNG", "JPEG", "MPO")
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
MOST_PIXELS = 1 << 26
"""Of one picture, which takes some ten bytes a pixel on its way to 16 x 16."""

BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for files that are not what they say."""


class ImageError(LoralithError):
    """A file that holds no picture, or one whose pixels are not defined; the message names it."""


def read_image(path: Path, mode: str = "L") -> Image.Image:
    """The picture, upright and on white, of mode L (or RGB) in its own size. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that Pillow reads all the same; the sizes are checked here
            with Image.open(path) as image:
                _check(image, path)
                image.load()
                transparent = image.info.get("transparency")
                upright = ImageOps.exif_transpose(image)
                flat = _from_16_bits(upright, transparent) if upright.mode.startswith("I;16") else _on_white(upright)
                return flat.convert(mode)
    except BROKEN as error:
        raise ImageError(f"{path} is not an image, or is cut short: {error}") from None


def _check(image: Image.Image, path: Path) -> None:
    if image.format not in FORMATS:
        raise ImageError(f"{path} is a {image.format} file; PNG and JPEG are read")
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{path} is an animation; save the picture to learn from alone")
    if image.mode not in MODES and not image.mode.startswith("I;16"):
        raise ImageError(
            f"{path} has pixels of Pillow's mode {image.mode}, whose black and white are not defined; save it with 8 or 16 bits"
        )
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(f"{path} is {width} x {height}; at most {MOST_PIXELS:,} pixels are read, make it smaller")


def _on_white(image: Image.Image) -> Image.Image:
    flat = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat)


def _from_16_bits(image: Image.Image, transparent: int | None) -> Image.Image:
    """Pillow's own conversion to 8 bits clips at 255."""
    level = np.asarray(image).astype(np.uint32)
    small = (level * 255 + 32767) // 65535
    if transparent is not None:
        small[level == transparent] = 255
    return Image.fromarray(small.astype(np.uint8))


def grey(image: Image.Image, size: int) -> Image.Image:
    """A picture of mode L made size x size, each pixel the mean of those that it covers."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BOX)
