"""Pictures and captions of other programs: right, or refused by name before torch is loaded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loralith.pipeline.photos import PhotoError, bucket_of, check_sizes, cut, photos_digest, read_photos


def png(image: Image.Image, **own: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", **own)
    return file.getvalue()


RED = Image.new("RGB", (40, 40), (200, 10, 20))


def test_captions_lie_beside_the_pictures(photos: Path) -> None:
    found = read_photos(photos, None)
    assert [(photo.path.name, photo.caption, photo.size) for photo in found] == [(f"{n}.png", f"toy {n}", (40, 40)) for n in range(3)]
    assert len({photo.digest for photo in found}) == 3
    (photos / "1.txt").write_text("\ufeffein\n  Stück  Käse\n", encoding="utf-8")
    assert read_photos(photos, None)[1].caption == "ein Stück Käse", "a byte order mark, line ends and accents"


def test_metadata_has_the_captions_and_may_name_folders(photos: Path) -> None:
    for text in photos.glob("*.txt"):
        text.unlink()
    (photos / "more").mkdir()
    (photos / "2.png").rename(photos / "more" / "2.png")
    rows = [{"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "caption": "b"}, {"file_name": "more/2.png", "prompt": " c "}]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert [photo.caption for photo in read_photos(photos, None)] == ["a", "b", "c"]


def test_one_prompt_is_for_all_and_captions_are_named_in_a_warning(photos: Path, photos_of: Callable[..., Path]) -> None:
    with pytest.warns(UserWarning, match="has captions, which are left aside: the prompt 'a toy' is for all pictures"):
        assert {photo.caption for photo in read_photos(photos, "a toy")} == {"a toy"}
    assert len(read_photos(photos_of([(32, 32)] * 2, captions=False), "a toy")) == 2


def refused(folder: Path, prompt: str | None = None) -> str:
    with pytest.raises(PhotoError) as error:
        read_photos(folder, prompt)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("0.txt", b"", "0.txt is an empty caption; write what the picture shows"),
        ("0.txt", b" \n\t", "0.txt is an empty caption"),
        ("0.txt", "Käse".encode("latin-1"), "0.txt is not a caption: it is not UTF-8 text, because of byte 0xe4 at 1"),
        ("0.txt", "toy".encode("utf-16"), "0.txt is not a caption: it is UTF-16 text; save it as UTF-8"),
        ("lost.txt", b"toy", "lost.txt is a caption without a picture"),
        ("3.png", png(RED), "3.png has no caption: give --prompt for all pictures, or write one to 3.txt"),
        ("0.jpg", png(RED), "0.jpg has the name of another picture there"),
        ("0.png", png(RED)[:60], "0.png is not an image, or is cut short"),
        ("0.png", b"", "0.png is not an image, or is cut short"),
        ("0.png", b"GIF89a", "0.png is not an image, or is cut short"),
        ("more.webp", b"x", "more.webp is not read; PNG and JPEG are"),
        ("0.png", png(RED, save_all=True, append_images=[Image.new("RGB", (40, 40))]), "0.png is an animation"),
        ("metadata.jsonl", b"{", "metadata.jsonl:1 is not JSON"),
        ("metadata.jsonl", b"[]", "metadata.jsonl:1 has no file_name"),
        ("metadata.jsonl", b'{"file_name": "../0.png", "text": "a"}', "metadata.jsonl:1 names ../0.png, which is no picture in"),
        ("metadata.jsonl", b'{"file_name": "0.png", "text": ""}', "metadata.jsonl:1 has no caption for 0.png: its text is ''"),
        ("metadata.jsonl", b'{"file_name": "0.png"}', "metadata.jsonl:1 has no caption for 0.png: its text is None"),
        ("metadata.jsonl", b'{"file_name": "0.png", "text": "a"}\n' * 2, "metadata.jsonl:2 names 0.png again"),
        ("metadata.jsonl", b'{"file_name": "0.png", "text": "a"}', "1.png has no caption in metadata.jsonl; add a line"),
    ],
)
def test_what_cannot_be_learned_from_is_named(name: str, content: bytes, told: str, photos: Path) -> None:
    (photos / name).write_bytes(content)
    assert told in refused(photos)


def test_folders_without_pictures_are_named(tmp_path: Path) -> None:
    assert "is not a folder; give one with pictures" in refused(tmp_path / "lost")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "0.png").write_bytes(png(RED))
    assert "holds no pictures (.png, .jpg, .jpeg); they must be in the folder itself" in refused(tmp_path, "a toy")


@pytest.mark.parametrize(
    ("mode", "content", "colour"),
    [
        ("a JPEG named .png", lambda: _saved(RED, "JPEG", quality=100), (200, 10, 20)),
        ("CMYK", lambda: _saved(RED.convert("CMYK"), "JPEG", quality=100), (200, 10, 20)),
        ("palette", lambda: png(RED.convert("P", palette=Image.Palette.ADAPTIVE)), (200, 10, 20)),
        ("grey", lambda: png(Image.new("L", (40, 40), 77)), (77, 77, 77)),
        ("16-bit grey", lambda: png(Image.fromarray(np.full((40, 40), 77 * 257, dtype=np.uint16))), (77, 77, 77)),
        ("transparent on white", lambda: png(Image.new("RGBA", (40, 40), (200, 10, 20, 0))), (255, 255, 255)),
    ],
)
def test_every_kind_of_pixel_has_its_colour(mode: str, content: Callable[[], bytes], colour: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(content())
    (photo,) = read_photos(tmp_path, "a toy")
    assert cut(photo, 16, 16).mode == "RGB"
    middle = cut(photo, 16, 16).getpixel((8, 8))
    assert all(abs(one - other) <= 3 for one, other in zip(middle, colour, strict=True)), f"{mode}: {middle}"


def _saved(image: Image.Image, form: str, **own: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=form, **own)
    return file.getvalue()


def test_pictures_are_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 32))
    image.paste((255, 0, 0), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right by 90 degrees to be upright
    image.save(tmp_path / "0.jpg", exif=exif, quality=100)
    (photo,) = read_photos(tmp_path, "a toy")
    assert photo.size == (32, 64)
    red = np.asarray(cut(photo, 64, 32))[:, 16, 0]
    assert red[8] > 200
    assert red[56] < 50


def test_the_middle_is_cut_and_nothing_is_stretched(tmp_path: Path) -> None:
    level = np.zeros((40, 120, 3), dtype=np.uint8)
    level[:, 40:80] = 255
    Image.fromarray(level).save(tmp_path / "0.png")
    (photo,) = read_photos(tmp_path, "a toy")
    assert np.asarray(cut(photo, 40, 40)).min() == 255


def test_sizes_that_do_not_fit_are_named(photos_of: Callable[..., Path]) -> None:
    photos = read_photos(photos_of([(64, 64), (64, 30)]), None)
    with pytest.raises(PhotoError, match="resolution must be a multiple of 16 pixels for this pipeline, not 40; 48 is near"):
        check_sizes(photos, 40, 16, buckets=False, upscale=False)
    with pytest.raises(PhotoError, match=r"1\.png is 64 x 30, too small for 32 x 32: give --resolution 16 or less, or --upscale"):
        check_sizes(photos, 32, 16, buckets=False, upscale=False)
    check_sizes(photos, 32, 16, buckets=False, upscale=True)
    check_sizes(photos, 16, 16, buckets=False, upscale=False)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((512, 512), (512, 512)), ((1024, 512), (384, 640)), ((512, 1024), (640, 384)), ((600, 400), (384, 640)), ((4000, 500), (384, 640))],
)
def test_buckets_keep_the_ratio_and_about_the_area(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    height, width = bucket_of(size, 512, 8, True)
    assert height % 64 == width % 64 == 0
    assert height * width <= 512 * 512
    assert bucket_of(size, 512, 8, False) == (512, 512)
    ratio = min(max(size[0] / size[1], 0.5), 2.0)
    assert abs(np.log(width / height / ratio)) <= abs(np.log(wanted[1] / wanted[0] / ratio)) + 1e-9, "no nearer ratio was left"


def test_the_digest_sees_pictures_and_captions(photos: Path) -> None:
    first = photos_digest(read_photos(photos, None))
    (photos / "0.txt").write_text("other")
    second = photos_digest(read_photos(photos, None))
    (photos / "0.png").write_bytes(png(RED))
    assert len({first, second, photos_digest(read_photos(photos, None))}) == 3


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(RED))
    (tmp_path / "1.png").symlink_to("/lost/1.png")
    with pytest.raises(PhotoError, match=r"1\.png is a link to /lost/1\.png, which is not there; copy the file"):
        read_photos(tmp_path, "toy")
