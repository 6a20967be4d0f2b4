"""`loralith finetune --model FOLDER --data PHOTOS` at the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from loralith.cli import build_parser, main
from loralith.cli.pipeline import command_of, pipeline_settings
from loralith.formats.run_folder import PEFT_FILE

SHORT = "--resolution 32 --steps 2 --sample-steps 2 --config tiny"


def arguments(*words: object, options: str = SHORT) -> list[str]:
    return ["finetune", *map(str, words), *shlex.split(options)]


def test_one_command_trains_and_goes_on(
    pipelines: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ("--model", pipelines("sd"), "--data", photos, "--output", output, "--validation-prompt", "toy", "--validation-prompt", "car")
    assert main([*arguments(*words), "--json", "--verify"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pipeline"] == "StableDiffusionPipeline"
    assert result["bit_exact"] is True
    assert len(result["loss"]) == 2
    assert Path(result["result"]) == output / PEFT_FILE
    page = Path(result["page"]).read_text()
    assert "toy 0" in page
    assert page.count("<figure>") == 3 + 2 * 2
    assert "<code>loralith finetune --output" in page, page[page.find("<h1>") :][:600]
    assert main(["finetune", "--resume", "--output", str(output), "--steps", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"][:2] == result["loss"]
    assert main(["finetune", "--resume", "--output", str(output), "--rank", "8"]) == 2
    assert "--rank 8 contradicts the run in" in capsys.readouterr().err
    other, options = tmp_path / "file", ["--originals", str(tmp_path), "--json"]
    words = ("--model", pipelines("sd"), "--data", photos, "--output", other, "--cache", output / "cache")
    assert main([*arguments(*words), *options]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == result["loss"], "weights in a file are the same weights"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--digit 9", "--digit is not a setting of a pipeline's fine-tune"),
        ("--method hollowed-net --hollow up_blocks.1", "hollow 'up_blocks.1' cannot be left out behind one boundary tensor; these can"),
        ("--data lost", "data lost is not a folder"),
        ("--method zoodip --ema 0.9", "ema is no setting of zoodip"),
        ("--originals lost", "originals lost is not a folder"),
        ("--device fp32 --originals .", "originals must be None without a device"),
        ("--model lost", "--resolution is of pipelines, and lost is not there; give --model a folder"),
        ("--token new", "token is no setting of lora"),
        ("--class-data x", "class_data goes with class_prompt"),
        ("--device fp32 --verify", "verify must be False without a device"),
        ("--device gpu", "device must be reference"),
        ("--resolution 33", "resolution must be a multiple of 4 pixels for this pipeline, not 33; 36 is near"),
        ("--resolution 64", "too small for 64 x 64: give --resolution 40 or less, or --upscale"),
        ("--rank-pattern a=b", "a pattern is NAME=VALUE"),
        ("--targets to_z", "targets 'to_z' is the end of no module's name"),
    ],
)
def test_what_a_pipeline_does_not_have_is_refused(
    options: str, told: str, pipelines: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", pipelines("sd"), "--data", photos, "--output", tmp_path / "out")
    assert main([*arguments(*words), *shlex.split(options)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_pipelines_are_refused_without_one(
    pipelines: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", "--prompt", "a toy", "--output", str(tmp_path / "out")]) == 2
    assert "--prompt is of pipelines, and there is no --model; give --model a folder" in capsys.readouterr().err
    assert main(["finetune", "--model", str(tmp_path), "--buckets", "--output", str(tmp_path / "out")]) == 2
    assert "has no model_index.json" in capsys.readouterr().err
    assert main(["finetune", "--model", str(pipelines("sd")), "--output", str(tmp_path / "out")]) == 2
    assert "give their folder as --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--prompt 'a toy, red' --class-prompt 'a toy' --class-images 3 --prior-weight 0.5 --buckets --upscale --ema 0.99 --min-snr 5",
        "--targets to_k,to_v --rank 8 --alpha 4 --rank-pattern to_k=2 --rslora --device fp32 --gradient-accumulation 2 --threads 2",
        "--gradient-checkpointing --lr-schedule cosine --warmup 1 --validation-prompt x --validation-prompt 'y z' --validate-every 1",
        "--method zoodip --token '<me>' --perturbations 3 --mu 0.1",
        "--map all --weight-bits 4 --seed 3 --noise-offset 0.1 --timestep-sampling uniform --caption-dropout 0.1 --guidance 3",
    ],
)
def test_the_reports_command_repeats_the_run(options: str) -> None:
    words = ["finetune", "--model", "m", "--data", "d", "--output", "o", "--steps", "5", *shlex.split(options)]
    settings = pipeline_settings(build_parser(("finetune",)).parse_args(words))
    again = shlex.split(command_of(settings))[1:]
    assert pipeline_settings(build_parser(("finetune",)).parse_args(again)) == settings
