"""Folders of images with captions: what is read, and what is refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.same_values import assert_same_values
from loralith.diffusion.data import class_images
from loralith.diffusion.subject import DataError, digit_subject, folder_digest, folder_subject
from loralith.methods.settings import FinetuneSettings

PROMPT = "a drawing of digit 8"


def write(folder, name, size=(16, 16), caption=PROMPT, mode="L", level=255):
    Image.new(mode, size, level).save(folder / name)
    if caption is not None:
        (folder / name).with_suffix(".txt").write_text(caption)


@pytest.fixture
def folder(tmp_path):
    for i in range(7):
        write(tmp_path, f"{i}.png", level=30 * i)
    return tmp_path


def test_images_and_captions_are_read(folder):
    (folder / "3.txt").write_text(" a  drawing\nof digit 3\n")
    (folder / "notes.md").write_text("not looked at")
    subject = folder_subject(folder)
    assert subject.images.shape == (5, 1, 16, 16)
    assert subject.captions == (PROMPT, PROMPT, "a drawing of digit 3", PROMPT, PROMPT)
    assert subject.held_out.shape == (2, 1, 16, 16)
    assert subject.held_out[:, 0, 0, 0].tolist() == pytest.approx([1.0, 1.0 - 150 / 127.5])
    assert (subject.prompt, subject.digit) == (PROMPT, 8)


def test_the_built_in_digits_come_back_from_files(tmp_path):
    images = class_images(8, evaluation=True)[:3]
    for i, image in enumerate(images):
        level = ((1.0 - image[0]) * 127.5).round().to(torch.uint8).numpy()
        Image.fromarray(level).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(PROMPT)
    subject = folder_subject(tmp_path)
    assert torch.allclose(torch.cat([subject.held_out, subject.images]), images, atol=1 / 127)
    digit = digit_subject(8, 20, 0)
    assert len(digit.images) == len(digit.captions) == 20
    assert_same_values(digit.held_out, class_images(8, evaluation=True))


def test_colour_and_transparency_become_grey_on_white_of_the_models_size(tmp_path):
    write(tmp_path, "a.png", (32, 32), mode="RGBA", level=(255, 0, 0, 0))
    write(tmp_path, "b.jpg", (32, 32), mode="RGB", level=(0, 0, 0))
    subject = folder_subject(tmp_path)
    assert subject.held_out.shape == subject.images.shape == (1, 1, 16, 16)
    assert subject.held_out.unique().tolist() == [-1.0]
    assert subject.images.min() > 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "2.txt").unlink(), r"2\.png has no caption: 2\.txt is missing"),
        (lambda f: (f / "2.png").unlink(), r"2\.txt is a caption without an image"),
        (lambda f: (f / "2.txt").write_text(" \n"), r"2\.txt is an empty caption"),
        (lambda f: (f / "2.txt").write_text("a picture"), r"2\.txt: the prompt's word 'picture' is not in the vocabulary"),
        (lambda f: (f / "2.txt").write_text("a a a a a a"), r"2\.txt: a prompt has at most 5 words, not 6"),
        (lambda f: (f / "2.txt").write_bytes(b"\xff\xfe\x00"), r"2\.txt is not a caption"),
        (lambda f: write(f, "2.png", (20, 20)), r"images must be of one size: 2\.png is 20 x 20, 0\.png is 16 x 16"),
        (lambda f: [write(f, f"{i}.png", (16, 20)) for i in range(7)], r"images must be square, .* 0\.png is 16 x 20"),
        (lambda f: (f / "2.png").write_bytes(b"no image"), r"2\.png is not an image, or is cut short"),
        (lambda f: (f / "2.png").write_bytes((f / "2.png").read_bytes()[:60]), r"2\.png is not an image, or is cut short"),
        (lambda f: write(f, "2.jpg"), r"2\.(jpg|png) has the name of another image there"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_by_name(folder, change, message):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(folder / "2.png")  # long enough to be cut
    change(folder)
    with pytest.raises(DataError, match=message):
        folder_subject(folder)


def test_other_folders(tmp_path):
    with pytest.raises(DataError, match=r"holds 0 images .* at least 2 are needed"):
        folder_subject(tmp_path)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        folder_subject(tmp_path / "nowhere")


def test_the_settings_know_the_files_content(folder):
    def settings():
        return FinetuneSettings(folder / "out", data=folder).identity()

    before = settings()
    assert before["data"] == folder_digest(folder)
    (folder / "3.txt").write_text("a drawing of digit 9")
    assert settings() != before
    assert "data" not in FinetuneSettings(folder / "out").identity(), "as before there was a choice"


def test_sideways_16_bit_and_marked_files_are_learned_from_as_they_show(folder):
    """EXIF orientation, 16 bits and a byte order mark of the caption; each once was lost, white, or refused."""
    level = np.zeros((16, 16), np.uint16)
    level[:8] = 32768
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(level).save(folder / "1.png", exif=exif)
    (folder / "1.txt").write_text(PROMPT, encoding="utf-8-sig")
    subject = folder_subject(folder)
    assert subject.captions[0] == PROMPT
    assert subject.images[0, 0, :, 8:].unique().tolist() == pytest.approx([1.0 - 128 / 127.5], abs=1e-6)
    assert subject.images[0, 0, :, :8].unique().tolist() == [1.0]
    (folder / "1.txt").write_text(PROMPT, encoding="utf-16")
    with pytest.raises(DataError, match=r"1\.txt is not a caption: it is UTF-16 text; save it as UTF-8"):
        folder_subject(folder)
