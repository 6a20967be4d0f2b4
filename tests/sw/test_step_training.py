"""Whole steps of a model on a device: what a run refuses before anything is computed, and how many steps it takes at once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from loralith.cli import build_parser, finetune, main
from loralith.cli.finetune_options import run_command
from loralith.device.reference import ReferenceDevice
from loralith.errors import LoralithError
from loralith.methods import make_method
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.spec.config import PRESETS
from loralith.training.session import Session
from loralith.training.step_training import StepTraining

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = replace(PRESETS["tiny"], name="tiny-lanes", vector_lanes=4)


def settings(folder: Path, model: Path, **more: Any) -> FinetuneSettings:
    quick = EvaluationSettings(rounds=1, samples=1, sample_steps=1)
    return FinetuneSettings(
        folder, model=model, batch=1, device="reference", config="tiny-vector", modules="step", evaluation=quick, **more
    )


def test_a_model_that_changes_between_steps_is_refused(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a compiled step depends on; the device has not run for the step that is refused."""
    told = settings(tmp_path, small_model)
    method = make_method(told, told.subject())
    training = StepTraining(ReferenceDevice(CONFIG, memory_bytes=1 << 20), 0, 1e-3)
    monkeypatch.setattr(StepTraining, "_compile", lambda self, method, step: None)
    training.program = object()  # type: ignore[assignment]  # compiled: what it ran is not looked at
    training.compiled_for(method)
    name, parameter = next(iter(method.parameters.items()))
    parameter.requires_grad_(False)
    with pytest.raises(LoralithError, match=rf"{name} is frozen \[.*\] and was trained \[.*attach the model anew"):
        training.train(method, 0)
    parameter.requires_grad_(True)
    block = method.model.get_submodule("base_model.model.mid_block")
    block.train(not block.training)
    with pytest.raises(LoralithError, match=r"base_model\.model\.mid_block is in .* mode and was in .* mode when the step was compiled"):
        training.train(method, 0)


def test_a_group_of_steps_is_what_the_session_counts(tmp_path: Path, small_model: Path) -> None:
    told = settings(tmp_path, small_model)

    class Three:
        def train(self, method: object, step: int, count: int) -> list[float]:
            return [float(step + i) for i in range(min(count, 3))]

    session = Session(told, make_method(told, told.subject()))
    session.attachment = Three()  # type: ignore[assignment]
    assert session.take_steps(4, 8) == [4.0, 5.0, 6.0]
    assert session.take_steps(4, 2) == [4.0, 5.0]


def test_a_whole_step_needs_a_vector_unit_and_takes_one_where_no_configuration_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before a device is opened, with what would do; without --config the usual one has lanes."""
    monkeypatch.setattr("loralith.device.open_device", lambda *_, **__: pytest.fail("a device was opened"))
    step = ["finetune", "--map", "step", "--device", "reference", "--output", str(tmp_path / "run")]
    assert main([*step, "--config", "tiny"]) != 0
    error = capsys.readouterr().err
    assert "modules 'step' need a vector unit, which tiny has not: tiny-vector, base-vector, or a file with vector_lanes" in error
    assert not (tmp_path / "run").exists()
    parser = build_parser()
    told = finetune.settings_of(parser.parse_args(step))
    assert told.config == "base-vector"
    args = parser.parse_args(["finetune"])
    assert "--config" not in run_command(told, args.parser)
    assert finetune.settings_of(args).config == "base"
