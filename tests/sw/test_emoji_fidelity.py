"""The encoder that measures the emoji pipeline, and the pictures of held-out subjects."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loralith.cli import main
from loralith.emoji.catalogue import Catalogue, load_catalogue, load_other_pictures
from loralith.emoji.encoder import Judge, accuracy, contrast, disturbed, new_judge, stacked
from loralith.emoji.fidelity import as_tensor, prompt_fidelity, read_pictures, sheet, subject_fidelity
from loralith.emoji.scenes import plain_scene, with_first
from loralith.emoji.settings import TINY
from loralith.emoji.subject import write_subject
from loralith.emoji.training import CHECKPOINTS, ENCODER, encoder_concepts, load_judge, train_measuring_encoder
from loralith.errors import LoralithError
from loralith.formats.checkpoint import load_checkpoint, read_header

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def catalogue(emoji_folder: Path) -> Catalogue:
    return load_catalogue(emoji_folder / "source")


@pytest.fixture
def other(emoji_folder: Path) -> Catalogue:
    return load_other_pictures(emoji_folder / "source")


class _Perfect(Judge):
    """Knows pictures by their colour in the middle, and captions by the colour that they name."""

    def __init__(self) -> None:
        pass

    def pictures(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = torch.nn.functional.normalize(pictures[:, :, 4, 4] + 1.0, dim=1)
        return vectors, vectors

    def captions(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(3)[[["red", "green", "blue"].index(text) for text in texts]]


def test_the_encoder_sees_no_picture_of_the_pipelines_training(catalogue: Catalogue, other: Catalogue) -> None:
    shown = {concept.picture.tobytes() for concept in encoder_concepts(other)}
    assert not shown & {concept.picture.tobytes() for concept in (*catalogue.known, *catalogue.held_out)}
    assert {concept.code for concept in encoder_concepts(other)} == {concept.code for concept in (*catalogue.known, *catalogue.held_out)}


def test_an_encoder_that_learns_knows_more(catalogue: Catalogue, other: Catalogue, tmp_path: Path) -> None:
    settings = replace(TINY, encoder_steps=40, encoder_batch=8, encoder_lr=1e-2, average=0.9, validation=8)
    assert train_measuring_encoder(settings, catalogue, other, tmp_path)
    history = read_header(tmp_path / CHECKPOINTS["encoder"])["extra"]["history"]
    concepts = (*catalogue.known, *catalogue.held_out)
    trained = accuracy(load_judge(settings, other, tmp_path), concepts, settings)
    assert trained == {name: history[-1][name] for name in trained}
    untrained = accuracy(new_judge(settings, encoder_concepts(other)), concepts, settings)
    assert sum(trained.values()) > sum(untrained.values()) + 0.5


def test_a_stopped_encoder_ends_with_the_same_bits(catalogue: Catalogue, other: Catalogue, tmp_path: Path) -> None:
    assert train_measuring_encoder(TINY, catalogue, other, tmp_path / "straight")
    assert not train_measuring_encoder(TINY, catalogue, other, tmp_path / "stopped", stop=lambda: True)
    with pytest.raises(LoralithError, match="no measuring encoder; `loralith emoji train --resume --stage encoder`"):
        load_judge(TINY, other, tmp_path / "stopped")
    assert train_measuring_encoder(TINY, catalogue, other, tmp_path / "stopped")
    assert (tmp_path / "straight" / ENCODER).read_bytes() == (tmp_path / "stopped" / ENCODER).read_bytes()
    header = read_header(tmp_path / "stopped" / CHECKPOINTS["encoder"])
    assert load_checkpoint(tmp_path / "stopped" / CHECKPOINTS["encoder"], header["settings"]).step == TINY.encoder_steps


def test_vectors_have_length_one_and_depend_on_what_is_seen(other: Catalogue) -> None:
    judge = new_judge(TINY, encoder_concepts(other))
    scenes = [plain_scene(other.known, number, "p", 0) for number in range(3)]
    subject, prompt = judge.pictures(stacked(scenes, other.known, 16))
    said = judge.captions(["a photo of a star", "a photo of a key", ""])
    for vectors in (subject, prompt, said):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
        assert not torch.allclose(vectors[0], vectors[1])


def test_disturbed_pictures_stay_pictures() -> None:
    pictures = torch.rand(6, 3, 16, 16) * 2 - 1
    found = disturbed(pictures, torch.Generator().manual_seed(1))
    assert found.shape == pictures.shape
    assert found.abs().max() <= 1
    assert (found - pictures).abs().mean((1, 2, 3)).min() > 1e-3


def test_the_contrast_leaves_equal_pairs_out() -> None:
    one = torch.eye(2)[[0, 0, 1]]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert contrast(one, one, same) < 1e-3 < contrast(one, one)


def test_prompt_and_subject_fidelity() -> None:
    pictures = torch.full((3, 3, 8, 8), -1.0)
    for index in range(3):
        pictures[index, index] = 1.0
    right = prompt_fidelity(_Perfect(), pictures, ["red", "green", "blue"])
    assert right == {"cosine": 1.0, "other": 0.0, "retrieval": 1.0}
    wrong = prompt_fidelity(_Perfect(), pictures, ["red", "blue", "green"])
    assert wrong["retrieval"] == pytest.approx(1 / 3)
    assert wrong["cosine"] == pytest.approx(1 / 3)
    assert subject_fidelity(_Perfect(), pictures[:1], pictures[:1]) == 1.0
    assert subject_fidelity(_Perfect(), pictures[:1], pictures[1:]) == 0.0


def test_another_concept_takes_the_first_place(catalogue: Catalogue) -> None:
    scene = plain_scene(catalogue.known, 0, "p", 1)
    assert plain_scene(catalogue.known, 0, "p", 1) == scene
    assert with_first(scene, 3).items[0].concept == 3
    assert with_first(scene, 3).background == scene.background


def test_a_sheet_shows_all_pictures() -> None:
    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.full((1, 2, 2, 3), 50, np.uint8)
    image = np.asarray(sheet(pictures, columns=2, scale=2))
    assert image.shape == (8, 8, 3)
    assert image[0, 4, 0] == 50
    assert image[4, 0, 0] == 100
    assert image[7, 7, 0] == 255, "what is left of the last row is white"


def test_pictures_are_read_in_order(tmp_path: Path) -> None:
    with pytest.raises(LoralithError, match="holds no pictures"):
        read_pictures(tmp_path, 8)
    for name, value in (("b.png", 200), ("a.png", 100)):
        Image.new("RGB", (16, 16), (value, 0, 0)).save(tmp_path / name)
    (tmp_path / "metadata.jsonl").touch()
    found = read_pictures(tmp_path, 8)
    assert found[:, 0, 0, 0].tolist() == [100, 200]
    assert as_tensor(found).shape == (2, 3, 8, 8)


def test_a_subjects_pictures_come_with_captions_and_licence(catalogue: Catalogue, tmp_path: Path) -> None:
    paths = write_subject(catalogue.held_out, "robot", tmp_path / "robot", count=3, size=64)
    lines = [json.loads(line) for line in (tmp_path / "robot" / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [path.name for path in paths]
    assert all("robot" in line["text"] for line in lines)
    assert len({path.read_bytes() for path in paths}) == 3
    assert all(path.stat().st_size < 10_000 for path in paths)
    assert "Apache License" in (tmp_path / "robot" / "LICENSE").read_text()
    with pytest.raises(LoralithError, match="no held-out subject is called 'apple'; there are robot, owl"):
        write_subject(catalogue.held_out, "apple", tmp_path / "other", count=3, size=64)


def test_the_measuring_commands(emoji_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--folder", str(emoji_folder)]
    pipeline, picture = str(tmp_path / "pipeline"), str(tmp_path / "made.png")
    assert main(["emoji", "train", "--preset", "tiny", "--steps", "1", *named]) == 0
    assert main(["emoji", "train", "--resume", "--stage", "encoder", *named]) == 0
    assert main(["emoji", "export", "--output", pipeline, *named]) == 0
    assert main(["emoji", "sample", "a photo of a star", "a key", "--pipeline", pipeline, "--output", picture, "--steps", "2", *named]) == 0
    with Image.open(picture) as image:
        assert image.size == (64, 32)
    capsys.readouterr()
    assert main(["emoji", "measure", "--pipeline", pipeline, "--count", "4", "--steps", "2", "--json", *named]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["count"] == 4
    assert result["made"].keys() == result["real"].keys() >= {"cosine", "retrieval", "name", "background", "subject"}
    for name in ("robot", "owl"):
        assert main(["emoji", "subject", name, "--output", str(tmp_path / name), "--count", "2", *named]) == 0
    folders = ["--pictures", str(tmp_path / "robot"), "--references", str(tmp_path / "robot")]
    assert main(["emoji", "measure", *folders, *named]) == 0
    assert "subject fidelity: mean cosine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pipeline", "p", "--count", "0"], "count must be at least 1, not 0"),
        (["--pictures", "p"], "give both or neither"),
        ([], "give --pipeline, or --pictures with --references"),
        (["--pictures", "p", "--references", "r", "--guidance", "2"], "--guidance does nothing with --pictures"),
    ],
)
def test_what_measure_refuses(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emoji", "measure", *options]) == 2
    assert said in capsys.readouterr().err
