"""What `loralith sim` prints: something that moves in the steps that it ran, and nothing that these cannot show."""

import argparse

import pytest

from loralith.cli import sim

ARGS = argparse.Namespace(config="base", output=sim.Path("build/sim"), digit=8, rank=4, seed=0)


def report(before: float, after: float, accuracy: float) -> dict:
    return {
        "counters": {"bit_exact": True, "elements_compared": 10, "cycles": 100, "macs": 50, "utilization": 0.37},
        "held_out_loss": {"before": before, "after": after},
        "sample_accuracy": {"before": 0.025, "after": accuracy},
    }


def shown(steps: int, capsys: pytest.CaptureFixture[str]) -> str:
    result = sim.summarize(report(0.08, 0.06, 0.5), report(0.08, 0.058, 0.6), ARGS, steps, 70.0)
    sim.print_summary(result)
    return capsys.readouterr().out


def test_few_steps_show_the_loss_and_no_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(sim.RECOGNIZED_FROM - 1, capsys)
    assert "-25.0%" in text
    assert "-27.5%" in text
    assert "50%" not in text
    assert f"says little before some {sim.RECOGNIZED_FROM} steps" in text
    assert "layer by layer" in text


def test_enough_steps_show_the_accuracy_too(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(sim.RECOGNIZED_FROM, capsys)
    assert "50%" in text
    assert "says little" not in text


def test_the_command_of_a_run_names_its_steps() -> None:
    assert sim._command(ARGS, 17) == "loralith sim --config base --steps 17 --digit 8 --rank 4 --seed 0"
