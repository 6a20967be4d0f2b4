"""Which seed is placed, which one is routed, and how rounds of rerouting end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loralith import cli, synth
from loralith.spec.config import Config
from loralith.synth import routing
from loralith.synth.nextpnr import Run

SMALL = Config("small", 2, 2, 8, 2, 1024, 1024, 1024, 512, scale_bytes=256, stat_slots=8)


def placement(seed: int, late: int, wire: int) -> synth.Placement:
    return synth.Placement(seed, 100.0 - late, 60.0, 9, 1000, late, [], wire, 1.0, "tool")


@pytest.mark.parametrize(("late", "placed"), [([0], [1]), ([3, 0], [1, 2]), ([3, 2, 1, 4], [1, 2, 3, 4])])
def test_seeds_are_placed_until_one_has_no_late_path(
    late: list[int], placed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    netlist = synth.Netlist(Path("x"), "", {}, dict.fromkeys(("lut", "ff", "dsp", "bram"), 1), {}, 0, [], 0.0, "pyosys")
    monkeypatch.setattr(synth, "synthesize", lambda target: netlist)
    monkeypatch.setattr(synth, "place", lambda target, netlist, seed: placement(seed, [*late, 0][seed - 1], 600))
    assert cli.main(["synth", "--board", "ulx3s-85f", "--place-only", "--output", str(tmp_path / "page"), "--json"]) == 0
    assert [int(seed) for seed in json.loads(capsys.readouterr().out)["expected_mhz"]] == placed


def test_the_placement_with_the_fewest_late_points_is_routed() -> None:
    tried = [placement(1, 12, 650), placement(2, 3, 640), placement(3, 3, 610), placement(4, 9, 600)]
    assert synth.best_placement(tried).seed == 3
    target = synth.Target(synth.load_board("ulx3s-85f"), SMALL, "compute")
    netlist = synth.Netlist(Path("x"), "", {}, dict.fromkeys(("lut", "ff", "dsp", "bram"), 1), {}, 0, [], 0.0, "pyosys")
    figures = synth.summary(target, netlist, (), tried)
    assert (figures["placed"]["seed"], figures["expected_mhz"]["4"], figures["wire_tiles"]["1"]) == (3, 91.0, 650)
    assert "| predicted after placement, seed 3 | 97.0 MHz | seed 1: 88.0, seed 2: 97.0, seed 4: 91.0 |" in synth.markdown(figures)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([(101.0, 0)], 0),
        ([(90.0, 9), (95.0, 3), (95.0, 2), (95.0, 2)], 2),
        ([(90.0, 9), (88.0, 4)], 0),
        ([(90.0 + i, 9) for i in range(routing.ROUNDS + 1)], routing.ROUNDS),
    ],
)
def test_late_paths_are_rerouted_while_that_gains(
    found: list[tuple[float, int]], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, rounds, ran = Run(tmp_path / "design", 5, "tool"), iter([*found, (200.0, 0)]), []
    report = {"fmax": {"clk": {"achieved": 50.0}}, "critical_paths": [], "utilization": {}}

    def step(target: synth.Target, command: str, run: Run, name: str, words: list[str], files: dict[str, str], prepare=lambda: None) -> Run:
        prepare()
        ran.append(run.stem.name)
        for suffix, content in ((".report.json", report), (".routed.json", {"path": [], "late": []})):
            run.stem.with_suffix(suffix).write_text(json.dumps(content), encoding="utf-8")
        return replace(run, seconds=10)

    monkeypatch.setattr(routing, "placed", lambda target, netlist, seed: start)
    monkeypatch.setattr(routing, "nextpnr", lambda: ("nextpnr", "tool"))
    monkeypatch.setattr(routing, "run_step", step)
    monkeypatch.setattr(routing, "_prepare_reroute", lambda target, start, before, run: ran.append(f"from {before.stem.name}"))
    monkeypatch.setattr(routing, "_wires", lambda start, run: (0.5, float(run.stem.name == ran[0])))
    monkeypatch.setattr(routing, "_round", lambda target, start, run: routing.Round(*next(rounds)))
    target = synth.Target(synth.load_board("ulx3s-85f"), SMALL, "compute", folder=tmp_path)
    result = synth.route(target, synth.Netlist.__new__(synth.Netlist), 1)
    names = [name for name in ran if not name.startswith("from")]
    assert len(names) == len(result.rounds) == len(found)
    assert [f"from {name}" for name in names[:-1]] == [name for name in ran if name.startswith("from")]
    assert (result.round, result.fmax_mhz, result.reported_mhz) == (best, {"clk": found[best][0]}, 50.0)
    assert result.wires == (0.5, 1.0), "of the first round"
    assert (result.config, result.seconds) == (tmp_path / f"{names[best]}.config", 5 + 10 * len(found))


@pytest.mark.parametrize("failing", [0, 2])
def test_a_round_that_finds_no_routes_leaves_the_best_one_before(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    ran: list[str] = []

    def step(target: synth.Target, command: str, run: Run, *rest: object) -> Run:
        if len(ran) == failing:
            raise synth.SynthError("nextpnr exited with 125\nRouting design failed")
        ran.append(run.stem.name)
        for suffix, content in (
            (".report.json", {"fmax": {"clk": {"achieved": 50.0}}, "critical_paths": [], "utilization": {}}),
            (".routed.json", {"path": [], "late": []}),
        ):
            run.stem.with_suffix(suffix).write_text(json.dumps(content), encoding="utf-8")
        return replace(run, seconds=10)

    monkeypatch.setattr(routing, "placed", lambda target, netlist, seed: Run(tmp_path / "design", 5, "tool"))
    monkeypatch.setattr(routing, "nextpnr", lambda: ("nextpnr", "tool"))
    monkeypatch.setattr(routing, "run_step", step)
    monkeypatch.setattr(routing, "_wires", lambda start, run: (0.5, 0.0))
    monkeypatch.setattr(routing, "_round", lambda target, start, run: routing.Round(90.0 + len(ran), 9))
    target = synth.Target(synth.load_board("ulx3s-85f"), SMALL, "compute", folder=tmp_path, progress=said.append)
    if not failing:
        with pytest.raises(synth.SynthError, match="nextpnr exited with 125"):
            synth.route(target, synth.Netlist.__new__(synth.Netlist), 1)
        return
    result = synth.route(target, synth.Netlist.__new__(synth.Netlist), 1)
    assert (result.round, result.fmax_mhz, len(result.rounds)) == (1, {"clk": 92.0}, 2)
    assert said[-1] == "reroute: round 2 found no routes, and the round before stays: nextpnr exited with 125"
