"""The gallery of the emoji pipeline's methods, in tiny sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from loralith.cli import main
from loralith.emoji import gallery
from loralith.emoji.catalogue import load_catalogue, load_other_pictures
from loralith.emoji.settings import BYTES_AT_MOST, TINY
from loralith.emoji.shipped import SHIPPED, name_of, shipped_or_folder
from loralith.emoji.training import begin, train_measuring_encoder
from loralith.files import read_json
from loralith.formats.run_folder import PIPELINE_CHECKPOINT
from loralith.pipeline.model_folder import ModelFolder
from loralith.pipeline.settings import PipelineSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trained(emoji_folder: Path) -> Path:
    """The folder of a training that has a measuring encoder."""
    catalogue = load_catalogue(emoji_folder / "source")
    settings = begin(emoji_folder, TINY, resume=False)
    train_measuring_encoder(settings, catalogue, load_other_pictures(emoji_folder / "source"), emoji_folder)
    return emoji_folder


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PipelineSettings, bool]]:
    """Settings of each run, and whether it was resumed. A run leaves a checkpoint with random pictures at once."""
    made: list[tuple[PipelineSettings, bool]] = []

    def finetune_pipeline(settings: PipelineSettings, attach: object, progress: object, stop: object, *, resume: bool) -> None:
        assert (attach is None) == (settings.device == "fp32")
        random = np.random.default_rng(len(made))
        made.append((settings, resume))
        if not resume:
            shape = (len(settings.validation_prompts), 16, 16, 3)
            pictures = {f"pictures/{step}": random.integers(0, 256, shape, np.uint8) for step in (0, settings.steps)}
            settings.output.mkdir(parents=True)
            save_file(pictures, settings.output / PIPELINE_CHECKPOINT)

    monkeypatch.setattr(gallery, "finetune_pipeline", finetune_pipeline)
    return made


def test_each_row_is_run_and_shown(
    trained: Path, runs: list[tuple[PipelineSettings, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = next(concept.names[0] for concept in load_catalogue(trained / "source").held_out)
    command = ["emoji", "gallery", "--folder", str(trained), "--pipeline", "model", "--subjects", held_out, "--config", "tiny", "--json"]
    command += ["--output", str(tmp_path / "gallery")]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    shown = [variant.name for variant in gallery.VARIANTS]
    assert [row["row"] for row in first["rows"]] == ["before", *shown]
    assert [(own.method, own.device, resume) for own, resume in runs] == [
        (own.method, "fp32" if own.fp32 else "direct", False) for own in gallery.VARIANTS
    ]
    for settings, _ in runs:
        said = gallery.TOKEN if settings.method == "zoodip" else held_out
        assert all(said in prompt for prompt in settings.validation_prompts)
        captions = [json.loads(line)["text"] for line in (settings.data / "metadata.jsonl").read_text().splitlines()]
        assert all(said in caption for caption in captions)
        assert len(captions) == gallery.PHOTOS
    (path,) = map(Path, first["pictures"])
    image = np.asarray(Image.open(path))
    side, gap, label = 32, 4, 170
    assert image.shape == ((2 + len(shown)) * (side + gap) - gap, label + side * len(gallery.PROMPTS), 3)
    stored = [load_file(own.output / PIPELINE_CHECKPOINT) for own, _ in runs]
    wanted = [stored[0]["pictures/0"], *(own[f"pictures/{run.steps}"] for own, (run, _) in zip(stored, runs, strict=True))]
    for row, pictures in enumerate(wanted, 1):
        drawn = image[row * (side + gap) :][:side:2, label::2]
        np.testing.assert_array_equal(drawn.reshape(16, -1, 16, 3).swapaxes(0, 1), pictures, err_msg=f"row {row}")
    runs.clear()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert all(resume for _, resume in runs)
    page = "\n".join(gallery.page(first))
    last = first["rows"][-1]
    assert f"| zoodip | {last['subject_cosine']:.3f} | {last['prompt_cosine']:.3f} | {last['other_cosine']:.3f} |" in page
    assert "`SUBJECT and a red apple on a green background`" in page


def test_figures_are_of_the_pictures_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"cosine": 0.5, "other": 0.25, "retrieval": 1.0}
    monkeypatch.setattr(
        gallery, "prompt_fidelity", lambda judge, made, prompts: {**found, "cosine": float(made.mean()), "other": float(len(prompts))}
    )
    monkeypatch.setattr(gallery, "subject_fidelity", lambda judge, made, real: float(made.mean() - real.mean()))
    white, black = np.full((6, 4, 4, 3), 255, np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    assert gallery.fidelity_scores(None, white, black, "owl") == {"subject_cosine": 2.0, "prompt_cosine": 1.0, "other_cosine": 6.0}  # type: ignore[arg-type]


def test_a_row_or_subject_that_does_not_exist_is_named(
    trained: Path, runs: list[tuple[PipelineSettings, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["emoji", "gallery", "--folder", str(trained), "--output", str(tmp_path / "gallery"), "--config", "tiny"]
    assert main([*command, "--rows", "lora; dreambooth"]) != 0
    assert "no row 'dreambooth'; its rows are lora; lora, FP32; hollowed-net; tuneqdm; zoodip" in capsys.readouterr().err
    assert main([*command, "--subjects", "dragon"]) != 0
    assert "no held-out subject is called 'dragon'" in capsys.readouterr().err
    assert not runs


def test_a_word_stands_in_the_prompts_as_the_subject_does() -> None:
    assert gallery.prompts_for("owl")[0] == "a photo of an owl on a blue background"
    assert gallery.prompts_for("owl")[3] == "a photo of a small owl in the top left"
    assert all(gallery.TOKEN in prompt for prompt in gallery.prompts_for(gallery.TOKEN))


def test_the_shipped_pipeline_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_or_folder("emoji") == SHIPPED
    assert name_of(SHIPPED) == "emoji"
    assert shipped_or_folder("other") == Path("other")
    assert name_of(Path("other")) == "other"
    (tmp_path / "emoji").mkdir()
    assert shipped_or_folder("emoji") == Path("emoji"), "a folder that is there goes first"


def test_the_shipped_pipeline_is_what_its_page_says() -> None:
    about = read_json(SHIPPED / "training.json")
    assert about["settings"]["sizes"]["image"] == 64
    assert len(about["held_out"]) == 23
    folder = ModelFolder.read(SHIPPED)
    assert folder.kind == "StableDiffusionPipeline"
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= BYTES_AT_MOST
