"""Pictures to train on and their captions: one emoji, or two side by side, on a coloured background.

A scene is a function of (purpose, seed, number) alone. What a caption may say is what the scene holds: the names, the background's
colour, a small or large size, the place, upside down, black and white. A caption may leave things out and never says what is not so.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loralith.emoji.catalogue import Concept

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "black": (24, 24, 26),
    "gray": (140, 142, 146),
    "red": (206, 52, 56),
    "orange": (240, 146, 56),
    "yellow": (250, 222, 104),
    "green": (84, 164, 92),
    "blue": (74, 124, 216),
    "purple": (142, 92, 190),
    "pink": (245, 168, 200),
    "brown": (134, 96, 70),
    "turquoise": (76, 196, 196),
}
GRAYS = ("white", "black", "gray")
PLACES: dict[str, tuple[float, float]] = {
    "in the top left": (0.29, 0.29),
    "at the top": (0.5, 0.28),
    "in the top right": (0.71, 0.29),
    "on the left": (0.28, 0.5),
    "on the right": (0.72, 0.5),
    "in the bottom left": (0.29, 0.71),
    "at the bottom": (0.5, 0.72),
    "in the bottom right": (0.71, 0.71),
}
"""Centres of a small emoji that is not in the middle, as parts of the picture's side."""
OPENINGS = ("a photo of ", "a photo of ", "a photo of ", "a picture of ", "")
TONE_WEIGHT = 0.1
"""How often a skin tone's picture is drawn beside one of a concept without tones."""
PAIRS, SMALL, LARGE, UPSIDE_DOWN, GRAY = 0.12, 0.22, 0.12, 0.04, 0.05
"""Shares of the scenes: two emoji, a small one, a large one, upside down, black and white."""


@dataclass(frozen=True)
class Item:
    """A concept in a picture: its number, centre and side as parts of the picture's side, tilt in degrees, mirrored or not."""

    concept: int
    x: float
    y: float
    side: float
    tilt: float
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    """One picture. items: from left to right. background: a name of BACKGROUNDS, colour: what it is here. size and place: their words."""

    items: tuple[Item, ...]
    background: str
    colour: tuple[int, int, int]
    size: str = ""
    place: str = ""
    upside_down: bool = False
    gray: bool = False


def draws(purpose: str, seed: int, number: int) -> random.Random:
    """A generator whose state is a function of its arguments alone."""
    return random.Random(f"{purpose}/{seed}/{number}")


def draw_scene(concepts: Sequence[Concept], purpose: str, seed: int, number: int, weights: Sequence[float] | None = None) -> Scene:
    """The scene of that number; ``weights``: `concept_weights` of the concepts, where they are at hand."""
    draw = draws(purpose, seed, number)
    cumulative = weights or concept_weights(concepts)
    picks = draw.choices(range(len(concepts)), cum_weights=cumulative, k=2)
    gray = draw.random() < GRAY
    background = draw.choice(GRAYS if gray else tuple(BACKGROUNDS))
    spread = draw.randint(-8, 8)
    colour = tuple(
        max(0, min(255, part + spread + (0 if background in GRAYS else draw.randint(-8, 8)))) for part in BACKGROUNDS[background]
    )
    if draw.random() < PAIRS:
        place, size, upside_down = "", "", False
        items = tuple(_item(draw, concepts, pick, x, 0.5, draw.uniform(0.42, 0.48)) for pick, x in zip(picks, (0.26, 0.74), strict=True))
    else:
        kind = draw.random()
        size = "small" if kind < SMALL else "large" if kind < SMALL + LARGE else ""
        side = draw.uniform(*{"small": (0.42, 0.52), "large": (0.98, 1.08), "": (0.74, 0.88)}[size])
        place = draw.choice(("", "", *PLACES)) if size == "small" else ""
        items = (_item(draw, concepts, picks[0], *PLACES.get(place, (0.5, 0.5)), side),)
        upside_down = draw.random() < UPSIDE_DOWN
    return Scene(items, background, (colour[0], colour[1], colour[2]), size, place, upside_down, gray)


def plain_scene(concepts: Sequence[Concept], concept: int, purpose: str, number: int) -> Scene:
    """That concept alone and upright in the middle of a coloured background, in its usual size; a function of its arguments alone."""
    draw = draws(purpose, concept, number)
    background = draw.choice(tuple(BACKGROUNDS))
    return Scene((_item(draw, concepts, concept, 0.5, 0.5, draw.uniform(0.74, 0.88)),), background, BACKGROUNDS[background])


def with_first(scene: Scene, concept: int) -> Scene:
    """The scene with another concept in its first place, not mirrored."""
    return replace(scene, items=(replace(scene.items[0], concept=concept, mirrored=False), *scene.items[1:]))


def concept_weights(concepts: Sequence[Concept]) -> list[float]:
    """Sums of the concepts' weights up to each of them, as `random.choices` takes them."""
    total, sums = 0.0, []
    for concept in concepts:
        total += TONE_WEIGHT if "skin tone" in concept.names[0] else 1.0
        sums.append(total)
    return sums


def _item(draw: random.Random, concepts: Sequence[Concept], pick: int, x: float, y: float, side: float) -> Item:
    mirrored = concepts[pick].mirrored and draw.random() < 0.5
    return Item(pick, x + draw.uniform(-0.03, 0.03), y + draw.uniform(-0.03, 0.03), side, draw.gauss(0.0, 4.0), mirrored)


def render(scene: Scene, concepts: Sequence[Concept], size: int) -> NDArray[np.uint8]:
    """The scene as [size, size, 3]."""
    canvas = Image.new("RGBA", (size, size), (*scene.colour, 255))
    for item in scene.items:
        picture = Image.fromarray(concepts[item.concept].picture)
        if item.mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tilt = item.tilt + (180.0 if scene.upside_down else 0.0)
        side = max(1, round(item.side * size))
        picture = picture.rotate(tilt, Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.LANCZOS)
        layer = Image.new("RGBA", (size, size))
        layer.paste(picture, (round(item.x * size - side / 2), round(item.y * size - side / 2)))
        canvas = Image.alpha_composite(canvas, layer)
    flat = canvas.convert("RGB")
    return np.asarray(flat.convert("L").convert("RGB") if scene.gray else flat)


def with_article(name: str) -> str:
    """`a cat`, `an owl`, `books`."""
    last = name.split()[-1]
    if last.endswith("s") and not last.endswith("ss"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def caption(scene: Scene, concepts: Sequence[Concept], draw: random.Random, names: Sequence[str] | None = None) -> str:
    """A caption of the scene; ``names``: what to call its items, else drawn from the concepts' names and now and then their class."""
    spoken = names or [_spoken(concepts[item.concept], draw) for item in scene.items]
    words = [with_article(" ".join(filter(None, (scene.size if draw.random() < 0.9 else "", name)))) for name in spoken]
    if scene.upside_down:
        words = [f"an upside down {name}" for name in spoken]
    text = " and ".join(words)
    if scene.background and draw.random() < 0.85:
        text += f" on {with_article(scene.background)} background"
    if scene.place and draw.random() < 0.9:
        text += f" {scene.place}"
    opening = draw.choice(OPENINGS)
    if scene.gray and draw.random() < 0.95:
        opening = "a black and white photo of "
    return opening + text


def _spoken(concept: Concept, draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.06:
        return concept.kind
    return concept.names[0] if kind < 0.8 else draw.choice(concept.names)
