"""Steps that are compiled piece by piece: pieces are the whole graph, equal ones are known, each gives the bits of its graph."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")

from helpers.tiny_unet import CONFIG as UNET
from loralith.compiler.step import cuts, pieces
from loralith.compiler.step.compile import SOURCES, compile_step
from loralith.compiler.step.estimate import estimate, modelled
from loralith.compiler.tokens.sync import synchronize
from loralith.device.reference import ReferenceDevice
from loralith.diffusion.published import find_model
from loralith.errors import LoralithError
from loralith.spec.config import PRESETS
from loralith.spec.graph import Graph, Kind, Op
from loralith.step.builder import Builder
from loralith.step.by_block import Block, _linear, blocks_of, graph_macs, step_by_block
from loralith.step.piece_runs import run_piece
from loralith.step.step_work import step_graph

TINY = replace(PRESETS["tiny"], name="tiny-lanes", vector_lanes=4)
BASE = replace(PRESETS["base"], name="base-lanes", vector_lanes=16)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = tmp_path_factory.mktemp("unet")
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **UNET}))
    return step_graph(find_model(str(folder)), targets=("to_q", "to_k", "to_v"), rank=2, batch=1)


@pytest.fixture(scope="module")
def blocks(graph: Graph) -> dict[str, Block]:
    return blocks_of(graph, TINY, {}, lambda key, figures: None)


def test_pieces_are_the_graph_in_an_order_in_which_they_can_run(graph: Graph) -> None:
    there: set[str] = set()
    names: list[str] = []
    for piece in cuts.cut(graph):
        assert set(piece.given) <= there
        assert all(graph[name].op in SOURCES for name in piece.sources)
        there |= set(piece.results)
        names += [node.name for node in piece.nodes]
    assert sorted(names) == sorted(node.name for node in graph.nodes.values() if node.op not in SOURCES)
    assert set(graph.outputs.values()) <= there


def test_every_distinct_piece_gives_the_bits_of_its_graph(blocks: dict[str, Block]) -> None:
    assert sum(run_piece(block.structure.text, TINY, "reference").elements for block in blocks.values()) > 50_000


def test_pieces_that_ran_count_with_the_share_that_they_stand_for(graph: Graph, tmp_path: Any) -> None:
    """As they are in a step, without what a verified one keeps; the shortest first, and a state file has those that ran."""
    cycles: list[int] = []

    def run(text: str) -> tuple[int, int] | None:
        if len(cycles) == 12:
            return None
        found = run_piece(text, TINY, "reference", verify=False)
        cycles.append(found.elements)
        return 20_000, found.elements

    state = tmp_path / "state.json"
    total, blocks = step_by_block(graph, TINY, {}, state, run=run)
    ran = [block for block in blocks.values() if "measured" in block.figures]
    assert len(ran) == 12 == total["measured_pieces"]
    longest = max(block.figures["cycles"] for block in ran)
    assert all(block.figures["cycles"] >= longest for block in blocks.values() if "measured" not in block.figures)
    share = sum(block.count * block.structure.times * block.figures["cycles"] for block in ran) / total["cycles"]
    assert 0 < total["measured_cycles_share"] == share < 1
    assert total["measured_elements"] == sum(cycles)
    assert total["measured_cycles"] == sum(20_000 * block.count * block.structure.times for block in ran)
    assert total["model_error_of_sum"] == share * total["cycles"] / total["measured_cycles"] - 1
    errors = [block.figures["cycles"] / 20_000 - 1 for block in ran]
    assert total["model_error"] == max(errors, key=abs)
    again, _ = step_by_block(graph, TINY, {}, state, run=lambda text: None)
    assert again["measured_cycles_share"] == share


def test_a_piece_whose_results_differ_is_named(blocks: dict[str, Block], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list without what a verified one keeps: a device that forgets one byte of the first result."""
    block = next(block for block in blocks.values() if block.first.startswith("AdamW"))
    read = ReferenceDevice.read

    def forgets(self: ReferenceDevice, address: int, size: int) -> np.ndarray:
        data = read(self, address, size)
        data[2] ^= 0xFF
        return data

    monkeypatch.setattr(ReferenceDevice, "read", forgets)
    with pytest.raises(LoralithError, match="the device differs from the graph's interpretation at"):
        run_piece(block.structure.text, TINY, "reference", verify=False)


def test_equal_pieces_are_compiled_once_and_all_of_them_take_what_the_whole_step_takes(graph: Graph, blocks: dict[str, Block]) -> None:
    """The same work by kind, but for what each piece brings anew and what tiles of the whole step find on chip; more cycles, since nothing
    overlaps over a cut."""
    total, _ = step_by_block(graph, TINY, {})
    assert total["distinct_pieces"] == len(blocks) < total["pieces"]
    updates = [block.count for block in blocks.values() if block.first == "AdamW"]
    assert len(updates) < sum(updates) == sum(what.startswith("gradient.") for what in graph.outputs)
    compiled = compile_step(graph, TINY, 0, 1 << 26, 0)
    whole = estimate(compiled)
    cycles = modelled(synchronize(compiled.commands, TINY, compiled.static), compiled).cycles
    assert cycles <= total["cycles"] <= 1.2 * cycles
    assert total["macs"] == graph_macs(graph) <= total["padded_macs"] == whole.of("macs")
    for kind, costs in whole.kinds.items():
        assert total["kinds"][kind]["elements"] == pytest.approx(costs.elements, rel=0.07)
        for unit in ("array", "vector", "store"):
            assert total["kinds"][kind][unit] == pytest.approx(getattr(costs, unit), rel=0.05, abs=1500)
        # Scalars and programs of each piece are loaded anew.
        assert total["kinds"][kind]["load"] == pytest.approx(costs.load, rel=0.05, abs=200 * total["pieces"])


def test_a_state_file_holds_what_is_done(graph: Graph, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state.json"
    first, _ = step_by_block(graph, TINY, {"model": "tiny"}, state)

    def again(*arguments: object) -> None:
        raise AssertionError("a piece was compiled again")

    monkeypatch.setattr("loralith.step.by_block.write_tiles", again)
    second, _ = step_by_block(graph, TINY, {"model": "tiny"}, state)
    assert first | {"compile_seconds": 0} == second | {"compile_seconds": 0}
    with pytest.raises(Exception, match="model 'tiny' \\(now 'other'\\)"):
        step_by_block(graph, TINY, {"model": "other"}, state)


def attention(heads: int) -> Graph:
    """Heads that lie within bus words, softmax, and a gradient that is rounded by the largest of all heads."""
    b = Builder()
    scale = b.node(Op.INPUT, Kind.WORD, (), name="scale")
    x, keys = (
        b.reshape(
            b.permute(
                b.reshape(b.quantize(b.node(Op.INPUT, Kind.WORD, (n, heads * 12), name=name), scale, 127, False), (1, n, heads, 12)),
                (0, 2, 1, 3),
            ),
            (heads, n, 12),
        )
        for name, n in (("x", 32), ("k", 20))
    )
    z = b.multiply(b.word(b.matmul(x, b.permute(keys, (0, 2, 1)))), 0.001953125)
    e = b.function(Op.EXP2, b.subtract(z, b.maximum(z, -1)))
    p = b.quantize(b.multiply(e, 127.0), 1.0, 127, stochastic=False)
    s = b.brain(b.multiply(b.word(p), b.function(Op.RECIPROCAL, b.count(p, -1))))
    q = b.quantize(s, b.scale(b.largest(s), 127), 127, True, 1)
    b.graph.set_output("loss", b.word(b.matmul(q, keys)).name)
    return b.graph


def test_heads_are_compiled_as_one_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(heads: int) -> dict[str, Block]:
        for module in (cuts, pieces):  # S alone is large
            monkeypatch.setattr(module, "LARGE", 32 * 16 * heads)
        return blocks_of(attention(heads), BASE, {}, lambda key, figures: None)

    one, many = of(2), of(6)
    scores = [[block for block in found.values() if block.structure.times > 1] for found in (one, many)]
    assert [len(found) for found in scores] == [1, 1]
    assert [found[0].structure.times for found in scores] == [2, 6]
    assert scores[0][0].figures["cycles"] == scores[1][0].figures["cycles"]
    assert any("padded" in block.structure.text for block in many.values())
    for block in many.values():
        run_piece(block.structure.text, BASE, "reference")


def test_figures_of_parts_that_add_up_add_up_in_the_whole() -> None:
    """Some fall with the part's length."""
    short, long = {"works": 10, "waits": 30, "all": 40}, {"works": 70, "waits": 26, "all": 96}
    whole = _linear(short, long)
    assert whole["works"] + whole["waits"] == pytest.approx(whole["all"], abs=1)
    assert whole == {"works": 310, "waits": 10, "all": 320}
    assert _linear({"waits": 30}, {"waits": 0}) == {"waits": 0}


def test_long_kernels_go_on_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is that of the whole list where kernels have whole parts, but for scalars that are loaded again, and for operands, which a
    kernel's first tiles bring and later ones find there; cycles are close."""
    b = Builder()
    x = b.quantize(b.node(Op.INPUT, Kind.WORD, (2048, 64), name="x"), 0.0625, 127, False)
    w = b.quantize(b.node(Op.INPUT, Kind.WORD, (64, 1024), name="w"), 0.0625, 127, False)
    y = b.brain(b.multiply(b.word(b.matmul(x, w)), 0.0078125))
    b.graph.set_output("loss", b.brain(b.multiply(y, b.add(b.function(Op.EXP2, y), 1.0))).name)
    b.graph.set_output("largest", b.largest(y).name)
    monkeypatch.setattr("loralith.compiler.step.samples.LONG", 64)
    (whole,), (part,) = (blocks_of(b.graph, BASE, {}, lambda key, figures: None, sample).values() for sample in (0, 500))
    assert whole.figures["kinds"]["product"]["load"] <= part.figures["kinds"]["product"]["load"]
    for work in ("elements", "macs", "store", "array", "vector"):
        assert part.figures["kinds"]["product"][work] == whole.figures["kinds"]["product"][work]
    assert part.figures["cycles"] == pytest.approx(whole.figures["cycles"], rel=0.03)
    assert part.figures["commands"] == pytest.approx(whole.figures["commands"], rel=0.07)
    assert part.figures["layout"] == whole.figures["layout"]
    assert part.figures != whole.figures
