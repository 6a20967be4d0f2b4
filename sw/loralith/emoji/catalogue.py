"""Which emoji are taken, what they are called, and which are held out as subjects.

A concept is one emoji: its picture, its names (Unicode CLDR's short name first), its class noun and whether its mirror image is as good.
Emoji of letters, signs, flags, clocks and families are left out: their pictures are text, or differ by detail too small for the pipeline.
"""

import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loralith.emoji.source import NAMES, NOTO, TWEMOJI, Archive, Package, opened

PICTURE_SIZE = 64
"""Pixels of a side of the packages' pictures."""

KINDS: dict[str, str] = {
    "animal-amphibian": "animal",
    "animal-bird": "bird",
    "animal-bug": "insect",
    "animal-mammal": "animal",
    "animal-marine": "sea animal",
    "animal-reptile": "animal",
    "plant-flower": "flower",
    "plant-other": "plant",
    "dishware": "dish",
    "drink": "drink",
    "food-asian": "food",
    "food-fruit": "fruit",
    "food-prepared": "food",
    "food-sweet": "dessert",
    "food-vegetable": "vegetable",
    "arts & crafts": "artwork",
    "award-medal": "medal",
    "event": "decoration",
    "game": "toy",
    "sport": "sports thing",
    "book-paper": "book",
    "clothing": "piece of clothing",
    "computer": "device",
    "household": "household thing",
    "light & video": "device",
    "lock": "lock",
    "medical": "medical thing",
    "money": "money",
    "music": "music thing",
    "musical-instrument": "musical instrument",
    "office": "office thing",
    "other-object": "thing",
    "phone": "phone",
    "science": "science thing",
    "sound": "loud thing",
    "tool": "tool",
    "writing": "writing thing",
    "body-parts": "body part",
    "hand-fingers-closed": "hand",
    "hand-fingers-open": "hand",
    "hand-fingers-partial": "hand",
    "hand-prop": "hand",
    "hand-single-finger": "hand",
    "hands": "pair of hands",
    "person": "person",
    "person-fantasy": "person",
    "person-role": "person",
    "cat-face": "cat face",
    "face-affection": "face",
    "face-concerned": "face",
    "face-costume": "face",
    "face-glasses": "face",
    "face-hand": "face",
    "face-hat": "face",
    "face-negative": "face",
    "face-neutral-skeptical": "face",
    "face-sleepy": "face",
    "face-smiling": "face",
    "face-tongue": "face",
    "face-unwell": "face",
    "heart": "heart",
    "monkey-face": "monkey face",
    "geometric": "shape",
    "hotel": "thing",
    "place-building": "building",
    "place-geographic": "landscape",
    "place-other": "place",
    "place-religious": "building",
    "sky & weather": "weather",
    "transport-air": "aircraft",
    "transport-ground": "vehicle",
    "transport-water": "boat",
}
"""The subcategories of the emoji table that are taken, each with the noun of its class."""

MIRRORED = ("animal-", "plant-", "food-", "drink", "transport-", "place-geographic")
"""Beginnings of the subcategories whose pictures may be mirrored: nothing in them is written, and no name says a side."""

HELD_OUT = (
    "1f916",  # robot
    "1f47b",  # ghost
    "1f984",  # unicorn
    "1f995",  # sauropod
    "1f419",  # octopus
    "1f438",  # frog
    "1f994",  # hedgehog
    "1f989",  # owl
    "1f9f8",  # teddy bear
    "1f344",  # mushroom
    "1f7eb-200d-1f344",  # brown mushroom: it would show the mushroom
    "1f344-200d-1f7eb",
    "1f335",  # cactus
    "1f951",  # avocado
    "1f369",  # doughnut
    "2615",  # hot beverage
    "1f680",  # rocket
    "26f5",  # sailboat
    "26c4",  # snowman without snow
    "2603-fe0f",  # snowman
    "1f3b8",  # guitar
    "23f0",  # alarm clock
    "26bd",  # soccer ball
    "1f682",  # locomotive
    "1f692",  # fire engine
)
"""Codes of the subjects that training never sees, with their near doubles."""

SHOWS_HELD_OUT = ("1f3dc-fe0f",)  # desert, with a cactus
"""Codes of emoji that are no subjects and show one: left out altogether."""

TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark"}
WORDS_AT_MOST = 7
"""Longer names are left out."""


@dataclass(frozen=True)
class Concept:
    """One emoji. code: its code points as the pictures' files are named; names: in lower-case ASCII, the usual one first; kind: the noun of
    its class; mirrored: whether its mirror image may stand for it; picture: RGBA [size, size, 4]."""

    code: str
    names: tuple[str, ...]
    kind: str
    mirrored: bool
    picture: NDArray[np.uint8]


@dataclass(frozen=True)
class Catalogue:
    """The concepts that are trained on and the subjects that are held out; no code is in both."""

    known: tuple[Concept, ...]
    held_out: tuple[Concept, ...]


def plain_name(text: str) -> str:
    """A name in lower-case ASCII: letters, digits and apostrophes, one space between words."""
    ascii_text = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).encode("ascii", "ignore").decode()
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", ascii_text.lower()).split())


def load_catalogue(folder: Path, pictures: Package | None = None) -> Catalogue:
    """Noto's pictures, or another package's of the same table, from the archives in ``folder``. Raises SourceError."""
    pictures = pictures or NOTO
    with opened(NAMES, folder) as archive:
        labels = {entry["hexcode"].lower(): entry["label"] for entry in archive.read_json("en/compact.json")}
    with opened(pictures, folder) as archive:
        return read_catalogue(archive, pictures.name.rsplit("-", 1)[-1], labels)


def load_other_pictures(folder: Path) -> Catalogue:
    """The measuring encoder's pictures (`source.TWEMOJI`), of the same concepts. Raises SourceError."""
    return load_catalogue(folder, TWEMOJI)


def read_catalogue(archive: Archive, vendor: str, labels: Mapping[str, str], held_out: Sequence[str] = HELD_OUT) -> Catalogue:
    """The concepts of the archive's `emoji.json` whose pictures it holds, in the table's own order. labels: CLDR's names by code."""
    entries = [entry for entry in archive.read_json("emoji.json") if entry["subcategory"] in KINDS and entry[f"has_img_{vendor}"]]
    entries = [entry for entry in entries if "-200d-" not in entry["unified"].lower() or entry["category"] != "People & Body"]
    named = [(entry, _names(entry, labels)) for entry in entries]
    count = Counter(name for _, names in named for name in dict.fromkeys(names))
    first = Counter(names[0] for _, names in named if names)
    known, apart = [], []
    for entry, names in named:
        if not names or first[names[0]] > 1:
            continue
        own = (names[0], *(name for name in names[1:] if count[name] == 1))
        code = Path(entry["image"]).stem
        if code in SHOWS_HELD_OUT:
            continue
        for image, spoken in _pictures(entry, own, vendor):
            path = f"img/{vendor}/64/{image}"
            if path not in archive:
                continue
            concept = Concept(Path(image).stem, spoken, KINDS[entry["subcategory"]], _is_mirrored(entry, own), _decode(archive.read(path)))
            (apart if code in held_out else known).append(concept)
    return Catalogue(tuple(known), tuple(apart))


def concepts_digest(concepts: Sequence[Concept]) -> str:
    """First 16 hexadecimal digits of a SHA-256 of all codes, names and pictures: what a training run's data are known by."""
    total = hashlib.sha256()
    for concept in concepts:
        total.update(f"{concept.code}/{concept.names}/{concept.kind}/{concept.mirrored}".encode())
        total.update(concept.picture.tobytes())
    return total.hexdigest()[:16]


def _names(entry: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str, ...]:
    code = entry["unified"].lower()
    label = labels.get(code) or labels.get(code.removesuffix("-fe0f")) or entry["name"]
    found = [plain_name(text) for text in (label, entry["name"] or "", *(name.replace("_", " ") for name in entry["short_names"]))]
    return tuple(dict.fromkeys(name for name in found if name and len(name.split()) <= WORDS_AT_MOST))


def _pictures(entry: Mapping[str, Any], names: tuple[str, ...], vendor: str) -> list[tuple[str, tuple[str, ...]]]:
    """The picture's file and names, and those of its five skin tones where it has them: a tone is in no name of the first."""
    found = [(entry["image"], names)]
    for tone, word in TONES.items():
        variation = entry.get("skin_variations", {}).get(tone)
        if variation and variation[f"has_img_{vendor}"]:
            found.append((variation["image"], tuple(f"{name} with {word} skin tone" for name in names[:1])))
    return found


def _is_mirrored(entry: Mapping[str, Any], names: Sequence[str]) -> bool:
    sides = {"left", "right", "leftwards", "rightwards", "east", "west"}
    return entry["subcategory"].startswith(MIRRORED) and not any(sides & set(name.split()) for name in names)


def _decode(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGBA")
    if picture.size != (PICTURE_SIZE, PICTURE_SIZE):
        picture = picture.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
