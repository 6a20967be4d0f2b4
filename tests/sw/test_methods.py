"""All training methods: the same bits on the simulated hardware, files, figures, and settings of one method given to another."""

import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

import loralith
from loralith.cli import main
from loralith.methods import TABLE
from loralith.methods.options import OPTIONS, HollowOptions, TuneqdmOptions, ZoodipOptions
from loralith.methods.settings import METHODS, EvaluationSettings, FinetuneSettings
from loralith.training.attaching import attacher
from loralith.training.loop import finetune

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {
    "lora": OPTIONS["lora"](),
    "hollowed-net": HollowOptions("down_blocks.2,mid_block,up_blocks.0", samples=1, boundary="int8"),
    "tuneqdm": TuneqdmOptions(bits=8, experts=1),
    "zoodip": ZoodipOptions(perturbations=1, mu=0.1),
}
RESULTS = {"lora": "adapter_model.safetensors", "tuneqdm": "scales.safetensors", "zoodip": "token.safetensors"}


def test_every_method_has_its_parts() -> None:
    assert set(METHODS) == set(TABLE) == set(OPTIONS) == set(QUICK)


@pytest.mark.parametrize("method", METHODS)
def test_hardware_and_reference_give_the_same_losses_and_files(tmp_path: Path, small_model: Path, method: str) -> None:
    results = []
    for name in ("direct", "verilator"):
        settings = FinetuneSettings(
            tmp_path / name,
            method=method,
            options=QUICK[method],
            model=small_model,
            steps=1,
            batch=1,
            modules="all",
            device="reference",  # the settings' text, which is part of a report's identity
            config="tiny",
            evaluation=EvaluationSettings(rounds=1, samples=1, sample_steps=1),
        )
        with loralith.open_device(name, config="tiny") as device:
            results.append(finetune(settings, attacher(device, verify=False)))
    one, two = results
    for key in ("losses", "held_out_loss", "settings_hash", "trained"):
        assert one.report[key] == two.report[key], key
    assert two.report["counters"]["macs"] > 0
    result = RESULTS.get(method, RESULTS["lora"])
    assert one.report["result"] == result
    for path in [Path(result), *(path.relative_to(one.folder) for path in (one.folder / "boundary").glob("*"))]:
        assert (one.folder / path).read_bytes() == (two.folder / path).read_bytes(), path


def test_a_setting_of_another_method_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main(["finetune", "--method", "zoodip", "--experts", "2", "--output", str(folder)]) == 2
    assert "--experts is a setting of tuneqdm, not of zoodip" in capsys.readouterr().err
    assert main(["finetune", "--method", "tuneqdm", "--bits", "3", "--output", str(folder)]) == 2
    assert "bits must be 4 or 8, not 3" in capsys.readouterr().err
    assert not folder.exists()


def test_the_command_line_gives_options_and_prints_what_was_prepared(tmp_path: Path, small_model: Path, capsys) -> None:
    told = ["finetune", "--method", "zoodip", "--device", "fp32", "--map", "lora", "--model", str(small_model), "--steps", "2"]
    told += ["--mu", "0.01", "--samples", "1", "--output", str(tmp_path / "out"), "--json"]
    assert main(told) == 0
    found = capsys.readouterr()
    figures = json.loads(found.out)
    assert figures["prepared"]["mu"] == 0.01
    assert figures["prepared"]["correlation"]["0.01"] > 0.95
    assert "mu 0.01: correlation" in found.err
    assert figures["adapter"].endswith("token.safetensors")
