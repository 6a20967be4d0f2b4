"""Tables at the width of a terminal, and what slow work says of itself."""

import logging
import re

import pytest

from loralith import progress
from loralith.cli import output
from loralith.cli.text_tables import table_lines

COLUMNS = ("layer", "x", "MACs", "cycles", "waits for load", "note")
ROWS = [
    ["text 77x768->320", "10", "196,922,880", "209,889", "0.05%", "a sentence of more than four words"],
    ["attn 4096x320", "5", "1,514,236,416", "1,613,939", "12.50%", "another sentence of some words"],
]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_no_word_of_a_table_is_broken_at_any_width(width: int) -> None:
    lines = table_lines("title", COLUMNS, ROWS, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for row in ROWS:
        for cell in row[:-1]:
            assert re.search(rf"(?<!\S){re.escape(cell)}(?!\S)", text), cell
        assert all(word in text.split() for word in row[-1].split())
    assert all(word in text.split() for heading in COLUMNS for word in heading.split())


def test_a_table_that_fits_is_one_line_a_row() -> None:
    assert table_lines("t", ("a", "b"), [["1", "22"], ["333", "4"]], 80) == ["t", "a    b", "-------", "1    22", "333  4"]


def test_columns_that_do_not_fit_follow_with_the_first_one_in_front() -> None:
    lines = table_lines("t", ("name", "one", "two"), [["n" * 8, "1" * 10, "2" * 10]], 20)
    assert [line.split()[0] for line in lines if line] == ["t", "name", "-" * 20, "n" * 8, "name", "-" * 20, "n" * 8]


def test_a_long_path_sticks_out_and_moves_nothing() -> None:
    lines = table_lines("t", ("tool", "where"), [["g++", "/usr/bin/" + "long/" * 20], ["make", "/usr/bin/make"]], 60)
    assert [line.split() for line in lines[3:]] == [["g++", "/usr/bin/" + "long/" * 20], ["make", "/usr/bin/make"]]


def test_the_width_is_the_terminal_s(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    output.table("t", COLUMNS, ROWS)
    assert len(capsys.readouterr().out.splitlines()) == 6, "no terminal: nothing to fit to"
    monkeypatch.setenv("COLUMNS", "50")
    output.table("t", COLUMNS, ROWS)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50


def test_slow_work_says_what_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter([0.0, 2.0, 6.0, 8.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "loralith"):
        steps = progress.Steps("plans", 4)
        for _ in range(4):
            steps.step()
    assert caplog.messages == ["plans: 2 of 4, about 6 s left"], "not at once, not twice in a short time, not at the end"


def test_work_without_steps_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "loralith"):
        seen = []

        def message(seconds: float) -> str:
            seen.append(seconds)
            return "still at it"

        with progress.every(0.01, message):
            for _ in range(1000):
                if len(seen) >= 2:
                    break
                progress.time.sleep(0.01)
    assert caplog.messages[:2] == ["still at it"] * 2


def test_the_command_line_prints_progress_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_progress()
    output.show_progress()
    progress.tell("a model is built")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a model is built\n")
