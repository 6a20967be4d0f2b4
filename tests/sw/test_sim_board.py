"""`loralith sim-board`: a fine-tune to the board's pins, the open board for other programs, and how both end."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loralith import cli
from loralith.board.bring_up import CHECKS, BringUp
from loralith.board.simulation import PinSimulation
from loralith.device.reference import ReferenceDevice
from loralith.spec.config import load_config
from loralith.spec.sdram import ULX3S
from loralith.training import board_run

TINY = load_config("tiny")
SHORT = ["--steps", "1", "--targets", "attn2.to_k"]
LIMIT = 120.0
"""Seconds for what takes some, on a machine that does other things too."""


def row(step: int, scale: int) -> dict:
    return {"step": step, "bytes_to_board": 30_000 * scale, "bytes_from_board": 30_000 * scale, "accelerator_cycles": 80_000 * scale}


def test_the_estimate_takes_the_steps_after_the_first() -> None:
    about = board_run.estimate([row(1, 3), row(2, 4), row(3, 5)], 80)  # the first one has two more for the set-up
    assert about is not None
    assert about["link_seconds_per_step"] == pytest.approx(0.2)  # 60,000 bytes of ten bits at 3 Mbaud
    assert about["accelerator_seconds_per_step"] == pytest.approx(0.001)
    assert about["seconds"] == pytest.approx(200 * 0.201)
    assert about["set_up_seconds"] == pytest.approx(0.4)
    assert about["link_share"] == pytest.approx(0.2 / 0.201)
    preloaded = board_run.estimate([row(1, 3), row(2, 4)], 80, preloaded=300_000)
    assert preloaded is not None
    assert preloaded["set_up_seconds"] == pytest.approx(0.4 + 1)
    assert preloaded["seconds"] == pytest.approx(about["seconds"])
    assert board_run.estimate([row(1, 3)], 80) is None


def test_a_whole_step_s_estimate_leaves_out_the_checkpoint_after_the_last_one() -> None:
    done = [row(1, 1) | {"bytes_to_board": 50_000}, row(2, 3) | {"bytes_to_board": 900_000}]
    starts = [{"bytes_to_board": 40_000, "bytes_from_board": 0}, {"bytes_to_board": 70_000, "bytes_from_board": 30_000}]
    about = board_run.estimate(board_run._start_to_start(starts, done), 80)
    assert about is not None
    assert about["link_seconds_per_step"] == pytest.approx(0.2)
    assert about["accelerator_seconds_per_step"] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "base"], "the board's memory controller has a bus of 8 bytes, and base one of 16"),
        (["--mhz", "200"], "mhz must be in 10..133, the memory chip's clock, not 200"),
        (["--baud", "30e6"], "3e+07 baud cannot be made of a clock of 8e+07 Hz"),
        (["--baud", "0"], "baud must be above 0, not 0"),
        (["--steps", "0"], "steps must be at least 1, not 0"),
        (["--digit", "3"], "digit must be 8 or 9"),
        (["--targets", "to_x"], "targets must be"),
        (["--map", "step", "--config", "tiny"], "--map step needs a vector unit, which tiny has not"),
        (["--listen", "--map", "step"], "--map does nothing with --listen, which trains nothing; leave it out"),
        (["--listen", "--steps", "3"], "--steps does nothing with --listen, which trains nothing; leave it out"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_built(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sim-board", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_step_to_the_pins_is_bit_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--map", "step", "--steps", "1", "--targets", "attn2.to_k", "--output", str(tmp_path / "run"), "--json"]
    assert cli.main(["sim-board", *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"] == "tiny-vector"
    assert result["bit_exact"] is True
    assert result["reference_losses_equal"] is True
    assert result["elements_compared"] > 0
    assert result["estimate"] is None, "of one step there is none"
    # The batch and 64 KiB of the set-up go over the line, most of the list does not.
    assert board_run.THROUGH_PINS < result["bytes_to_board"] < result["preloaded_bytes"]


@pytest.mark.slow
def test_a_step_to_the_pins_is_bit_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sim-board", *SHORT, "--output", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bit_exact"] is True
    assert result["reference_losses_equal"] is True
    assert result["elements_compared"] > 0
    assert len(result["losses"]) == 1
    assert 0 < result["accelerator_cycles"] < result["cycles"]
    assert 0 < result["line_cycles"] <= result["cycles"]
    # A byte takes ten bits of 80 / 20 cycles, and both directions may be busy at once.
    to, back = result["bytes_to_board"], result["bytes_from_board"]
    assert 40 * max(to, back) <= result["line_cycles"] + 40 <= 40 * (to + back) + 80
    assert result["refreshes"] > 0
    assert Path(result["adapter"]).is_file()


@pytest.mark.slow
def test_a_device_that_computes_something_else_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ReferenceDevice.read

    def wrong(self: ReferenceDevice, address: int, nbytes: int) -> np.ndarray:
        data = real(self, address, nbytes)
        data[0] ^= 1
        return data

    monkeypatch.setattr(ReferenceDevice, "read", wrong)  # the board's results stay, and are not the reference's any more
    assert cli.main(["sim-board", *SHORT, "--output", str(tmp_path / "run")]) == 1
    assert "NO, " in capsys.readouterr().out


@pytest.mark.slow
def test_a_broken_rule_of_the_chip_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = dataclasses.replace(ULX3S, rcd=90.0)
    monkeypatch.setattr(board_run, "PinSimulation", functools.partial(PinSimulation, chip=slow))
    monkeypatch.setattr(board_run, "PATIENCE", 2.0)
    assert cli.main(["sim-board", *SHORT, "--output", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "the memory chip's rules are broken: cycle" in told
    assert "after ACTIVE, at least 90 are needed" in told


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--listen", "--json"], ["--steps", "1"]], ids=["listening", "training"])
def test_ctrl_c_ends_it_and_the_board(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "loralith", "sim-board", *words]
    if "--listen" not in words:
        command += ["--output", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "bring-up" in line or "M cycles" in line:
                break
        else:
            pytest.fail("it said nothing")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its group
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "error: interrupted" in err
    if "--listen" in words:
        board = json.loads(out)["pid"]
        with pytest.raises(ProcessLookupError):
            os.kill(board, 0)


@pytest.mark.slow
def test_bring_up_passes_on_the_simulated_board() -> None:
    with PinSimulation(TINY) as board:
        outcomes = BringUp(TINY, board.port, patience=20.0, march_bytes=4096).run()
        assert [(outcome.name, outcome.ok, outcome.failure) for outcome in outcomes] == [(name, True, "") for name in CHECKS]
        assert board.stats()["violation"] == ""


@pytest.mark.slow
def test_bring_up_names_the_address_line_that_the_simulated_board_lacks() -> None:
    with PinSimulation(TINY, lines_low=[12]) as board:
        failed = BringUp(TINY, board.port, patience=20.0, march_bytes=4096).run()[2]
    assert failed.ok is False
    assert "address lines without effect: bit 24, pin A12 (row)" in failed.failure


@pytest.mark.slow
def test_a_board_that_has_ended_says_why() -> None:
    with PinSimulation(TINY, chip=dataclasses.replace(ULX3S, rfc=200.0)) as board:
        assert board.wait(LIMIT)
        with pytest.raises(Exception, match="the simulated board has ended: the memory chip's rules are broken"):
            board.stats()
