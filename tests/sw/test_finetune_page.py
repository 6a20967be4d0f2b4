"""report.html and the loss chart: they say where a run comes from, show all of it, and name their axes."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

import loralith
from loralith import cli
from loralith.cli import finetune as command
from loralith.cli.finetune_options import run_command
from loralith.methods.settings import FinetuneSettings
from loralith.reports.loss_chart import loss_chart, ticks

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def page(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a short run on the `direct` device."""
    folder = tmp_path_factory.mktemp("page") / "out"
    words = ["finetune", "--device", "direct", "--config", "tiny", "--steps", "2", "--batch", "1", "--samples", "2", "--curve-every", "1"]
    words += ["--rank-pattern", "attn2.to_k=2", "--model", str(small_model), "--output", str(folder)]
    assert cli.main(words) == 0
    return (folder / "report.html").read_text()


def cells(page: str, name: str) -> str:
    found = re.search(f"<td>{name}</td><td>(.*?)</td>", page)
    assert found, name
    return found[1]


def test_a_page_says_what_made_it_and_holds_no_python(page: str) -> None:
    assert f"loralith {loralith.__version__}, " in page
    assert re.search(r"\d{4}-\d\d-\d\d<br><code>loralith finetune .*--rank-pattern attn2\.to_k=2 .*</code>", page)
    assert cells(page, "rank pattern") == "attn2.to_k=2"
    assert cells(page, "start from") == "none"
    assert cells(page, "evaluation") == "rounds=16, samples=2, sample_steps=20, guidance=2"
    text = re.sub(r"<style>.*?</style>|base64,[^\"]*", "", page, flags=re.DOTALL)
    assert not re.search(r"\{|\bNone\b|\bTrue\b|\bFalse\b|\[&#x27;", text)


def test_a_page_shows_training_pictures_and_every_layer(page: str) -> None:
    alt = re.findall(r'<img alt="(.*?)"', page)
    assert alt == ["training images", "samples before", "samples after step 1", "samples after step 2"]
    layers = re.search(r"<details open><summary>(\d+) layers</summary>(.*?)</details>", page, re.DOTALL)
    assert layers
    assert layers[2].count("<td>lora</td>") == int(layers[1]) > 13
    assert "overflow: auto" not in page


def test_a_device_without_an_array_has_no_cycles(
    page: str, capsys: pytest.CaptureFixture[str], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a long path in the table leaves a narrow first column, which wraps
    assert "The device direct has no array, so that it counts no cycles." in page
    assert "array utilization" not in page
    assert "<th>cycles</th>" not in page
    words = ["finetune", "--steps", "1", "--batch", "1", "--samples", "2", "--targets", "attn2.to_k", "--model", str(small_model)]
    assert cli.main([*words, "--device", "direct", "--output", str(tmp_path / "direct")]) == 0
    told = capsys.readouterr()
    assert "cycles" not in told.out + told.err
    assert "utilization" not in told.out
    assert "Energy" not in (tmp_path / "direct" / "report.html").read_text(), "it is of counted operations"
    assert cli.main([*words, "--device", "reference", "--output", str(tmp_path / "reference")]) == 0
    told = capsys.readouterr()
    assert "array steps" in told.out
    assert "useful share of the steps" in told.out
    assert "cycles" not in told.out + told.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("", ""),
        ("--steps 3 --lr 0.002 --batch 2", "--steps 3 --batch 2 --lr 0.002"),
        ("--method tuneqdm --bits 8 --lr 0.01 --device direct", "--method tuneqdm --device direct --bits 8"),
        ("--method hollowed-net --boundary-samples 4 --train behind --device fp32 --map lora", None),
        ("--start-from old.safetensors --unet-only --device fp32", "--device fp32 --start-from old.safetensors --unet-only"),
        ("--targets kv --rslora --alpha-pattern to_k=2 --device fp32", "--alpha-pattern to_k=2 --rslora --targets kv --device fp32"),
    ],
)
def test_the_command_of_a_run_repeats_it(words: str, shown: str | None) -> None:
    parser = cli.build_parser(["finetune"])
    args = parser.parse_args(["finetune", *words.split()])
    told: FinetuneSettings = command.settings_of(args)
    text = run_command(told, args.parser)
    again = command.settings_of(parser.parse_args(shlex.split(text)[1:]))
    assert again == told
    if shown is not None:
        assert text.removeprefix("loralith finetune").strip() == shown


def test_ticks_are_round_and_hold_the_values() -> None:
    assert ticks(0.0312, 0.0958) == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert ticks(0.05, 0.05)[0] <= 0.05 < ticks(0.05, 0.05)[-1]
    assert ticks(0.0, 1e6)[0] == 0.0


def test_the_chart_names_its_axes_and_spans_its_values() -> None:
    chart = loss_chart([0.09] * 30 + [0.04] * 30, [(0, 0.07), (60, 0.05)])
    assert ">loss (mean squared error)</text>" in chart
    assert ">step</text>" in chart
    assert "The axis begins at 0.04." in chart
    heights = [float(y) for line in re.findall(r'points="(.*?)"', chart) for _, y in (point.split(",") for point in line.split())]
    assert min(heights) < 60
    assert max(heights) > 220, "the values fill the drawing"
    assert "begins at" not in loss_chart([0.9, 0.001], [(0, 0.5), (2, 0.0)])
