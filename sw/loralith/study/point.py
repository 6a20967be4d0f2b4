"""One point of a study: one scheme, one seed, a whole fine-tune with its measurements.

The draws, the optimizer and the evaluation are those of `loralith finetune`, so that a point is the result of that command for its
settings.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from loralith.diffusion.classifier import load_classifier
from loralith.diffusion.data import class_images, personal_images
from loralith.diffusion.determinism import repeatable
from loralith.diffusion.objective import held_out_loss
from loralith.diffusion.peft_adapter import adapter_parameters, add_adapter
from loralith.diffusion.prompt import digit_prompt
from loralith.diffusion.schedule import noise_schedule
from loralith.diffusion.unet import load_model
from loralith.errors import StopRequested
from loralith.formats.checkpoint import digest
from loralith.spec.scheme import FQT
from loralith.study.gradients import ExactModel, compare_gradients, copy_parameters
from loralith.study.point_store import Store
from loralith.study.schemes import scheme_named
from loralith.study.study_settings import StudySettings
from loralith.study.tally import Tally
from loralith.training.evaluate import evaluate
from loralith.training.loop import step_loss


class Attached(Protocol):
    def step_begin(self, step: int) -> None: ...

    def detach(self) -> None: ...


@runtime_checkable
class WholeStep(Protocol):
    """An attachment that computes everything, while `computing` is entered, and has an optimizer of its own."""

    def computing(self) -> AbstractContextManager[object]: ...

    def optimizer(self, parameters: Sequence[Tensor], lr: float) -> Any: ...


Attach = Callable[[nn.Module, Any, Tally], Attached]
"""Puts a model on something that computes a scheme (`FQT` or `StepScheme`), with the tally as observer."""


class Stopped(StopRequested):
    """A study that was asked to stop; the points that it has finished stay."""


def baseline(settings: StudySettings) -> dict[str, Any]:
    """The model before any training: held-out loss and sample accuracy, the same for every scheme and seed."""
    with repeatable():
        unet, encoder = load_model()
        result = evaluate(unet, encoder, load_classifier(), settings.digit, settings.evaluation)
        curve = _quick_loss(settings, unet, encoder)
    return {"heldout_loss": result.held_out_loss, "accuracy": result.accuracy, "curve": curve}


def _quick_loss(settings: StudySettings, model: Any, encoder: Any) -> float:
    images, prompt = class_images(settings.digit, evaluation=True), encoder.encode(digit_prompt(settings.digit))
    return held_out_loss(model, noise_schedule(), images, prompt, rounds=settings.curve_rounds)


def run_point(
    settings: StudySettings,
    name: str,
    seed: int,
    attach: Attach,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    in_scheme: bool = True,
) -> dict[str, Any]:
    """Trains scheme `name` with seed `seed`; returns JSON values (see docs/results/study.md for what they are).

    attach : puts the layers of a scheme on the reference or on a device; not called for FP32.
    progress : called with the number of steps done. stop : asked before each step; Stopped is raised where it says True.
    in_scheme : also measure the held-out loss in the scheme's integers, which takes long on a simulated device.
    """
    began = time.monotonic()
    run, scheme = settings.run(seed), scheme_named(name).seeded(seed)
    images = personal_images(run.digit, run.images, run.seed)
    losses: list[float] = []
    curve: list[float] = []
    gradients: dict[str, dict[str, tuple[float, float]]] = {}
    tally = Tally(scheme if isinstance(scheme, FQT) else FQT())
    with repeatable():
        unet, encoder = load_model()
        model = add_adapter(unet, **run.adapter())
        plain = add_adapter(load_model()[0], **run.adapter())
        exact = ExactModel(run)
        parameters, shown = adapter_parameters(model), adapter_parameters(plain)
        attached = attach(model, scheme, tally) if scheme else None
        whole = attached if isinstance(attached, WholeStep) else None
        computing = whole.computing if whole else nullcontext
        values = list(parameters.values())
        optimizer = whole.optimizer(values, run.lr) if whole else torch.optim.AdamW(values, lr=run.lr, weight_decay=0.0)
        try:
            model.train()
            for step in range(run.steps):
                if stop is not None and stop():
                    raise Stopped(f"stopped at step {step} of {name}, seed {seed}; run the same command to go on")
                tally.probing = step in settings.probes
                if attached:
                    attached.step_begin(step)
                optimizer.zero_grad()
                with computing():
                    loss = step_loss(model, encoder, images, run, step)
                    loss.backward()
                if tally.probing:
                    own = {key: tensor.grad for key, tensor in parameters.items() if tensor.grad is not None}
                    gradients[str(step)] = compare_gradients(own, exact.gradients(parameters, images, step))
                optimizer.step()
                losses.append(loss.item())
                if (step + 1) % settings.curve_every == 0:
                    copy_parameters(parameters, shown)
                    plain.eval()
                    curve.append(_quick_loss(settings, plain, encoder))
                if progress:
                    progress(step + 1)
            tally.probing = False
            own_loss = None
            if attached and in_scheme:
                attached.step_begin(run.steps)
                model.eval()
                prompt = encoder.encode(digit_prompt(run.digit))
                held = class_images(run.digit, evaluation=True)
                with computing():
                    own_loss = held_out_loss(model, noise_schedule(), held, prompt, rounds=run.evaluation.rounds)
        finally:
            if attached:
                attached.detach()
        copy_parameters(parameters, shown)
        result = evaluate(plain, encoder, load_classifier(), run.digit, run.evaluation)
    shares = tally.shares()
    return {
        "scheme": name,
        "fields": None if scheme is None else scheme.to_dict(),
        "seed": seed,
        "settings": settings.hash,
        "heldout_loss": result.held_out_loss,
        "heldout_loss_in_scheme": result.held_out_loss if own_loss is None else own_loss,
        "accuracy": result.accuracy,
        "losses": losses,
        "curve": curve,
        "adapter": digest(dict(parameters)),
        "gradients": {step: {key: list(pair) for key, pair in table.items()} for step, table in gradients.items()},
        "saturated": shares["saturated"],
        "vanished": shares["vanished"],
        "warnings": tally.warnings,
        "seconds": time.monotonic() - began,
    }


def pending(store: Store, schemes: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """(scheme, seed) of the points that are not finished, seed by seed, so that an early end leaves whole pairs."""
    return [(scheme, seed) for seed in seeds for scheme in schemes if store.point(scheme, seed) is None]


def run_study(
    store: Store,
    schemes: Sequence[str],
    seeds: Sequence[int],
    attach: Attach,
    progress: Callable[[str, int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[dict[str, Any]]:
    """Computes what is missing and gives each point when it is saved. progress : called with (scheme, seed, steps done)."""
    if store.baseline is None:
        store.save_baseline(baseline(store.settings))
    for scheme, seed in pending(store, schemes, seeds):
        report = None if progress is None else (lambda step, scheme=scheme, seed=seed: progress(scheme, seed, step))
        point = run_point(store.settings, scheme, seed, attach, report, stop)
        store.save(point)
        gc.collect()  # models and attachments hold each other
        yield point
