"""A few pictures of a held-out subject, as a person would have photographed it: what a training method personalizes the pipeline with."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from loralith.emoji.catalogue import Concept
from loralith.emoji.scenes import caption, draws, plain_scene, render
from loralith.errors import LoralithError
from loralith.files import check_output_folder, write_text

LICENSE = """The pictures in this folder show an emoji of Noto Emoji, Copyright Google LLC, licensed under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0), changed: placed on a plain coloured background, tilted and scaled.
"""


def write_subject(concepts: Sequence[Concept], name: str, folder: Path, *, count: int, size: int, word: str | None = None) -> list[Path]:
    """Pictures of one subject on different backgrounds, with captions in metadata.jsonl as imagefolder reads them; ``word``: what the
    captions call it, else its name.

    Raises LoralithError where no concept has that name.
    """
    found = [index for index, concept in enumerate(concepts) if name in concept.names]
    if not found:
        raise LoralithError(f"no held-out subject is called {name!r}; there are {', '.join(concept.names[0] for concept in concepts)}")
    check_output_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, lines = [], []
    for number in range(count):
        scene = plain_scene(concepts, found[0], "emoji subject", number)
        path = folder / f"{name.replace(' ', '-')}-{number}.png"
        Image.fromarray(render(scene, concepts, size)).save(path, optimize=True)
        text = caption(scene, concepts, draws("emoji subject caption", 0, number), [word or name])
        lines.append(json.dumps({"file_name": path.name, "text": text}))
        paths.append(path)
    write_text("\n".join(lines) + "\n", folder / "metadata.jsonl")
    write_text(LICENSE, folder / "LICENSE")
    return paths
