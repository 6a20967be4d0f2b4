"""Fine-tuning: the adapter, the same bits again, interruptions, the attached device and what can go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import peft
from PIL import Image
from threadpoolctl import threadpool_info, threadpool_limits

import loralith
from helpers.same_values import assert_same_values
from loralith.diffusion.classifier import load_classifier
from loralith.diffusion.determinism import repeatable
from loralith.diffusion.peft_adapter import AdapterError, save_adapter
from loralith.diffusion.unet import UNET_CONFIG, assets, load_model, new_unet
from loralith.formats.checkpoint import CheckpointError, load_checkpoint
from loralith.formats.run_folder import FILES, FolderError
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.training.evaluate import evaluate
from loralith.training.loop import FinetuneResult, Interrupted, TrainingError, finetune, load_finetuned

RESULTS = ("adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors", "samples.png")


def settings(folder: Path, **changed) -> FinetuneSettings:
    quick = {"steps": 6, "batch": 2, "checkpoint_every": 2, "evaluation": EvaluationSettings(rounds=1, samples=2, sample_steps=2)}
    return FinetuneSettings(folder, **(quick | changed))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """A short run that nothing interrupts."""
    return finetune(settings(tmp_path_factory.mktemp("whole") / "out"))


def assert_same_run(one: FinetuneResult, two: FinetuneResult) -> None:
    for name in RESULTS:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name
    for name in ("losses", "held_out_loss", "sample_accuracy", "settings_hash"):
        assert one.report[name] == two.report[name], name


class Drift:
    """Stands for a device with a memory: scales the gradients of every B by a history that grows with each step's maximum."""

    def __init__(self, model, forget: bool = False) -> None:
        self.history, self.note, self.steps, self.forget, self.detached = torch.zeros(3), 0, [], forget, False
        self.hooks = [tensor.register_hook(self.scale) for name, tensor in model.named_parameters() if "lora_B" in name]

    def scale(self, gradient: torch.Tensor) -> torch.Tensor:
        self.history[1] += gradient.abs().max()
        return gradient * (1.0 + self.history[1])

    def step_begin(self, step: int) -> None:
        self.steps.append(step)
        self.note += step

    def counters(self) -> dict:
        return {"cycles": 100 * len(self.steps), "bit_exact": True, "utilization": 0.5}

    def state_dict(self) -> dict:
        return {} if self.forget else {"history": self.history, "note": self.note}

    def load_state_dict(self, state: dict) -> None:
        self.history, self.note = state["history"].clone(), state["note"]

    def detach(self) -> None:
        self.detached = True
        for hook in self.hooks:
            hook.remove()


def test_folder_holds_what_was_promised(whole: FinetuneResult) -> None:
    assert sorted(path.name for path in whole.folder.iterdir()) == sorted([*RESULTS, "report.html", "report.json", "run.ckpt"]), (
        "no half-written file"
    )
    report = json.loads((whole.folder / "report.json").read_text())
    assert report == whole.report
    assert len(report["losses"]) == 6
    assert report["settings"]["rank"] == 4
    assert report["lora"] == {"layers": 56, "parameters": 25984, "macs_per_step": 43387392 // 2}, "counted at batch 4"
    assert report["held_out_loss"]["before"] != report["held_out_loss"]["after"]
    with Image.open(whole.folder / "samples.png") as picture:
        assert picture.size[0] > 500


def test_again_gives_the_same_bytes_whatever_the_callers_torch_does(whole: FinetuneResult, tmp_path: Path) -> None:
    torch.manual_seed(99)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(3)
    try:
        again = finetune(settings(tmp_path / "out"))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert_same_values(torch.get_rng_state(), state)
    assert_same_run(whole, again)


def test_numpy_has_one_thread_too_while_a_model_trains() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, "blas"):
        with repeatable():
            assert threads() == {1}
        assert threads() == {2}


def test_another_seed_gives_another_adapter(whole: FinetuneResult, tmp_path: Path) -> None:
    other = finetune(settings(tmp_path / "out", seed=1, steps=1))
    assert (other.folder / RESULTS[1]).read_bytes() != (whole.folder / RESULTS[1]).read_bytes()
    assert other.report["losses"][0] != whole.report["losses"][0]
    assert other.report["held_out_loss"]["before"] == whole.report["held_out_loss"]["before"]


def test_a_page_needs_no_other_file_and_looks_survive_an_interruption(whole: FinetuneResult, tmp_path: Path) -> None:
    told = settings(tmp_path / "out", steps=4, curve_every=1)
    with pytest.raises(Interrupted):
        finetune(told, stop=iter([False, True]).__next__)
    result = finetune(told, resume=True)
    assert result.report["losses"] == whole.report["losses"][:4], "looking changes nothing"
    assert [step for step, _ in result.report["curve"]] == [1, 2, 3]
    page = (result.folder / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("src=") == 6
    assert "href" not in page
    assert "http" not in page
    for loss in (result.report["held_out_loss"]["after"], result.report["curve"][1][1]):
        assert f"{loss:.5f}" in page
    assert "rank 4" in page


@pytest.mark.parametrize("last", [1, 3, 4])
def test_stopped_and_resumed_equals_uninterrupted(whole: FinetuneResult, tmp_path: Path, last: int) -> None:
    told = settings(tmp_path / "out")
    steps: list[int] = []
    with pytest.raises(Interrupted, match=f"stopped after step {last}; to go on: loralith finetune --resume --output "):
        finetune(told, progress=lambda at: steps.append(at.step), stop=lambda: steps[-1] + 1 >= last)
    assert os.listdir(told.output) == ["run.ckpt"]
    assert_same_run(whole, finetune(told, resume=True))


def test_resume_of_a_finished_run_changes_nothing(whole: FinetuneResult) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.folder.iterdir()}
    assert finetune(settings(whole.folder), resume=True).report == whole.report
    assert {path.name: path.stat().st_mtime_ns for path in whole.folder.iterdir()} == before
    with pytest.raises(FolderError, match="holds a finished run"):
        finetune(settings(whole.folder))
    with pytest.raises(loralith.LoralithError, match="rank is 4 there and 5 here"):
        finetune(settings(whole.folder, rank=5), resume=True)


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    told = settings(tmp_path / "out")
    with pytest.raises(Interrupted):
        finetune(told, stop=lambda: True)
    content = (told.output / "run.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match="rank is 4 there and 8 here"):
        finetune(replace(told, rank=8), resume=True)
    with pytest.raises(FolderError, match="unfinished run"):
        finetune(told)
    assert (told.output / "run.ckpt").read_bytes() == content


def test_stock_peft_loads_the_adapter_with_the_same_result(whole: FinetuneResult) -> None:
    unet, encoder = load_model()
    model = peft.PeftModel.from_pretrained(unet, str(whole.folder))
    with repeatable():
        after = evaluate(model, encoder, load_classifier(), 8, settings(whole.folder).evaluation)
        assert after.held_out_loss == whole.report["held_out_loss"]["after"]
        with model.disable_adapter():
            before = evaluate(model, encoder, load_classifier(), 8, settings(whole.folder).evaluation)
        assert before.held_out_loss == whole.report["held_out_loss"]["before"]


def test_adapter_files_are_what_stock_peft_writes(whole: FinetuneResult, tmp_path: Path) -> None:
    model = peft.PeftModel.from_pretrained(load_model()[0], str(whole.folder))
    model.save_pretrained(tmp_path / "stock")
    ours = json.loads((whole.folder / "adapter_config.json").read_text())
    stock = json.loads((tmp_path / "stock" / "adapter_config.json").read_text())
    stock["target_modules"] = sorted(stock["target_modules"])
    assert ours == stock
    assert (tmp_path / "stock" / RESULTS[1]).read_bytes() == (whole.folder / RESULTS[1]).read_bytes()


def test_start_from_an_adapter(whole: FinetuneResult, tmp_path: Path) -> None:
    went_on = finetune(settings(tmp_path / "out", start_from=whole.folder, steps=1))
    assert went_on.report["held_out_loss"]["before"] == whole.report["held_out_loss"]["after"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 8}, "has r 4, this run has 8"),
        ({"alpha": 2.0}, "has lora_alpha 8, this run has 2"),
        ({"targets": ("to_q",)}, "has the tensor .* which this model's adapter does not have"),
    ],
)
def test_adapter_of_another_shape_is_refused(whole: FinetuneResult, tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        finetune(settings(tmp_path / "out", start_from=whole.folder, **changed))
    assert not any((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else True


def test_attached_device_is_told_each_step_and_its_memory_survives(tmp_path: Path) -> None:
    made: list[Drift] = []

    def attach(model, told) -> Drift:
        assert told.rank == 4
        made.append(Drift(model))
        return made[-1]

    uninterrupted = finetune(settings(tmp_path / "a"), attach)
    assert made[0].steps == [0, 1, 2, 3, 4, 5]
    assert made[0].detached
    assert uninterrupted.report["counters"] == {"cycles": 600, "bit_exact": True, "utilization": 0.5}
    told = settings(tmp_path / "b")
    with pytest.raises(Interrupted):
        finetune(told, attach, stop=lambda: len(made[1].steps) == 3)
    assert made[1].detached
    resumed = finetune(told, attach, resume=True)
    assert made[2].steps == [3, 4, 5]
    assert made[2].note == 15
    assert resumed.report["counters"] == uninterrupted.report["counters"]
    assert_same_run(uninterrupted, resumed)


def test_device_without_memory_would_be_noticed(tmp_path: Path) -> None:
    made: list[Drift] = []

    def attach(model, _told) -> Drift:
        made.append(Drift(model, forget=True))
        return made[-1]

    uninterrupted = finetune(settings(tmp_path / "a"), attach)
    with pytest.raises(Interrupted):
        finetune(settings(tmp_path / "b"), attach, stop=lambda: len(made[1].steps) == 3)
    resumed = finetune(settings(tmp_path / "b"), attach, resume=True)
    assert resumed.report["losses"] != uninterrupted.report["losses"]


@pytest.mark.parametrize(("value", "where"), [(float("nan"), "output"), (float("inf"), "output"), (float("nan"), "gradient")])
def test_values_that_are_not_finite_stop_the_run_and_lose_nothing(whole: FinetuneResult, tmp_path: Path, value: float, where: str) -> None:
    class Poison(Drift):
        def step_begin(self, step: int) -> None:
            if step == 3 and where == "output":
                layer = next(module for name, module in self.model.named_modules() if name.endswith("to_q"))
                self.hooks.append(layer.register_forward_hook(lambda _module, _inputs, output: output * value))
            if step == 3 and where == "gradient":
                tensor = next(tensor for name, tensor in self.model.named_parameters() if "lora_A" in name)
                self.hooks.append(tensor.register_hook(lambda gradient: gradient * value))

    def attach(model, _told) -> Poison:
        poison = Poison(model)
        poison.model = model
        for hook in poison.hooks:
            hook.remove()
        return poison

    told = settings(tmp_path / "out")
    message = "the loss of step 3 is nan" if where == "output" else "step 3 gave no finite gradient for .*lora_A"
    with pytest.raises(TrainingError, match=message):
        finetune(told, attach)
    assert load_checkpoint(told.output / "run.ckpt", told.identity()).step == 2
    assert_same_run(whole, finetune(told, resume=True))


def test_kill_at_any_moment_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    told = settings(tmp_path / "out", steps=400, checkpoint_every=1)
    program = (
        "import sys; from pathlib import Path; from loralith.training.loop import finetune;"
        "from loralith.methods.settings import EvaluationSettings, FinetuneSettings;"
        "finetune(FinetuneSettings(Path(sys.argv[1]), steps=400, batch=2, checkpoint_every=1,"
        "evaluation=EvaluationSettings(rounds=1, samples=2, sample_steps=2)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", program, str(told.output)], env=environment)
    try:
        limit = time.monotonic() + 120
        while not (told.output / "run.ckpt").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < limit
            time.sleep(0.05)
        time.sleep(0.4)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    names = {path.name for path in told.output.iterdir() if not path.name.endswith(".part")}
    assert names <= set(FILES)
    step = load_checkpoint(told.output / "run.ckpt", told.identity()).step
    with pytest.raises(Interrupted) as caught:
        finetune(told, stop=lambda: True, resume=True)
    assert caught.value.step == step + 1


def test_save_adapter_twice_gives_the_same_bytes(whole: FinetuneResult, tmp_path: Path) -> None:
    model = peft.PeftModel.from_pretrained(load_model()[0], str(whole.folder))
    save_adapter(model, tmp_path)
    assert (tmp_path / RESULTS[1]).read_bytes() == (whole.folder / RESULTS[1]).read_bytes()


def test_a_model_of_ones_own_is_trained(tmp_path: Path) -> None:
    """Another depth and other widths, as diffusers saves them."""
    config = {**UNET_CONFIG, "block_out_channels": (16, 32), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    unet = new_unet({**config, "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")})
    unet.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokens.safetensors").write_bytes((assets() / "unet" / "tokens.safetensors").read_bytes())
    told = settings(tmp_path / "out", steps=2, model=tmp_path / "model")
    with pytest.raises(Interrupted):
        finetune(told, stop=lambda: True)
    result = finetune(told, resume=True)
    assert result.report["lora"]["layers"] == 32
    adapted = load_finetuned(result.folder, tmp_path / "model")
    assert list(adapted.base_model.model.config.block_out_channels) == [16, 32]
    with pytest.raises(loralith.LoralithError, match=r"model .* lacks config\.json"):
        finetune(settings(tmp_path / "other", model=tmp_path))
    assert not (tmp_path / "other").exists()
