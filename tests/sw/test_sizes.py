"""Sizes that cannot fit are refused before anything is allocated; what blows up writes no result."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from loralith.cli import main
from loralith.diffusion.pretraining import check_pretrain_folder
from loralith.diffusion.unet import assets, load_model
from loralith.files import FileError
from loralith.formats.run_folder import FolderError, clear_folders
from loralith.methods.options import ZoodipOptions
from loralith.methods.settings import EvaluationSettings, FinetuneSettings, SettingsError
from loralith.training import sizes
from loralith.training.loop import TrainingError, finetune
from loralith.training.sizes import check_sizes, footprint


@pytest.fixture
def eight_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "available_bytes", lambda: 8 * 10**9)


def test_a_footprint_is_what_a_pass_keeps() -> None:
    """Shapes alone say what a pass on the processor saves for its gradients."""
    one = footprint(None)
    assert one.linears["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"] == (64, 64, 7)
    assert one.linears["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"] == (48, 48, 64)
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    unet, encoder = load_model()
    image = torch.zeros(1, 1, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet(image, torch.zeros(1, dtype=torch.int64), encoder.encode("")).sample.sum()
    assert one.saved == pytest.approx(sum(tensor.nbytes for tensor in kept.values()), rel=0.25)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 999_999}, r"rank 999999 needs at least .* GB of memory, and 8\.0 GB are free; a smaller --rank needs less"),
        ({"rank_pattern": {"attn2.to_k": 10**7}}, r"rank 10000000 needs at least .* GB"),
        ({"batch": 10**6}, r"batch 1000000 needs at least .* GB .*; a smaller --batch"),
        ({"evaluation": EvaluationSettings(samples=10**6)}, r"samples 1000000 needs at least .* GB .*; fewer --samples"),
        (
            {"method": "zoodip", "options": ZoodipOptions(perturbations=10**6)},
            r"perturbations 1000000 of 4 images needs at least .* GB .*; fewer --perturbations",
        ),
        (
            {"rank": 140_000, "device": "reference"},
            r"the rank of .* must be at most 1310\d\d on a device, whose sums are exact, not 140000",
        ),
        ({"batch": 3000, "device": "reference"}, r"batch must be at most \d+ on a device, whose sums over .* tokens are exact"),
    ],
)
def test_sizes_that_cannot_fit_are_named(eight_gigabytes: None, tmp_path: Path, given: dict, message: str) -> None:
    told = FinetuneSettings(tmp_path / "out", **given)
    with pytest.raises(SettingsError, match=message):
        check_sizes(told)
    with pytest.raises(SettingsError, match=message):
        finetune(told)
    assert not (tmp_path / "out").exists()


def test_sizes_that_fit_are_taken(eight_gigabytes: None, tmp_path: Path) -> None:
    check_sizes(FinetuneSettings(tmp_path))
    check_sizes(FinetuneSettings(tmp_path, rank=1000, batch=200, evaluation=EvaluationSettings(samples=2000)))


def test_the_system_says_what_is_free() -> None:
    free = sizes.available_bytes()
    assert free is None or 2**26 < free < 2**50


def test_commands_refuse_before_they_allocate(eight_gigabytes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for words in (
        ["finetune", "--device", "fp32", "--rank", "999999", "--output", out],
        ["capture", "--rank", "999999", "--output", out],
        ["report", "memory", "--rank", "999999"],
        ["sim", "--rank", "100000", "--output", out],
        ["study", "--samples", "10000000", "--output", out],
    ):
        assert main(words) == 2, words
        assert "GB of memory, and 8.0 GB are free" in capsys.readouterr().err, words
    assert not list(tmp_path.iterdir())


def test_a_last_step_that_blows_up_writes_no_result(tmp_path: Path) -> None:
    """Its loss is finite, only the judgement after it is not; --resume comes to the same line."""
    quick = EvaluationSettings(rounds=1, samples=2, sample_steps=2)
    told = FinetuneSettings(tmp_path / "out", steps=1, batch=2, lr=1e20, evaluation=quick)
    for resume in (False, True):
        with pytest.raises(TrainingError, match=r"the held-out loss is (nan|inf); a lower --lr than 1e\+20 may help: start again"):
            finetune(told, resume=resume)
        assert [path.name for path in told.output.iterdir()] == ["run.ckpt"]


def test_a_look_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    quick = EvaluationSettings(rounds=1, samples=2, sample_steps=2)
    told = FinetuneSettings(tmp_path / "out", steps=2, batch=2, lr=1e20, curve_every=1, evaluation=quick)
    with pytest.raises(TrainingError, match="the held-out loss after step 0 is"):
        finetune(told)


def test_sim_and_pretrain_leave_files_of_others_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sim --output` of a project with a folder rtl once removed it."""
    (tmp_path / "rtl").mkdir()
    (tmp_path / "fp32").mkdir()
    (tmp_path / "fp32" / "report.json").write_text("{}")
    (tmp_path / "rtl" / "design.v").write_text("mine")
    assert main(["sim", "--output", str(tmp_path), "--config", "tiny"]) == 2
    assert "holds files that are not this command's (design.v)" in capsys.readouterr().err
    assert (tmp_path / "rtl" / "design.v").read_text() == "mine"
    assert (tmp_path / "fp32" / "report.json").exists()
    (tmp_path / "rtl" / "design.v").unlink()
    clear_folders(tmp_path / "rtl", tmp_path / "fp32")
    assert not list((tmp_path / "fp32").iterdir())
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    for folder, name in ((tmp_path, "fp32"), (tmp_path / "unet", "config.json")):
        with pytest.raises(FolderError, match=f"holds files that are not this command's .*{name}"):
            check_pretrain_folder(folder)
    with pytest.raises(FileError, match=r"config\.json is a file; give the name of a folder"):
        check_pretrain_folder(tmp_path / "unet" / "config.json")


def test_a_study_does_not_write_among_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.md").write_text("mine")
    assert main(["study", "--output", str(tmp_path), "--schemes", "fp32"]) == 2
    assert "holds files that are no study's (study.md)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["study.md"]


def test_a_configuration_with_settings_of_a_later_diffusers(tmp_path: Path) -> None:
    for path in (assets() / "unet").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "of_a_later_version": 1}), encoding="utf-8-sig")
    with pytest.warns(UserWarning, match=r"config\.json: a UNet2DConditionModel has no of_a_later_version; ignored, as diffusers does"):
        load_model(tmp_path)
    with pytest.warns(UserWarning, match="of_a_later_version"):
        assert main(["plan", str(tmp_path), "--json"]) == 0
