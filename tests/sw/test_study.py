"""The study of schemes: its points are fine-tunes, what is finished stays, and its figures are what they say."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from loralith import cli, open_device
from loralith.cli import study as command
from loralith.errors import LoralithError
from loralith.methods.settings import EvaluationSettings
from loralith.study import reference_schemes as reference
from loralith.study.figures import add_published, compact, interval, pack_losses, standard_error, summarize, unpack_losses
from loralith.study.point import Stopped, pending, run_point, run_study
from loralith.study.point_store import Store
from loralith.study.schemes import DEFAULT, FP32, SCHEMES
from loralith.study.study_report import told_apart, write_reports
from loralith.study.study_results import machine
from loralith.study.study_settings import StudySettings
from loralith.training.attaching import attacher
from loralith.training.loop import finetune
from loralith.verif.reference_attachment import ReferenceAttachment

QUICK = StudySettings(
    steps=3, batch=2, curve_every=2, curve_rounds=1, probes=(1,), evaluation=EvaluationSettings(rounds=1, samples=2, sample_steps=2)
)
NAMES = [FP32, DEFAULT]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study of two schemes and one seed."""
    store = Store(tmp_path_factory.mktemp("study"), QUICK)
    assert len(list(run_study(store, NAMES, [3], ReferenceAttachment))) == 2
    return store


def point_of(store: Store, scheme: str) -> dict:
    point = store.point(scheme, 3)
    assert point is not None
    return point


@pytest.mark.parametrize("scheme", NAMES)
def test_a_point_is_a_fine_tune_on_a_device(store: Store, tmp_path: Path, scheme: str) -> None:
    device = None if scheme == FP32 else open_device("reference", "base")
    settings = replace(QUICK.run(3), output=tmp_path / "out", device="fp32" if device is None else "reference")
    report = finetune(settings, attacher(device, verify=False) if device else None).report
    point = point_of(store, scheme)
    assert point["losses"] == report["losses"]
    assert point["heldout_loss"] == report["held_out_loss"]["after"]
    assert point["accuracy"] == report["sample_accuracy"]["after"]
    assert store.baseline is not None
    assert store.baseline["heldout_loss"] == report["held_out_loss"]["before"]


def test_a_point_says_what_quantization_does_to_it(store: Store) -> None:
    fp32, default = point_of(store, FP32), point_of(store, DEFAULT)
    (exact,), (own,) = fp32["gradients"].values(), default["gradients"].values()
    assert set(exact) == set(own)
    assert len(own) == 112
    assert all(cosine > 1 - 1e-6 and error < 1e-3 for cosine, error in exact.values())
    assert all(0.9 < cosine < 1 - 1e-8 and 1e-4 < error < 0.5 for cosine, error in own.values())
    assert fp32["heldout_loss_in_scheme"] == fp32["heldout_loss"]
    assert default["heldout_loss_in_scheme"] == pytest.approx(default["heldout_loss"], rel=1e-2)
    assert default["heldout_loss_in_scheme"] != default["heldout_loss"]
    assert 0.05 < default["vanished"]["dY"] < 0.6
    assert default["vanished"]["X"] < 0.1
    assert max(default["saturated"].values()) < 1e-3
    assert default["warnings"] == []
    assert len(default["curve"]) == 1


def test_finished_points_are_not_computed_again(store: Store) -> None:
    assert pending(store, NAMES, [3]) == []
    before = point_of(store, DEFAULT)
    store.path(DEFAULT, 3).unlink()
    (again,) = run_study(store, NAMES, [3], ReferenceAttachment)
    assert {**again, "seconds": 0} == {**before, "seconds": 0}
    assert point_of(store, DEFAULT) == json.loads(json.dumps(again))
    assert pending(store, [*NAMES, "nearest"], [3, 4]) == [("nearest", 3), (FP32, 4), (DEFAULT, 4), ("nearest", 4)]


def test_a_stopped_point_leaves_nothing(store: Store) -> None:
    asked = iter([False, True])
    with pytest.raises(Stopped, match="stopped at step 1 of nearest, seed 3"):
        list(run_study(store, ["nearest"], [3], ReferenceAttachment, stop=lambda: next(asked)))
    assert store.point("nearest", 3) is None


def test_another_studys_folder_and_damaged_points_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LoralithError, match="rank is 4 there and 5 here"):
        Store(store.folder, replace(QUICK, rank=5))
    other = Store(tmp_path, QUICK)
    other.path(DEFAULT, 0).write_text("{")
    with pytest.raises(LoralithError, match=r"default-0\.json cannot be read"):
        other.point(DEFAULT, 0)
    other.path(DEFAULT, 0).write_text('{"settings": "other"}')
    with pytest.raises(LoralithError, match="is of settings other"):
        other.point(DEFAULT, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 0}, "rank must be an integer of at least 1, not 0"),
        ({"probes": (5,)}, r"probes must be rising steps in 0\.\.2, not \[5\]"),
        ({"curve_every": 0}, "curve_every must be at least 1, not 0"),
    ],
)
def test_bad_settings_are_named(changed: dict, message: str) -> None:
    with pytest.raises(LoralithError, match=message):
        replace(QUICK, **changed)


def test_settings_survive_json() -> None:
    assert StudySettings.from_identity(json.loads(json.dumps(dict(QUICK.identity())))) == QUICK
    assert QUICK.shortened(1).probes == ()


def made(scheme: str, seed: int, loss: float, accuracy: float, cosine: float = 0.5) -> dict:
    """A point with given results."""
    return {
        "scheme": scheme,
        "fields": None if scheme == FP32 else {"seed": seed, "weight_bits": 8},
        "seed": seed,
        "settings": "",
        "heldout_loss": loss,
        "heldout_loss_in_scheme": loss,
        "accuracy": accuracy,
        "losses": [0.5, 0.25],
        "curve": [loss],
        "adapter": "",
        "gradients": {
            "1": {"base_model.model.q.lora_A.default.weight": [cosine, 0.25], "base_model.model.q.lora_B.default.weight": [1, 0]}
        },
        "saturated": {} if scheme == FP32 else dict.fromkeys(("X", "H", "dY", "dH"), 0.125),
        "vanished": {} if scheme == FP32 else dict.fromkeys(("X", "H", "dY", "dH"), 0.25),
        "warnings": [],
        "seconds": 1.0,
    }


BASELINE = {"heldout_loss": 0.2, "accuracy": 0.0, "curve": 0.2}


def study_of(*rows: tuple[str, int, float, float]) -> dict:
    return summarize({(scheme, seed): made(scheme, seed, loss, accuracy) for scheme, seed, loss, accuracy in rows}, BASELINE)


def test_figures_are_taken_seed_by_seed() -> None:
    summary = study_of((FP32, 0, 0.1, 0.5), (FP32, 1, 0.16, 0.9), (DEFAULT, 0, 0.11, 0.6), (DEFAULT, 1, 0.16, 0.8), (DEFAULT, 2, 9.0, 0.0))
    own = summary["schemes"][DEFAULT]
    assert own["seeds"] == [0, 1]  # the third has no FP32 beside it
    assert own["heldout_loss_ratio_to_fp32"] == pytest.approx(1.05)
    assert own["heldout_loss_ratio_to_fp32_se"] == pytest.approx(0.05)
    assert own["heldout_loss_ratio_to_fp32_interval95"] == pytest.approx([1.05 - 12.706 * 0.05, 1.05 + 12.706 * 0.05])
    assert own["improvement_recovered"] == pytest.approx(0.95)
    assert own["accuracy_minus_fp32"] == pytest.approx(0.0)
    assert own["accuracy_se"] == pytest.approx(0.1)
    assert own["gradient_cosine"] == 0.75
    assert own["worst_gradient"] == {"parameter": "q.lora_A", "cosine": 0.5, "relative_error": 0.25}
    assert summary["schemes"][FP32]["heldout_loss_ratio_to_fp32_se"] == 0.0
    assert standard_error([1.0]) is None
    assert interval([1.0]) is None


@pytest.mark.parametrize(
    ("losses", "accuracies", "wanted"),
    [
        ((0.1005, 0.1005, 0.1), (0.5, 0.6, 0.4), (True, True, True)),
        ((0.102, 0.103, 0.102), (0.5, 0.6, 0.4), (False, True, True)),
        ((0.098, 0.097, 0.098), (0.5, 0.6, 0.4), (False, True, True)),  # better by more than the bound is another training, too
        ((0.11, 0.1, 0.11), (0.5, 0.6, 0.4), (False, False, True)),
        ((0.1, 0.1, 0.1), (0.3, 0.2, 0.25), (True, True, False)),
    ],
)
def test_the_bar_is_met_or_not(losses: tuple, accuracies: tuple, wanted: tuple) -> None:
    rows = [(FP32, seed, 0.1, 0.5) for seed in range(3)]
    rows += [(DEFAULT, seed, loss, accuracy) for seed, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True))]
    assert tuple(study_of(*rows)["bar"].values()) == wanted


def test_a_single_seed_has_no_error_and_is_not_judged_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    one = study_of((FP32, 0, 0.1, 0.5), (FP32, 1, 0.1, 0.5), (DEFAULT, 0, 0.1005, 0.5))
    command.print_summary(one)
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if DEFAULT in line)
    assert "n = 1" in row
    assert "±" not in row
    assert "±" in next(line for line in shown.splitlines() if FP32 in line and "n = 2" in line), "two seeds have one"
    assert "within one standard error: not judged by one seed" in shown


def test_schemes_are_told_apart_by_their_intervals() -> None:
    rows = [(FP32, seed, 0.1, 0.5) for seed in range(3)]
    for name, losses in (("int4", (0.11, 0.111, 0.109)), ("delayed", (0.09, 0.11, 0.1)), ("nearest", (0.09, 0.091, 0.089))):
        rows += [(name, seed, loss, 0.5) for seed, loss in enumerate(losses)]
    summary = study_of(*rows, ("power-of-two", 0, 9.0, 0.5))  # one seed says nothing
    assert told_apart(summary) == (["int4"], ["nearest"], ["delayed"])


def test_losses_pack_exactly() -> None:
    losses = [0.5, 2.0**-149, 1 + 2.0**-23, 0.0]  # FP32 numbers, as a loss is
    assert unpack_losses(pack_losses(losses)) == losses


def test_what_is_finished_can_be_reported_without_the_rest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("loralith.study.study_settings.StudySettings", lambda **told: QUICK)
    monkeypatch.setattr("loralith.study.point.run_study", lambda *told: pytest.fail("a point would be computed"))
    monkeypatch.setattr("loralith.study.reference_schemes.weight_errors", dict)
    folder = tmp_path / "study"
    shutil.copytree(store.folder, folder)
    assert cli.main(["study", "--finished", "--seeds", "4", "--output", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: own["seeds"] for name, own in found["schemes"].items()} == {FP32: [3], DEFAULT: [3]}
    assert cli.main(["study", "--finished", "--output", str(tmp_path / "empty")]) == 2
    assert "has no finished point of fp32" in capsys.readouterr().err


@pytest.fixture
def published(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reports of `store` in the place of those that are checked in."""
    points = {(name, 3): point_of(store, name) for name in NAMES}
    assert store.baseline is not None
    context = {"command": "loralith study", "date": "2026-01-02", "commit": "abc", "machine": machine()}
    context |= {"settings": json.loads(json.dumps(dict(QUICK.identity())))}
    write_reports(tmp_path, context, summarize(points, store.baseline), points)
    monkeypatch.setattr("loralith.study.study_results.RESULTS", tmp_path / "study.json")
    return tmp_path


def test_reports_hold_every_scheme(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader((published / "study.csv").read_text().splitlines()))
    assert [(row["scheme"], row["seed"]) for row in rows] == [(FP32, "3"), (DEFAULT, "3")]
    assert float(rows[0]["heldout_loss_ratio_to_fp32"]) == 1.0
    page = (published / "study.md").read_text()
    assert "2026-01-02, commit abc" in page
    assert all(f"| `{name}` |" in page for name in NAMES)
    assert (published / "study.png").read_bytes()[:4] == b"\x89PNG"
    assert cli.main(["study", "--results"]) == 0
    assert "default" in capsys.readouterr().out


def test_a_point_runs_again_number_for_number(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "--rerun", DEFAULT, "--seed", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["identical"] is True
    assert result["compared"] >= 10
    content = json.loads((published / "study.json").read_text())
    content["points"][0]["heldout_loss"] += 1e-12
    (published / "study.json").write_text(json.dumps(content))
    assert cli.main(["study", "--rerun", FP32, "--seed", "3", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differing"] == ["heldout_loss"]


def test_a_point_runs_again_on_a_device_as_far_as_wanted(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["study", "--rerun", DEFAULT, "--seed", "3", "--steps", "1", "--device", "reference", "--json"]
    assert cli.main(again) == 0
    content = json.loads((published / "study.json").read_text())
    content["points"][1]["losses_fp32"] = "0" * 8 + content["points"][1]["losses_fp32"][8:]
    (published / "study.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert cli.main(again) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["differing"], result["first_differing_loss"], result["steps"]) == (["losses_fp32"], 0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rerun", "int3"], "there is no scheme 'int3'; there are fp32, default,"),
        (["--rerun", "nearest"], r"have no point of nearest with seed 0; its seeds are none"),
        (["--rerun", DEFAULT, "--seed", "7"], r"its seeds are \[3\]"),
        (["--schemes", "fp32,int3"], "there is no scheme 'int3'"),
        (["--seeds", "0"], "seeds must be at least 1, not 0"),
    ],
)
def test_wrong_names_and_numbers_are_refused(published: Path, capsys: pytest.CaptureFixture[str], arguments: list, message: str) -> None:
    assert cli.main(["study", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_results_that_cannot_be_read_are_named(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (published / "study.json").write_text('{"format": "other"}')
    assert cli.main(["study", "--results"]) == 2
    assert "has the format 'other', this version reads 'loralith-study-1'" in capsys.readouterr().err
    (published / "study.json").unlink()
    assert cli.main(["study", "--results"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_results_that_are_checked_in(capsys: pytest.CaptureFixture[str]) -> None:
    """What readers and other programs rely on, and what the chosen scheme has to show."""
    assert cli.main(["study", "--results", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["schemes"][DEFAULT]["seeds"]) >= 5
    assert set(content["schemes"]) <= set(SCHEMES)
    for own in content["schemes"].values():
        for name in ("heldout_loss_ratio_to_fp32", "improvement_recovered", "accuracy"):
            assert {name, f"{name}_se"} <= set(own)
    assert content["schemes"][DEFAULT]["fields"].items() <= SCHEMES[DEFAULT].fqt.to_dict().items()
    assert all(content["bar"].values())


def test_every_scheme_differs_from_the_chosen_one() -> None:
    assert SCHEMES[FP32].fqt is None
    fqts = [scheme.fqt for scheme in SCHEMES.values()]
    assert len(set(fqts)) == len(fqts)
    assert SCHEMES["int4"].seeded(7).seed == 7
    assert compact(made(DEFAULT, 0, 0.1, 0.5))["losses_fp32"] == "3f0000003e800000"
    with pytest.raises(LoralithError, match="no scheme 'x'"):
        run_point(QUICK, "x", 0, ReferenceAttachment)


def published_content(*rows: tuple[str, int, float, float]) -> dict:
    """What study.json holds of such points."""
    summary = study_of(*rows)
    points = [compact(made(scheme, seed, loss, accuracy)) for scheme, seed, loss, accuracy in rows]
    return {"date": "2026-01-02", "commit": "abc", "settings": {"steps": 3}, **summary, "points": points}


def test_a_new_scheme_stands_beside_those_of_an_earlier_run() -> None:
    old = published_content((FP32, 0, 0.1, 0.5), (DEFAULT, 0, 0.11, 0.6))
    rows = ((FP32, 0, 0.1, 0.5), ("step", 0, 0.12, 0.4))
    points = {(scheme, seed): made(scheme, seed, loss, accuracy) for scheme, seed, loss, accuracy in rows}
    summary, merged = add_published(old, {"settings": {"steps": 3}}, study_of(*rows), points)
    assert list(summary["schemes"]) == [FP32, DEFAULT, "step"]
    assert summary["schemes"][DEFAULT]["made"] == {"date": "2026-01-02", "commit": "abc"}
    assert "made" not in summary["schemes"]["step"]
    assert summary["schemes"][DEFAULT]["heldout_loss"] == 0.11
    assert "bar" in summary
    assert sorted(merged) == [(DEFAULT, 0), (FP32, 0), ("step", 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"steps": 4}}, "other settings"),
        ({"baseline": {**BASELINE, "heldout_loss": 0.3}}, "begin at heldout_loss 0.3, not 0.2"),
        ({"points": [compact({**made(FP32, 0, 0.1, 0.5), "adapter": "other"})]}, "seed 0 gives another adapter"),
        ({"points": [compact(made(FP32, 4, 0.1, 0.5))]}, "have seed 4, which this run has not"),
    ],
)
def test_runs_that_do_not_fit_together_are_not_put_in_one_table(change: dict, message: str) -> None:
    old = published_content((FP32, 0, 0.1, 0.5), (DEFAULT, 0, 0.11, 0.6)) | change
    points = {(FP32, 0): made(FP32, 0, 0.1, 0.5), ("step", 0): made("step", 0, 0.1, 0.5)}
    with pytest.raises(LoralithError, match=message):
        add_published(old, {"settings": {"steps": 3}}, summarize(points, BASELINE), points)


def test_a_whole_step_is_a_point_like_any_other(store: Store) -> None:
    with reference.attacher(None, "base") as attach:
        point = run_point(QUICK, "step", 3, attach, in_scheme=True)
    fp32 = point_of(store, FP32)
    assert point["losses"][0] == pytest.approx(fp32["losses"][0], rel=0.05)
    assert point["losses"] != fp32["losses"]
    assert point["heldout_loss_in_scheme"] == pytest.approx(point["heldout_loss"], rel=0.02)
    assert point["heldout_loss_in_scheme"] != point["heldout_loss"]
