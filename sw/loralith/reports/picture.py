"""The picture of a fine-tune: the images that it was given, and samples before and after it, framed where the classifier sees the digit."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SCALE = 4  # screen pixels per image pixel
GAP = 10
FRAME = 3
MARGIN = 36
PANEL_SPACE = 48
HEADER = 104
RECOGNIZED = (22, 140, 96)
OTHER = (214, 217, 221)
INK = (28, 32, 38)
SOFT = (108, 115, 123)


@dataclass(frozen=True)
class Panel:
    """A grid of images [N, 1, 16, 16] under a title and a line of text; `right` [N] says which are framed as recognized, or none."""

    title: str
    text: str
    images: Tensor
    columns: int
    right: Tensor | None = None

    @property
    def rows(self) -> int:
        return -(-len(self.images) // self.columns)


def render(heading: str, panels: Sequence[Panel]) -> bytes:
    """PNG bytes of the panels side by side; the same input gives the same bytes."""
    pitch = panels[0].images.shape[-1] * SCALE + 2 * FRAME + GAP
    widths = [panel.columns * pitch - GAP for panel in panels]
    width = 2 * MARGIN + sum(widths) + PANEL_SPACE * (len(panels) - 1)
    height = MARGIN + HEADER + max(panel.rows for panel in panels) * pitch - GAP + MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 8), heading, fill=INK, font=ImageFont.load_default(26))
    left = MARGIN
    for panel, own in zip(panels, widths, strict=True):
        draw.text((left, MARGIN + 40), panel.title, fill=INK, font=ImageFont.load_default(20))
        draw.text((left, MARGIN + 68), panel.text, fill=SOFT, font=ImageFont.load_default(16))
        _place(canvas, panel, left, MARGIN + HEADER)
        left += own + PANEL_SPACE
    return _png(canvas)


def grid(images: Tensor, columns: int, right: Tensor | None = None) -> bytes:
    """PNG bytes of a panel's images alone."""
    panel = Panel("", "", images, columns, right)
    pitch = images.shape[-1] * SCALE + 2 * FRAME + GAP
    canvas = Image.new("RGB", (min(columns, len(images)) * pitch - GAP, panel.rows * pitch - GAP), "white")
    _place(canvas, panel, 0, 0)
    return _png(canvas)


def _place(canvas: Image.Image, panel: Panel, left: int, top: int) -> None:
    """Draws a panel's images with their frames."""
    draw, pitch = ImageDraw.Draw(canvas), panel.images.shape[-1] * SCALE + 2 * FRAME + GAP
    for index, image in enumerate(panel.images):
        x, y = left + index % panel.columns * pitch, top + index // panel.columns * pitch
        right = panel.right is not None and bool(panel.right[index])
        draw.rectangle((x, y, x + pitch - GAP - 1, y + pitch - GAP - 1), fill=RECOGNIZED if right else OTHER)
        canvas.paste(_tile(image), (x + FRAME, y + FRAME))


def _png(canvas: Image.Image) -> bytes:
    file = io.BytesIO()
    canvas.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _tile(image: Tensor) -> Image.Image:
    """[1, 16, 16] in -1..1 as dark ink on white, SCALE times as large."""
    level = ((1.0 - image[0].clamp(-1.0, 1.0)) * 127.5).round().to(torch.uint8)
    small = Image.fromarray(level.numpy())
    return small.resize((small.width * SCALE, small.height * SCALE), Image.Resampling.BICUBIC)
