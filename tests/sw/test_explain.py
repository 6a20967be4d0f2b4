"""`loralith explain`: the plan of a layer, what else was tried, and a timeline that a trace viewer opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loralith.cli import main
from loralith.compiler.cycles import END_LATENCY
from loralith.compiler.schedules.training_step import Linear


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["explain", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("rank", [4, 32])
def test_the_chosen_plan_is_the_best_of_those_tried(rank: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "--layer", f"77,64,64,{rank}", "--config", "base")
    assert found["macs"] == Linear("", 77, 64, 64, rank).macs
    assert found["utilization"] == pytest.approx(found["macs"] / found["modelled_cycles"] / 256, rel=1e-3)
    for name in ("forward", "backward"):
        costs = [plan["cycles_per_token"] for plan in found["passes"][name]]
        assert costs == sorted(costs)
        assert len(costs) > 1


def test_the_trace_names_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    found = explained(capsys, "--layer", "16,32,32,4", "--config", "tiny", "--trace", str(path))
    events = [event for event in json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if event["ph"] == "X"]
    assert len(events) == found["commands"]
    assert {event["name"].split()[0] for event in events} >= {"left", "base", "skinny", "output"}
    assert max(event["ts"] + event["dur"] for event in events) == found["modelled_cycles"] - END_LATENCY


def test_a_layer_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--layer", "77,64"]) == 2
    assert "77,64" in capsys.readouterr().err
