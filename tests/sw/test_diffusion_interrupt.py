"""Ctrl-C, and a pre-training that is cut off."""

import signal
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from loralith.diffusion.pretraining import PretrainSettings, pretrain, resumed_settings
from loralith.diffusion.unet import TOKENS_FILE, WEIGHTS_FILE
from loralith.formats.checkpoint import CheckpointError
from loralith.progress import stop_on_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_to_stop(number: int) -> None:
    before = signal.getsignal(number)
    with stop_on_interrupt() as asked:
        assert not asked()
        signal.raise_signal(number)
        assert asked()
    assert signal.getsignal(number) is before


def test_second_interrupt_stops_at_once() -> None:
    with stop_on_interrupt():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_pretraining_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings = PretrainSettings(steps=5, batch=4, checkpoint_every=2)
    pretrain(settings, tmp_path / "whole")

    class Cut(Exception):
        pass

    def cut(step: int, _loss: float, _rate: float) -> None:
        if step == 3:
            raise Cut

    with pytest.raises(Cut):
        pretrain(settings, tmp_path / "cut", progress=cut)
    steps: list[int] = []
    assert resumed_settings(tmp_path / "cut", steps=None, seed=None) == settings
    with pytest.raises(CheckpointError, match=r"--steps 9 contradicts .*, which has 5: the learning rate follows them"):
        resumed_settings(tmp_path / "cut", steps=9, seed=None)
    with pytest.raises(CheckpointError, match=r"--seed 1 contradicts .*, which has 0"):
        resumed_settings(tmp_path / "cut", steps=5, seed=1)
    pretrain(settings, tmp_path / "cut", resume=True, progress=lambda step, _loss, _rate: steps.append(step))
    assert steps == [3, 4, 5]
    for name in (WEIGHTS_FILE, TOKENS_FILE):
        assert (tmp_path / "cut" / "unet" / name).read_bytes() == (tmp_path / "whole" / "unet" / name).read_bytes()
    assert not list(tmp_path.glob("*/pretrain.ckpt"))
