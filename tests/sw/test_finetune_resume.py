"""`loralith finetune --resume`: an interruption names it, a finished run takes more steps, contradictions are named."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from loralith import cli
from loralith import progress as interrupt
from loralith.cli import finetune as command
from loralith.formats.checkpoint import CheckpointError
from loralith.methods.options import HollowOptions, ZoodipOptions
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.training.loop import FinetuneResult, Interrupted, finetune
from loralith.training.resume import settings_record, stored_settings

pytestmark = pytest.mark.usefixtures("one_thread")

RESULTS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "samples.png")
SAME = ("losses", "held_out_loss", "sample_accuracy", "curve", "settings", "settings_hash")


def settings(folder: Path, model: Path, **changed) -> FinetuneSettings:
    evaluation = EvaluationSettings(rounds=1, samples=2, sample_steps=2)
    quick = {"steps": 6, "batch": 2, "curve_every": 2, "targets": ("attn2.to_k",), "model": model, "evaluation": evaluation}
    return FinetuneSettings(folder, **(quick | changed))


def assert_same_run(one: FinetuneResult, two: FinetuneResult) -> None:
    for name in RESULTS:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name
    for name in SAME:
        assert one.report[name] == two.report[name], name


def test_a_finished_run_takes_more_steps_to_the_bits_of_a_longer_one(small_model: Path, tmp_path: Path) -> None:
    long = finetune(settings(tmp_path / "long", small_model))
    short = settings(tmp_path / "short", small_model, steps=2)
    finetune(short)
    more = replace(short, steps=6)
    with pytest.raises(Interrupted):
        finetune(more, stop=lambda: True, resume=True)
    assert not (short.output / "report.json").exists(), "a run that goes on is not a finished one"
    assert_same_run(finetune(more, resume=True), long)
    with pytest.raises(CheckpointError, match=r"6 steps are done in .*; --steps must be at least that, not 5"):
        finetune(replace(short, steps=5), resume=True)


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        (HollowOptions(samples=8), 6, "of 2 steps prepares 2 batches before its first step and one of 6 steps 4"),
        (ZoodipOptions(mu=0.03, correlation=0.0), 6, "of 2 steps prepares 4 batches before its first step and one of 6 steps 6"),
    ],
)
def test_steps_that_were_prepared_otherwise_are_refused(
    small_model: Path, tmp_path: Path, options: HollowOptions | ZoodipOptions, steps: int, message: str
) -> None:
    method = "hollowed-net" if isinstance(options, HollowOptions) else "zoodip"
    told = settings(tmp_path / "out", small_model, steps=2, method=method, options=options)
    finetune(told)
    with pytest.raises(CheckpointError, match=message):
        finetune(replace(told, steps=steps), resume=True)
    assert (told.output / "report.json").exists()


def test_settings_come_back_from_the_checkpoint(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = settings(
        Path("out"), small_model, method="hollowed-net", options=HollowOptions(samples=4), rank_pattern={"to_k": 2}, dropout=0.5
    )
    with pytest.raises(Interrupted):
        finetune(told, stop=lambda: True)
    monkeypatch.chdir("/")
    found = stored_settings(tmp_path / "out")
    assert found is not None
    assert found[0] == replace(told, output=tmp_path / "out")
    assert settings_record(found[0]) == settings_record(told)


@pytest.fixture
def run(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command on the small model; `stop` after so many looks at it."""

    class Asked:
        def __init__(self, after: int) -> None:
            self.left = after

        def __enter__(self):
            return self.now

        def __exit__(self, *_: object) -> None:
            pass

        def now(self) -> bool:
            self.left -= 1
            return self.left == 0

    def call(*words: str, stop: int = 0) -> int:
        monkeypatch.setattr(interrupt, "stop_on_interrupt", lambda: Asked(stop))
        return cli.main(["finetune", *words])

    return call


NEW = ("--device", "fp32", "--steps", "4", "--samples", "2", "--batch", "2", "--rank", "3", "--alpha-pattern", "to_k=2", "--targets", "kv")


def test_the_command_that_an_interruption_prints_goes_on(
    run: Callable[..., int], small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = (*NEW, "--model", str(small_model))
    assert run(*new, "--output", str(tmp_path / "whole")) == 0
    assert run(*new, "--output", str(tmp_path / "a folder"), stop=2) == 130
    printed = re.search(r"stopped after step 2; to go on: (.*)\n", capsys.readouterr().err)
    assert printed
    program, name, *words = shlex.split(printed[1])
    assert (program, name) == ("loralith", "finetune")
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["loss"] == json.loads((tmp_path / "whole" / "report.json").read_text())["losses"]
    assert (tmp_path / "whole" / RESULTS[0]).read_bytes() == (tmp_path / "a folder" / RESULTS[0]).read_bytes()
    assert run(*words, "--steps", "5", "--rank", "3", "--json") == 0, "what does not contradict may be said again"
    assert len(json.loads(capsys.readouterr().out)["loss"]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rank", "8"), "--rank 8 contradicts the run in .*, which has 3"),
        (("--device", "direct"), "--device direct contradicts .*, which has fp32"),
        (("--targets", "to_q"), "--targets to_q contradicts .*, which has attn2.to_k,attn2.to_v"),
        (("--alpha-pattern", "to_k=4"), "--alpha-pattern to_k=4.0 contradicts .*, which has to_k=2.0"),
        (("--method", "tuneqdm"), "--method tuneqdm contradicts .*, which has lora"),
        (("--samples", "3"), "--samples 3 contradicts .*, which has 2"),
        (("--bits", "4"), "--bits is a setting of tuneqdm, not of lora"),
        (("--rslora",), "--rslora True contradicts .*, which has False"),
    ],
)
def test_an_option_that_contradicts_the_run_is_named(
    stopped: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    before = (stopped / "run.ckpt").read_bytes()
    assert run("--resume", "--output", str(stopped), *words) == 2
    assert re.search(message, capsys.readouterr().err)
    assert (stopped / "run.ckpt").read_bytes() == before


@pytest.fixture(scope="module")
def stopped(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of NEW that was stopped after its first step."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    parser = cli.build_parser(["finetune"])
    told = command.settings_of(parser.parse_args(["finetune", *NEW, "--model", str(small_model), "--output", str(folder)]))
    with pytest.raises(Interrupted):
        finetune(told, stop=lambda: True)
    return folder
