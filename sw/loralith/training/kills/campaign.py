"""Many fine-tunes, each killed once or more, resumed to the end, and compared with a run that nobody killed, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from loralith.files import write_json
from loralith.formats.run_folder import CHECKPOINT, DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE, PICTURE, REPORT
from loralith.methods.settings import EvaluationSettings, FinetuneSettings
from loralith.reports.result_files import commit
from loralith.state_file import read_state
from loralith.training.kills.killed_run import MOMENTS, PLACES, AtTime, InWrite, KilledRunError, folder_place, run, train

__all__ = ["KillCampaign"]

STEPS = 6
SCALES = ("measured", "delayed")
"""Settings of the runs, in turn: of these the second has a state of its own on the device's side."""
REKILL_PROBABILITY = 0.6
"""Probability that the run which resumes is killed as well."""
SAME_FILES = (PEFT_FILE, PEFT_CONFIG, DIFFUSERS_FILE, PICTURE)
VARIABLE_KEYS = ("seconds", "date", "commit", "energy")
"""What two reports of the same run may differ in."""
PROGRESS_SECONDS = 20.0
"""Seconds between two lines of progress."""


class KillCampaign:
    """Kills fine-tunes of a very small model on ``device`` of ``config``, and resumes them.

    Attributes: ``result``, the counts so far as JSON values; `state`, the file that keeps them, from which a later campaign goes on.
    Raises KilledRunError for a file that is no such state.
    """

    def __init__(self, folder: Path, device: str, config: str, seed: int | None, state: Path | None) -> None:
        self.folder, self.state = folder, state
        self.result = _stored(state, {"device": device, "config": config}, seed)

    def run(self, kills: int, seconds: float | None, say: Callable[[str], None]) -> str | None:
        """Until so many kills in all, or for so many seconds; the first difference, in words, or None. Raises KilledRunError where a run
        fails by itself."""
        if self.result["kills"] >= kills:
            return self.result["difference"]
        here = commit("hw", "gen", "sw")
        if here not in self.result["commits"]:
            self.result["commits"].append(here)
        with _one_thread():
            return self._run(kills, seconds, say)

    def _run(self, kills: int, seconds: float | None, say: Callable[[str], None]) -> str | None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        say("runs that nobody kills, in fresh processes")
        _write_model(self.folder / "model")
        references = [self._reference_run(scales) for scales in SCALES]
        train(self._settings("warm", SCALES[0], seed=1, steps=2))  # loads whatever a run imports, before the forks
        used = [run(self._settings(f"usage-{scales}", scales), None) for scales in SCALES]
        result, started = self.result, time.monotonic()
        before, shown = result["seconds"], started
        while result["kills"] < kills and (seconds is None or time.monotonic() - started < seconds):
            kind = result["runs"] % len(SCALES)
            rng = np.random.default_rng([result["seed"], result["runs"]])
            settings = self._settings("killed", SCALES[kind])
            shutil.rmtree(settings.output, ignore_errors=True)
            cpu, writes = used[kind].cpu_seconds, used[kind].writes
            assert writes is not None
            places, done = _kill_and_resume(settings, rng, cpu, writes)
            difference = _difference(settings.output, references[kind])
            result["runs"] += 1
            result["kills"] += len(places)
            result["ended_before"] += done
            for kind_of_kill, place in places:
                result["places"][place][kind_of_kill] += 1
            result["seconds"] = round(before + time.monotonic() - started, 1)
            if difference is not None:
                result["difference"] = f"run {result['runs'] - 1} of seed {result['seed']}, killed in {places}: {difference}"
                return result["difference"]
            result["equal"] += len(places)
            self._save()
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                say(f"{result['kills']} of {kills} kills, {result['equal']} resumed to equal bits, {result['seconds']:.0f} s")
        return None

    def _settings(self, name: str, scales: str, *, seed: int = 0, steps: int = STEPS) -> FinetuneSettings:
        return FinetuneSettings(
            self.folder / name,
            model=self.folder / "model",
            images=4,
            steps=steps,
            batch=1,
            rank=2,
            seed=seed,
            targets=("attn2.to_k", "attn2.to_v"),
            device=self.result["device"],
            config=self.result["config"],
            adapter_scales=scales,
            checkpoint_every=2,
            curve_every=3,
            evaluation=EvaluationSettings(rounds=1, samples=1, sample_steps=2),
        )

    def _reference_run(self, scales: str) -> Path:
        """The folder of a run that nobody kills, in a process that has run nothing else."""
        settings = self._settings(f"reference-{scales}", scales)
        process = multiprocessing.get_context("spawn").Process(target=_fresh, args=(settings,))
        process.start()
        process.join()
        if process.exitcode:
            raise KilledRunError(f"a run that nobody kills ended with status {process.exitcode}")
        return settings.output

    def _save(self) -> None:
        if self.state:
            write_json(self.result, self.state)


def _kill_and_resume(settings: FinetuneSettings, rng: np.random.Generator, cpu: float, writes: int) -> tuple[list[tuple[str, str]], int]:
    """Train in spite of kills; (kind, place) of each kill, and how many came after the run's end."""
    places: list[tuple[str, str]] = []
    missed, kill_again = 0, True
    while True:
        kill: AtTime | InWrite | None = None
        if kill_again and rng.random() < 0.5:
            kill = AtTime(cpu * float(rng.random()))
        elif kill_again:
            kill = InWrite(int(rng.integers(writes)), str(rng.choice(MOMENTS)))
        usage = run(settings, kill)
        if not usage.killed:
            return places, missed + (kill is not None)
        places.append(("time" if isinstance(kill, AtTime) else "write", folder_place(settings.output, settings.steps)))
        kill_again = bool(rng.random() < REKILL_PROBABILITY)


def _difference(folder: Path, reference: Path) -> str | None:
    """The first thing that a resumed run left otherwise than one that nobody killed."""
    from loralith.formats.checkpoint import read_header

    left = sorted(path.name for path in folder.iterdir())
    if left != sorted(path.name for path in reference.iterdir()):
        return f"the folder holds {', '.join(left)}"
    for name in SAME_FILES:
        if (folder / name).read_bytes() != (reference / name).read_bytes():
            return f"{name} differs"
    mine, other = (json.loads((path / REPORT).read_text(encoding="utf-8")) for path in (folder, reference))
    for name in sorted({*mine, *other} - set(VARIABLE_KEYS)):
        if mine.get(name) != other.get(name):
            return f"{name} of {REPORT} is {mine.get(name)} instead of {other.get(name)}"
    headers = [read_header(path / CHECKPOINT) for path in (folder, reference)]
    if headers[0]["digest"] != headers[1]["digest"]:
        return f"the tensors of {CHECKPOINT} differ"
    return None


def _fresh(settings: FinetuneSettings) -> None:
    with _one_thread():
        train(settings)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch and numpy on one thread: a process with threads of its own must not fork, and so small a model gains nothing from them."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _write_model(folder: Path) -> None:
    """A U-Net of three resolution levels, 8 to 16 channels, with seeded first values."""
    import torch

    from loralith.diffusion.unet import UNET_CONFIG, assets, new_unet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = new_unet({**UNET_CONFIG, "block_out_channels": (8, 8, 16), "attention_head_dim": 2, "norm_num_groups": 4})
    unet.save_pretrained(folder)
    shutil.copy(assets() / "unet" / "tokens.safetensors", folder)


def _stored(path: Path | None, settings: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """What the state file holds, or counts of nothing."""
    counts = {place: {"time": 0, "write": 0} for place in PLACES}
    needs = {"seed": int, "runs": int, "kills": int, "equal": int, "places": dict, "commits": list}
    found = read_state(path, "a campaign of kills", {**settings, "seed": seed}, needs, KilledRunError)
    if found is not None:
        return {**found, "places": counts | found["places"]}
    figures = {"runs": 0, "kills": 0, "equal": 0, "ended_before": 0, "seconds": 0.0, "places": counts, "difference": None, "commits": []}
    return {"seed": secrets.randbits(32) if seed is None else seed, **settings, **figures}
