"""Training and export of the emoji pipeline, in tiny sizes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from helpers.same_values import assert_same_values
from loralith.cli import main
from loralith.emoji import export as exported
from loralith.emoji.catalogue import Catalogue, load_catalogue
from loralith.emoji.export import ABOUT, assemble, export
from loralith.emoji.model_stage import Model, load_start, new_model, tokens
from loralith.emoji.models import new_scheduler, new_vae, parameters_of
from loralith.emoji.settings import BYTES_AT_MOST, PARAMETERS_AT_MOST, TINY, Settings
from loralith.emoji.training import CHECKPOINTS, DECODER, VAE, begin, export_run, load_vae, settings_from, train_stages
from loralith.emoji.vae_stage import pictures, reconstruction_error, standardize
from loralith.errors import INTERRUPTED, LoralithError
from loralith.files import read_json
from loralith.formats.checkpoint import CheckpointError, load_checkpoint, read_header
from loralith.formats.run_folder import FolderError

STEPS = 4

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def catalogue(emoji_folder: Path) -> Catalogue:
    return load_catalogue(emoji_folder / "source")


def after(asked: int) -> Callable[[], bool]:
    """Says stop the `asked`th time that it is asked."""
    calls: Iterator[int] = iter(range(1, 1000))
    return lambda: next(calls) >= asked


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    header = read_header(folder / CHECKPOINTS["model"])
    return load_checkpoint(folder / CHECKPOINTS["model"], header["settings"]).tensors


def test_a_stopped_training_ends_with_the_same_bits(catalogue: Catalogue, tmp_path: Path) -> None:
    for name in ("straight", "stopped"):
        begin(tmp_path / name, TINY, resume=False)
    assert train_stages(TINY, catalogue, tmp_path / "straight", steps=STEPS)
    stops = [after(2), after(1), after(3), after(1), after(2)]
    done = [train_stages(TINY, catalogue, tmp_path / "stopped", steps=STEPS, stop=stop) for stop in stops]
    assert not any(done[:3]), "stopped in the VAE's and the model's stage"
    assert train_stages(TINY, catalogue, tmp_path / "stopped", steps=STEPS)
    straight, stopped = tensors(tmp_path / "straight"), tensors(tmp_path / "stopped")
    assert {name for name in straight if name.startswith("average/unet.")}
    for name, tensor in straight.items():
        assert_same_values(tensor, stopped[name], name)
    for file in (VAE, "latents/000000.latents"):
        assert (tmp_path / "straight" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes()


def test_training_lowers_the_losses(catalogue: Catalogue, tmp_path: Path) -> None:
    settings = replace(TINY, vae_steps=60, vae_batch=8, vae_lr=1e-2, lr=3e-3, batch=16, scenes=500, validation=32, hold=200, average=0.9)
    begin(tmp_path / "run", settings, resume=False)
    train_stages(settings, catalogue, tmp_path / "run", steps=1)
    train_stages(settings, catalogue, tmp_path / "run", steps=60)
    vae = read_header(tmp_path / "run" / CHECKPOINTS["vae"])["extra"]["history"]
    torch.manual_seed(0)
    assert vae[-1]["error"] < 0.9 * reconstruction_error(new_vae(settings.sizes), settings, catalogue.known)
    first, last = read_header(tmp_path / "run" / CHECKPOINTS["model"])["extra"]["history"]
    assert (first["step"], last["step"]) == (1, 60)
    assert last["known"] < 0.95 * first["known"]
    assert last["loss"] < first["loss"]


def test_the_export_is_a_stock_pipeline(catalogue: Catalogue, tmp_path: Path) -> None:
    begin(tmp_path / "run", TINY, resume=False)
    train_stages(TINY, catalogue, tmp_path / "run", steps=2)
    for steps in (2, 3):  # over the first export
        train_stages(TINY, catalogue, tmp_path / "run", steps=steps)
        said = export_run(TINY, catalogue, tmp_path / "run", tmp_path / "pipeline")
        assert said["steps"] == steps == read_json(tmp_path / "pipeline" / ABOUT)["steps"]
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a photo of a red apple on a blue background", num_inference_steps=2, output_type="np").images
    assert made.shape == (1, 16, 16, 3)
    assert np.isfinite(made).all()
    trained = tensors(tmp_path / "run")["average/unet.conv_in.weight"]
    assert_same_values(pipeline.unet.conv_in.weight, trained.half().float())
    assert read_json(tmp_path / "pipeline" / ABOUT)["held_out"] == [["robot"], ["owl"]]


def test_the_decoder_is_refined_for_the_same_latents(catalogue: Catalogue, tmp_path: Path) -> None:
    begin(tmp_path / "run", TINY, resume=False)
    assert train_stages(TINY, catalogue, tmp_path / "run", steps=0, stages=("vae",))
    assert train_stages(TINY, catalogue, tmp_path / "run", steps=0, stages=("decoder",))
    before, after = (load_vae(TINY, tmp_path / "run", refined=refined) for refined in (False, True))
    assert (tmp_path / "run" / DECODER).is_file()
    drawn = pictures(catalogue.known, "p", 0, range(2), TINY.sizes.image)
    one, other = (vae.encode(drawn).latent_dist.mean for vae in (before, after))
    assert_same_values(one, other)
    assert not torch.equal(before.decode(one).sample, after.decode(one).sample)


def test_standard_latents_decode_to_the_same_pictures(catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    vae = new_vae(TINY.sizes).eval()
    drawn = pictures(catalogue.known, "emoji statistics", TINY.seed, range(4), TINY.sizes.image)
    with torch.no_grad():
        before = vae.decode(vae.encode(drawn).latent_dist.mean).sample
        noise_before = vae.decode(vae.encode(drawn).latent_dist.mean + vae.encode(drawn).latent_dist.std).sample
        standardize(vae, TINY, catalogue.known)
        latents = vae.encode(drawn).latent_dist
        torch.testing.assert_close(vae.decode(latents.mean).sample, before, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(vae.decode(latents.mean + latents.std).sample, noise_before, atol=2e-4, rtol=1e-3)
    flat = latents.mean.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.ones(4), atol=1e-3, rtol=0)


def test_the_shipped_sizes_keep_the_limits(catalogue: Catalogue, tmp_path: Path) -> None:
    settings = Settings()
    model = new_model(settings, catalogue.known)
    model.text_encoder.resize_token_embeddings(settings.sizes.vocabulary)  # as many as the real captions fill
    vae = new_vae(settings.sizes)
    assert parameters_of(vae, model.text_encoder, model.unet) <= PARAMETERS_AT_MOST
    assert export(vae, model, tmp_path / "pipeline", {}) <= BYTES_AT_MOST


def test_a_pipeline_that_is_too_large_is_refused(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, vae = new_model(TINY, catalogue.known), new_vae(TINY.sizes)
    count = parameters_of(vae, model.text_encoder, model.unet)
    monkeypatch.setattr(exported, "PARAMETERS_AT_MOST", count - 1)
    with pytest.raises(LoralithError, match=f"the pipeline has {count} parameters; it may have {count - 1}"):
        assemble(vae, model)
    monkeypatch.setattr(exported, "PARAMETERS_AT_MOST", count)
    size = export(vae, model, tmp_path / "pipeline", {})
    monkeypatch.setattr(exported, "BYTES_AT_MOST", size - 1)
    with pytest.raises(LoralithError, match=f"it may have {size - 1}"):
        export(vae, model, tmp_path / "pipeline", {})
    assert (tmp_path / "pipeline" / "model_index.json").is_file(), "the earlier export stays"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note").touch()
    with pytest.raises(LoralithError, match="holds other files than a pipeline"):
        export(vae, model, tmp_path / "other", {})


def test_a_prompt_is_padded_and_cut(catalogue: Catalogue) -> None:
    model: Model = new_model(TINY, catalogue.known)
    found = tokens(model.tokenizer, ["", "star " * 40], 16)
    assert found.shape == (2, 16)
    start, end = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    assert found[0].tolist() == [start] + [end] * 15
    assert found[1, -1] == end


def test_the_last_step_has_no_signal() -> None:
    scheduler = new_scheduler()
    clean, noise = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)
    assert_same_values(scheduler.add_noise(clean, noise, torch.tensor([999])), noise)


def test_a_folder_is_begun_once_and_resumed_with_its_settings(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no training to resume"):
        begin(tmp_path / "run", TINY, resume=True)
    begin(tmp_path / "run", TINY, resume=False)
    assert begin(tmp_path / "run", Settings(), resume=True) == TINY
    with pytest.raises(FolderError, match="holds a training already; go on with --resume"):
        begin(tmp_path / "run", TINY, resume=False)
    values = read_json(tmp_path / "run" / "settings.json")
    assert settings_from(values) == TINY
    del values["sizes"]["head"]
    with pytest.raises(FolderError, match=r"settings\.json lacks 'head': another version wrote it"):
        settings_from(values)


def test_other_pictures_are_not_resumed(catalogue: Catalogue, tmp_path: Path) -> None:
    begin(tmp_path / "run", TINY, resume=False)
    train_stages(TINY, catalogue, tmp_path / "run", steps=0, stop=after(2))
    with pytest.raises(CheckpointError, match="concepts is"):
        train_stages(TINY, Catalogue(catalogue.known[1:], catalogue.held_out), tmp_path / "run", steps=0)


def test_the_commands(emoji_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--folder", str(emoji_folder)]
    assert main(["emoji", "train", "--preset", "tiny", "--stage", "vae", *named]) == 0
    assert main(["emoji", "train", *named]) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main(["emoji", "export", "--output", str(tmp_path / "pipeline"), *named]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    assert main(["emoji", "train", "--resume", "--steps", "2", *named]) == 0
    assert main(["emoji", "export", "--output", str(tmp_path / "pipeline"), *named]) == 0
    assert "pipeline after 2 steps" in capsys.readouterr().out
    assert INTERRUPTED == 130


def test_a_training_starts_from_an_exported_pipeline(catalogue: Catalogue, tmp_path: Path) -> None:
    begin(tmp_path / "first", TINY, resume=False)
    train_stages(TINY, catalogue, tmp_path / "first", steps=2)
    export_run(TINY, catalogue, tmp_path / "first", tmp_path / "pipeline")
    wanted = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)
    settings = begin(tmp_path / "second", None, resume=False, start=tmp_path / "pipeline")
    assert (settings.seed, settings.sizes) == (TINY.seed + 1, TINY.sizes)
    vae = load_vae(settings, tmp_path / "second").state_dict()
    assert all(torch.equal(tensor, vae[name]) for name, tensor in wanted.vae.state_dict().items())
    still = replace(settings, lr=0.0, weight_decay=0.0)  # so that a step changes nothing
    assert train_stages(still, catalogue, tmp_path / "second", steps=1)
    found = tensors(tmp_path / "second")
    for part in ("unet", "text_encoder"):
        for name, tensor in getattr(wanted, part).named_parameters():
            assert_same_values(found[f"weight/{part}.{name}"], tensor, f"{part}.{name}")
    assert begin(tmp_path / "second", None, resume=True) == settings
    assert read_header(tmp_path / "second" / CHECKPOINTS["model"])["settings"]["start"] == settings.start != ""


def test_what_no_training_can_start_from_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"is no pipeline that `loralith emoji export` wrote: it has no training\.json"):
        begin(tmp_path / "run", None, resume=False, start=tmp_path)
    assert not (tmp_path / "run").exists()
    model = new_model(TINY, catalogue.known)
    other = {f"unet.{name}": tensor for name, tensor in model.unet.state_dict().items()}
    with pytest.raises(LoralithError, match="are of another text_encoder, or of another vocabulary"):
        load_start(model, {**other, "text_encoder.x": torch.zeros(1)})
