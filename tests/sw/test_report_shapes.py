"""`loralith report shapes`: the page and its pictures say what the runs say."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import loralith
from loralith.cli import main
from loralith.compiler.schedules.training_step import Linear
from loralith.errors import LoralithError
from loralith.reports import results_report
from loralith.reports.result_files import REPO
from loralith.reports.rtl_hash import hash_of, rtl_hash
from loralith.shapes import peers, plots, shapes_report
from loralith.shapes.measured_run import modelled, modelled_text, run_once, total, weight_stationary_cycles
from loralith.shapes.published_models import BESIDE_LORA, MODELS, image_linears, step_linears, text_linears
from loralith.spec.config import load_config


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    found = []
    for rank in (2, 4):
        config = load_config("base")
        texts = [Linear("text", 7, 32, 48, rank, dx=False)] * 2
        figures = total([modelled(Linear("image", 32, 48, 48, rank), 3, config), modelled_text(texts, config)], config)
        about = {"config": "base", "rows": 16, "cols": 16, "bus_bytes": 16, "model": "sd15", "rank": rank, "subset": "all"}
        found.append(about | {"date": "2000-01-01", "commit": "abc", "command": "bench", "dataflow": "flexible"} | figures)
    return found


def test_sums_are_those_of_the_layers(runs: list[dict]) -> None:
    for run in runs:
        assert run["macs"] == sum(layer["macs"] for layer in run["layers"])
        assert sum(layer["cycles"] for layer in run["layers"]) == pytest.approx(run["cycles"], abs=2)
        assert run["utilization"] == run["macs"] / (256 * run["cycles"])
        assert [layer["count"] for layer in run["layers"]] == [3, 2]


@pytest.mark.parametrize("model", list(MODELS))
def test_what_k_and_v_read_again_is_x_forward_and_in_da(model: str) -> None:
    of_image = [(linear, count, True) for linear, count in image_linears(model, 4).items()]
    of_text = [(linear, 1, False) for linear in text_linears(model, 4)]
    run = {"layers": [{"dx": dx, "count": count, "tokens": one.T, "inputs": one.I} for one, count, dx in of_image + of_text]}
    again = [one for one in step_linears(model, 4) if one.name.endswith(("attn1.to_k", "attn1.to_v"))]
    assert shapes_report.read_again(run) == sum(2 * one.T * one.I for one in again) > 0


def test_weight_stationary_keeps_the_better_operand() -> None:
    """H, XW, HB, dH, dB, dA of T = 16, I = 32, O = 16, r = 1 on 16 x 16, by hand: min over the operand that stays."""
    linear = Linear("small", 16, 32, 16, 1, dx=False)
    # H: 2 tiles x max(16, 16) = 32 either way; XW: 2 x 16; HB: 1 x 16; dH: 1 x 16; dB: 1 x 16; dA: 1 tile x 32 rows, or 2 x 16.
    assert weight_stationary_cycles(linear, load_config("base")) == 32 + 32 + 16 + 16 + 16 + 32


def test_page_and_pictures(runs: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for i, run in enumerate(runs):
        (folder / f"{i}.json").write_text(json.dumps(run), encoding="utf-8")
    assert main(["report", "shapes", "--folder", str(folder), "--output", str(tmp_path / "out" / "shapes"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    page = (tmp_path / "out" / "shapes.md").read_text(encoding="utf-8")
    for run in runs:
        assert f"| {run['macs']:,} | {run['cycles']:,} | {run['utilization']:.2%} |" in page
    assert "SCALE-Sim | 16 x 16 | OS | sd15 | all | 4 | 359,769,672 | 86.79%" in page
    assert "| attn 4096x320 | H | 4096 | 2 | 320 | 100.0% |" in page
    for name in ("use", "roofline", "cycles"):
        assert (tmp_path / "out" / f"shapes-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"shapes-{name}.png" in page
    assert main(["report", "shapes", "--folder", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("sizes", "side", "cycles"),
    [((1, 1, 1), 16, (30, 46, 46)), ((17, 33, 65), 16, (569, 944, 789)), ((77, 4, 768), 16, (3989, 5903, 11999))],
)
def test_closed_forms_are_what_scalesim_said(sizes: tuple[int, int, int], side: int, cycles: tuple[int, int, int]) -> None:
    """Cycles that SCALE-Sim 3.0.0 reported."""
    product = peers.Gemm("p", *sizes)
    assert tuple(peers.scalesim_cycles(product, side, side, dataflow) for dataflow in peers.SYSTEMS) == cycles


def test_scalesim_that_is_not_there_is_named() -> None:
    if find_spec("scalesim"):
        pytest.skip("scalesim is installed")
    with pytest.raises(LoralithError, match=r"pip install scalesim==3\.0\.0"):
        peers.run_scalesim(peers.Gemm("p", 1, 1, 1), 4, "OS")


def test_a_picture_follows_its_figures(runs: list[dict]) -> None:
    assert plots.png(plots.stalls(runs)) == plots.png(plots.stalls(runs))
    assert plots.png(plots.stalls(runs)) != plots.png(plots.stalls(runs[:1]))
    cells = [text.get_text() for axes in plots.heat_map(runs).axes for text in axes.texts]
    assert f"{runs[1]['layers'][0]['utilization']:.1%}" in cells
    points = [line for line in plots.roofline(runs).axes[0].lines if len(line.get_xdata()) == 1]
    assert len(points) == sum(len(run["layers"]) for run in runs)


def test_axes_begin_at_zero_or_say_where_and_span_what_they_show(runs: list[dict]) -> None:
    whole, end = plots.stalls(runs).axes
    assert whole.get_xlim() == (0, 1)
    assert f"from {end.get_xlim()[0]:.0%} on" in end.get_xlabel()
    roof = plots.roofline(runs).axes[0]
    assert f"begins at {roof.get_ylim()[0]:.0%}" in roof.get_ylabel()
    seen = [np.asarray(line.get_xdata())[0] for line in roof.lines if len(line.get_xdata()) == 1]
    left, right = roof.get_xlim()
    assert left <= min(seen) <= max(seen) <= right
    ridge = 16
    assert right <= 1.4 * max(*seen, ridge), "not half empty"


def test_the_map_of_use_has_each_layer_of_a_model_once(runs: list[dict]) -> None:
    part = {**runs[0], "subset": "kv", "layers": runs[0]["layers"][1:]}
    other = {**part, "rows": 8, "cols": 16}
    panels = [axes for axes in plots.heat_map([*runs, part, other]).axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["sd15: this machine", "sd15: ideal fixed output stationary"]
    for axes in panels:
        assert [label.get_text() for label in axes.get_yticklabels()] == ["image", "text"]
        columns = [label.get_text() for label in axes.get_xticklabels()]
        assert columns == ["16 x 16\nall, r2", "16 x 16\nall, r4", "8 x 16\nkv, r2"], "the part of a run that is there is not shown again"
        assert len(axes.texts) == 2 + 2 + 1


def test_rows_of_other_rtl_than_the_pages_are_told(runs: list[dict]) -> None:
    now = rtl_hash()
    told = [{**runs[0], "rtl": now}, {**runs[1], "rtl": "00000000"}, {**runs[1], "rtl": ""}, runs[1]]
    page = shapes_report.page({"rtl": now, "runs": told, "others": [], "by_product": None, "peers": {"systems": {}}})
    text = "\n".join(page)
    assert f"1 of `{now}`, 1 of `00000000`, 1 of RTL with changes that were not committed." in text
    assert f"The RTL beside this page is `{now}`, of which 1 of the rows are. The others are older" in text
    ends = [line.rsplit(" | ", 1)[1] for line in page if line.startswith("| 16 x 16 | sd15")]
    assert ends == [f"{now} |", "00000000 |", "unknown |", " |"]
    share = f"{runs[0]['macs'] / (runs[0]['macs'] + BESIDE_LORA['sd15']):.0%} of sd15's at rank 2"
    assert share in text


def test_the_hash_of_rtl_sees_code_and_no_comments() -> None:
    source = 'class A:\n    """Says."""\n    def f(self):\n        """Does."""\n        return 1  # why\n'
    one = hash_of({"a.py": source})
    assert hash_of({"a.py": "class A:\n    def f(self): return (1)\n"}) == one
    assert hash_of({"a.py": source.replace("1", "2")}) != one
    assert hash_of({"b.py": source}) != one
    assert hash_of({"a.py": source, "b.py": ""}) != one
    assert len(rtl_hash()) == 8


def test_results_of_older_rtl_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = {"date": "2000-01-01", "commit": "abc", "command": "x"}
    kept = {"new": {"rtl": rtl_hash()}, "old": {"rtl": "00000000"}, "lost": {"rtl": ""}, "none": {}, "pages": {"runs": [origin]}}
    for name, own in kept.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(origin | own), encoding="utf-8")
    assert main(["report", "results", "--folder", str(tmp_path), "--output", str(tmp_path / "index")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "2000-01-01" in line]
    assert [line.split(" | ")[0][2:] + ": " + line.split(" | ")[-1][:-2] for line in lines] == [
        "lost: older: it was changed and not committed",
        "new: this one",
        "none: no RTL in it",
        "old: older",
    ]
    assert main(["report", "results", "--folder", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 4, "the index is not among them"
    assert main(["report", "results", "--folder", str(tmp_path / "nothing")]) == 2


def test_the_index_of_results_says_what_the_results_say() -> None:
    """Dates, commits and hashes; which RTL is beside the page changes with every change of it."""
    index = json.loads((REPO / "docs" / "results" / "index.json").read_text(encoding="utf-8"))
    assert index["results"] == results_report.figures()["results"], "`loralith report results --output docs/results/index` makes it anew"


def test_a_whole_step_by_the_model_has_every_linear(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sd15", "--first", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in found["layers"]] == ["4096x320.0.attn1.to_q", "4096x320.0.attn1.to_k"]
    assert found["macs"] == 2 * Linear("", 4096, 320, 320, 4).macs


def test_a_linear_that_ran_is_not_run_again(tmp_path: Path) -> None:
    linear = Linear("once", 8, 16, 24, 2)
    with loralith.open_device("verilator", config="tiny") as device:
        first = run_once(linear, 1, device, "here", tmp_path)
        ran = device.counters().cycles
        assert run_once(linear, 1, device, "here", tmp_path) == first
        assert device.counters().cycles == ran
        run_once(linear, 2, device, "here", tmp_path)
        assert device.counters().cycles > ran
    assert first[0]["macs"] == linear.macs
