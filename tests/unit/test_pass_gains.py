"""What each placement pass gains: which variants are placed, and what comes of their clocks."""

from pathlib import Path

import pytest

from loralith import synth
from loralith.spec.config import load_config
from loralith.synth import pass_gains
from loralith.synth.target import OPTIONAL_PASSES

CLOCKS = {(): 100.0, ("carry",): 80.0, ("fanout",): 125.0, ("register_packing",): 100.0, ("macros",): 100.0}


@pytest.fixture
def target(tmp_path: Path) -> synth.Target:
    return synth.Target(synth.load_board("ulx3s-85f"), load_config("tiny"), "compute", folder=tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], int, int]]:
    """(left out, placements, seed) of each placement that is asked for; the design does not place without whitespace."""
    found: list[tuple[tuple[str, ...], int, int]] = []

    def place(variant: synth.Target, netlist: object, seed: int) -> synth.Placement:
        left_out = tuple(variant.without)
        found.append((left_out, variant.placements, seed))
        if left_out == ("whitespace",):
            raise synth.SynthError("nextpnr exited with 1\nmore lines")
        mhz = CLOCKS[left_out] + seed
        return synth.Placement(seed, mhz, mhz / 2, 7, 1000, 3, [], 500 if left_out else 400, 1.0, "nextpnr")

    monkeypatch.setattr(pass_gains, "synthesize", lambda variant: None)
    monkeypatch.setattr(pass_gains, "place", place)
    return found


def test_each_pass_is_left_out_once_a_seed_and_macros_between_two_placements(target: synth.Target, asked: list) -> None:
    pass_gains.measure_passes(target, [1, 2])
    singles = [((), 1), *(((name,), 1) for name in OPTIONAL_PASSES if name != "macros")]
    assert asked == [(left_out, number, seed) for seed in (1, 2) for left_out, number in [*singles, ((), 2), (("macros",), 2)]]


def test_gains_compare_means_with_and_without_a_pass(target: synth.Target, asked: list) -> None:
    seen: list[int] = []
    figures = pass_gains.measure_passes(target, [1, 2], keep=lambda found: seen.append(len(found["runs"])))
    assert seen == list(range(1, 15))
    gains = {gain["pass"]: {name: value for name, value in gain.items() if name != "pass"} for gain in figures["gains"]}
    assert list(gains) == ["register_packing", "carry", "fanout", "macros", "relocate"]
    assert gains["carry"] == {"seeds": 2, "clock": 24.5, "clock_before_relocation": 24.5, "wire": -20.0}  # 101.5 / 81.5, 400 / 500
    assert gains["fanout"]["clock"] == -19.8  # 101.5 / 126.5
    assert gains["relocate"] == {"seeds": 2, "clock": 100.0}
    page = "\n".join(pass_gains.page(figures))
    assert "| whitespace | 1 | 2 | not placed: nextpnr exited with 1 | | | |" in page
    assert "| carry | 2 | +24.5 % | +24.5 % | -20.0 % |" in page
    assert "| relocate | 2 | +100.0 % |  |  |" in page


def test_a_board_that_another_tool_places_is_refused(tmp_path: Path) -> None:
    target = synth.Target(synth.load_board("kv260"), load_config("tiny"), "compute", folder=tmp_path)
    with pytest.raises(synth.SynthError, match="kv260 is for vivado, which is not run here; ulx3s-85f is placed"):
        pass_gains.measure_passes(target, [1])


def test_a_pass_that_does_not_exist_is_refused(target: synth.Target) -> None:
    with pytest.raises(
        synth.SynthError, match="no pass is called spread; register_packing, carry, fanout, whitespace, macros may be left out"
    ):
        synth.Target(target.board, target.config, without=frozenset({"spread"}))
