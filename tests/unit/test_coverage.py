"""What Verilator counted becomes points of blocks; waivers are true or refused; the page counts what is missing."""

from collections import Counter
from pathlib import Path

import pytest

from loralith.errors import LoralithError
from loralith.reports.coverage_report import figures_of, page, problems
from loralith.soak import SoakError
from loralith.soak.coverage.points import Point, merge, read_points
from loralith.soak.coverage.waivers import read_waivers

HEAD = "# SystemC::Coverage-3\n"


def counted(page: str, what: str, count: int, hierarchy: str = "TOP.loralith") -> str:
    fields = {"f": "loralith.v", "l": "7", "n": "3", "t": "x", "page": page, "o": what, "h": hierarchy}
    return "C '" + "".join(f"\x01{name}\x02{value}" for name, value in fields.items()) + f"' {count}\n"


COUNTS = (
    counted("v_toggle/\\loralith.ppu ", "busy:0->1", 2)
    + counted("v_toggle/\\loralith.ppu ", "busy:1->0", 0)
    + counted("v_line/\\loralith.ppu ", "block", 4)
    + counted("v_branch/loralith", "if", 0)
    + counted("v_user/loralith", "cover", 1)
)


def test_points_are_of_blocks_and_kinds() -> None:
    points = read_points(HEAD + COUNTS)
    assert points == {
        Point("toggle", "ppu", "busy:0->1"): 2,
        Point("toggle", "ppu", "busy:1->0"): 0,
        Point("line", "ppu", "7 block"): 4,
        Point("branch", "top", "7 if"): 0,
    }
    assert len(points) == 4, "what nothing reached counts too"


def test_instances_of_a_module_and_runs_add_up() -> None:
    text = HEAD + counted("v_toggle/a", "b", 2, "TOP.one") + counted("v_toggle/a", "b", 3, "TOP.two")
    total = read_points(text)
    merge(total, read_points(text))
    assert total == {Point("toggle", "a", "b"): 10}


@pytest.mark.parametrize("text", ["", "{}", HEAD + "C 'x'\n"])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(SoakError, match="no counts of Verilator's coverage"):
        read_points(text)


def waivers(tmp_path: Path, *entries: str):
    path = tmp_path / "waivers.toml"
    path.write_text("".join(f"[[waiver]]\n{entry}\n" for entry in entries), encoding="utf-8")
    return read_waivers(path)


def test_waivers_are_left_out_and_must_be_true(tmp_path: Path) -> None:
    counts = read_points(HEAD + COUNTS)
    none = figures_of(counts, {"lists": 1}, [])
    assert [none[kind]["percent"] for kind in ("line", "branch", "toggle")] == [100.0, 0.0, 50.0]
    assert [text.split(" is ")[0] for text in problems(none)] == ["branch coverage", "toggle coverage"]
    good = waivers(tmp_path, 'points = "toggle ppu busy:1->0"\nreason = "it never ends"', 'points = "branch top .*"\nreason = "dead"')
    figures = figures_of(counts, {"lists": 1}, good)
    assert ([figures[kind]["percent"] for kind in ("line", "branch", "toggle")], problems(figures)) == ([100.0] * 3, [])
    text = "\n".join(page({"config": "tiny", "seed": 1, **figures}))
    assert "it never ends" in text
    assert "- ppu" not in text
    assert "- ppu, toggle: `busy:1->0`" in "\n".join(page({"config": "tiny", "seed": 1, **none}))


def test_a_block_with_much_that_is_not_reached_shows_the_first_points() -> None:
    text = HEAD + "".join(counted("v_toggle/a", f"b[{bit}]", 0) for bit in range(20))
    figures = figures_of(read_points(text), {}, [])
    (row,) = figures["blocks"]
    assert (row["toggle"]["missed"], len(row["toggle"]["shown"])) == (20, 12)
    assert "and 8 more" in "\n".join(page({"config": "tiny", "seed": 1, **figures}))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("toggle ppu busy.*", "says that nothing reaches 'toggle ppu busy:0->1', and something does"),
        ("toggle ppu gone", "fits no point of the design; remove it"),
    ],
)
def test_a_waiver_that_is_not_true_is_a_problem(tmp_path: Path, entry: str, problem: str) -> None:
    figures = figures_of(read_points(HEAD + COUNTS), {}, waivers(tmp_path, f'points = "{entry}"\nreason = "r"'))
    assert any(problem in text for text in problems(figures))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('points = "a"', "waiver 1: it must have the texts `points` and `reason`, not points"),
        ('points = "("\nreason = "r"', "waiver 1: '\\(' is no regular expression"),
        ('points = "a"\nreason = " "', "waiver 1: it must have the texts"),
    ],
)
def test_a_faulty_waiver_is_named(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(LoralithError, match=message):
        waivers(tmp_path, entry)


def test_the_waivers_of_the_design_can_be_read(repo: Path) -> None:
    assert isinstance(read_waivers(repo / "verif" / "coverage.toml"), list)
    assert Counter(waiver.reason == "" for waiver in read_waivers(repo / "verif" / "coverage.toml"))[True] == 0
