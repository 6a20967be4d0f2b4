"""The generated diagrams: what cannot be drawn is refused by name, and the timing diagrams show what the blocks promise."""

from __future__ import annotations

from typing import Any

import pytest

from loralith.gen.diagrams import block_diagram, generate, timing_diagram
from loralith.gen.diagrams.timing_diagram import Wave, Waves
from loralith.gen.diagrams.waveforms import folded_tile, skid_buffer

BOXES = {"a": {"at": [0, 0], "size": [3, 2]}, "b": {"at": [9, 1], "size": [3, 2]}}


@pytest.mark.parametrize(
    ("boxes", "arrows", "named"),
    [
        ({}, [["a", "c"]], "there is no box c"),
        ({"c": {"at": [0, 9], "size": [2, 1], "text": "a long text"}}, [], "'a long text' does not fit into 2 x 1 cells"),
        ({"c": {"at": [0, 9], "size": [2, 1], "kind": "cloud"}}, [], "not cloud"),
        ({}, [["a", "b", "a label that is far too long"]], "is wider than"),
        ({}, [["a", "b", {"at": 7}]], "no straight line at 7"),
    ],
)
def test_what_cannot_be_drawn_is_named(boxes: dict[str, Any], arrows: list[Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        block_diagram.draw({"title": "t", "boxes": BOXES | boxes, "arrows": arrows})


def test_every_diagram_is_drawn_and_says_what_it_is() -> None:
    pictures = generate()
    assert {"docs/generated/machine.svg", "docs/generated/skid-buffer.svg"} <= pictures.keys()
    assert [path for path, text in pictures.items() if "<title>" not in text] == []


def test_a_signal_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="b has 2 cycles, and a has 1"):
        timing_diagram.draw(Waves("t", [Wave("a", [1]), Wave("b", [1, 0])]))


def test_the_skid_buffer_loses_no_word() -> None:
    waves = {wave.name: wave.values for wave in skid_buffer().waves}
    taken: dict[str, list[Any]] = {}
    for side in "io":
        cycles = zip(*(waves[f"{side}.{name}"] for name in ("valid", "ready", "payload")), strict=True)
        taken[side] = [word for valid, ready, word in cycles if valid and ready]
    assert 0 in waves["i.ready"], "the picture shows backpressure"
    assert taken["o"] == taken["i"][: len(taken["o"])]
    assert len(taken["o"]) >= 4


def test_the_folded_tile_takes_fewer_steps() -> None:
    waves = {wave.name: wave.values for wave in folded_tile().waves}
    last = [i for i, value in enumerate(waves["last"]) if value]
    assert len(last) == 2
    assert [sum(waves["valid"][: last[0] + 1]), sum(waves["valid"][last[0] + 1 :])] == [5, 3]
