"""The emoji pipeline's pictures, captions and vocabulary."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from loralith.emoji.catalogue import HELD_OUT, KINDS, Catalogue, load_catalogue, plain_name
from loralith.emoji.scenes import BACKGROUNDS, PLACES, Item, Scene, caption, draw_scene, draws, render, with_article
from loralith.emoji.settings import TINY, VOCABULARY_AT_MOST, Settings, Sizes
from loralith.emoji.source import NOTO, SourceError, check_package, fetch
from loralith.emoji.vocabulary import byte_letters, merge_pairs, new_tokenizer, training_words
from loralith.errors import LoralithError


@pytest.fixture
def catalogue(emoji_folder: Path) -> Catalogue:
    return load_catalogue(emoji_folder / "source")


def test_the_catalogue_takes_things_and_holds_subjects_out(catalogue: Catalogue) -> None:
    known = {concept.code: concept for concept in catalogue.known}
    assert {concept.code for concept in catalogue.held_out} == {"1f916", "1f989"}
    assert "1f1eb-1f1f7" not in known, "flags are left out"
    assert known["1f34e"].names == ("red apple",)
    assert known["1f34e"].kind == KINDS["food-fruit"]
    assert known["1f34e"].mirrored
    assert not known["1f511"].mirrored
    assert known["1f44b-1f3ff"].names == ("waving hand with dark skin tone",)


def test_no_held_out_subject_is_in_a_training_scene(catalogue: Catalogue) -> None:
    assert not {concept.code for concept in catalogue.known} & set(HELD_OUT)
    apart = [concept.picture.tobytes() for concept in catalogue.held_out]
    assert not [concept.code for concept in catalogue.known if concept.picture.tobytes() in apart]
    words = {word for concept in catalogue.held_out for name in concept.names for word in name.split()}
    seen = Counter()
    for number in range(300):
        scene = draw_scene(catalogue.known, "emoji scene", 0, number)
        seen.update(catalogue.known[item.concept].code for item in scene.items)
        assert not words & set(caption(scene, catalogue.known, draws("caption", 0, number)).split())
    assert set(seen) == {concept.code for concept in catalogue.known}, "all others are drawn"
    assert seen["1f44b-1f3ff"] < seen["1f44b"], "a skin tone is drawn less often than what has none"


def test_an_archive_that_is_missing_or_altered_is_named(emoji_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{NOTO.archive} is missing.*loralith emoji fetch"):
        check_package(NOTO, tmp_path)
    (tmp_path / NOTO.archive).write_bytes(b"other")
    with pytest.raises(SourceError, match=f"is not {NOTO.name} {NOTO.version}: its SHA-512 is"):
        check_package(NOTO, tmp_path)


def test_without_npm_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=f"npm is missing, which fetches {NOTO.name}@{NOTO.version}.*put its archive"):
        fetch(tmp_path)


def test_scenes_depend_on_their_number_alone(catalogue: Catalogue) -> None:
    scenes = [draw_scene(catalogue.known, "p", 1, number) for number in range(40)]
    assert scenes[7] == draw_scene(catalogue.known, "p", 1, 7)
    assert len(set(scenes)) == 40
    assert draw_scene(catalogue.known, "p", 2, 7) != scenes[7] != draw_scene(catalogue.known, "q", 1, 7)


def test_a_picture_holds_what_its_scene_says(catalogue: Catalogue) -> None:
    apple = [concept.code for concept in catalogue.known].index("1f34e")
    blue = BACKGROUNDS["blue"]
    scene = Scene((Item(apple, *PLACES["in the top left"], 0.4, 0.0, False),), "blue", blue, "small", "in the top left")
    picture = render(scene, catalogue.known, 32)
    assert picture.shape == (32, 32, 3)
    assert tuple(picture[24, 24]) == blue
    middle = round(0.29 * 32)
    assert picture[middle, middle, 0] > 200 > 100 > picture[middle, middle, 2], "the apple is red"
    gray = render(Scene(scene.items, "gray", BACKGROUNDS["gray"], gray=True), catalogue.known, 32)
    assert np.ptp(gray, axis=2).max() == 0


def test_captions_say_what_is_there(catalogue: Catalogue) -> None:
    names = [concept.code for concept in catalogue.known]
    one = Item(names.index("1f34e"), 0.3, 0.3, 0.4, 0.0, False)
    other = Item(names.index("2b50"), 0.7, 0.3, 0.4, 0.0, False)
    scene = Scene((one,), "orange", BACKGROUNDS["orange"], "small", "in the top left")
    said = Counter(caption(scene, catalogue.known, random.Random(number), ["red apple"]) for number in range(200))
    assert said["a photo of a small red apple on an orange background in the top left"] > 20
    assert any("background" not in text for text in said)
    assert not any("large" in text or "black and white" in text or "upside down" in text for text in said)
    pair = caption(Scene((one, other), "blue", BACKGROUNDS["blue"]), catalogue.known, random.Random(3), ["red apple", "star"])
    assert "red apple and a star" in pair
    assert with_article("owl") == "an owl"
    assert with_article("books") == "books"
    assert with_article("glass") == "a glass"


@pytest.mark.parametrize(
    ("text", "plain"), [("woman\u2019s hat", "woman's hat"), ("pi\u00f1ata", "pinata"), ("OK hand", "ok hand"), ("T-Rex", "t rex")]
)
def test_names_are_plain(text: str, plain: str) -> None:
    assert plain_name(text) == plain


def test_frequent_words_become_one_token() -> None:
    merges = merge_pairs(Counter({"apple": 5, "app": 1}), 4)
    assert merges[-1] == ("app", "le</w>") or ("a", "p") in merges
    tokenizer = new_tokenizer(Counter({"apple": 9, "star": 7}), vocabulary=521, length=8)
    assert tokenizer.tokenize("apple star") == ["apple</w>", "star</w>"]
    assert tokenizer.tokenize("\u00e9") == ["\u00c3", "\u00a9</w>"], "whatever is no training word is bytes"
    assert len(tokenizer) == 521
    assert len(set(byte_letters())) == 256


def test_the_vocabulary_has_a_limit(catalogue: Catalogue) -> None:
    words = training_words(catalogue.known, 0)
    assert words["photo"] > 100
    assert len(new_tokenizer(words, vocabulary=560, length=8)) <= 560
    for size in (513, VOCABULARY_AT_MOST + 1):
        with pytest.raises(LoralithError, match=rf"vocabulary must be in 514\.\.{VOCABULARY_AT_MOST}, not {size}"):
            new_tokenizer(words, vocabulary=size, length=8)
    with pytest.raises(LoralithError, match="vocabulary must be at most"):
        Settings(Sizes(vocabulary=VOCABULARY_AT_MOST + 1))
    with pytest.raises(LoralithError, match="precision must be one of bf16, fp32"):
        Settings(TINY.sizes, precision="fp16")
