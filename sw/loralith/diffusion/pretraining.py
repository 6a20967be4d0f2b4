"""`loralith pretrain`: trains the small diffusion model and the digit classifier that come with the package.

    loralith pretrain --output sw/loralith/diffusion/assets

About 15 minutes on one core. Digits 8 and 9 are never shown to the diffusion model. Every draw depends on (seed, step) alone, so an
interrupted run that is resumed ends with the same bits on the same machine.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from loralith.diffusion.classifier import CLASSIFIER_FILE
from loralith.diffusion.data import labelled_images
from loralith.diffusion.determinism import repeatable, seed_global
from loralith.diffusion.digits import KNOWN
from loralith.diffusion.objective import denoising_loss, draw_step
from loralith.diffusion.prompt import PromptEncoder, digit_prompt, tokenize
from loralith.diffusion.schedule import noise_schedule
from loralith.diffusion.unet import CONFIG_FILE, MODEL_FOLDER, TOKENS_FILE, UNET_CONFIG, WEIGHTS_FILE, new_unet, save_model
from loralith.files import check_output_folder
from loralith.formats.checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_header, save_checkpoint
from loralith.formats.run_folder import FolderError

CHECKPOINT = "pretrain.ckpt"
Progress = Callable[[int, float, float], None]


@dataclass(frozen=True)
class PretrainSettings:
    """steps and batch of AdamW with learning rate `lr` (linear warm-up, then cosine to zero); `dropout` is the share of prompts
    dropped; `average` the decay of the weights' moving average, which is what is saved; a checkpoint every `checkpoint_every` steps."""

    steps: int = 3600
    batch: int = 32
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    dropout: float = 0.1
    average: float = 0.995
    seed: int = 0
    checkpoint_every: int = 200


def learning_rate(settings: PretrainSettings, step: int) -> float:
    warm = min(1.0, (step + 1) / settings.warmup)
    return settings.lr * warm * 0.5 * (1.0 + torch.cos(torch.tensor(torch.pi * step / settings.steps, dtype=torch.float64)).item())


class _Run:
    """Model, optimizer and moving average, and how they become a checkpoint."""

    def __init__(self, settings: PretrainSettings) -> None:
        seed_global("pretrain weights", settings.seed)
        self.unet, self.encoder = new_unet(), PromptEncoder()
        self.unet.train()
        self.weights: dict[str, Tensor] = {
            **{f"unet.{name}": tensor for name, tensor in self.unet.named_parameters()},
            "table": self.encoder.table.weight,
        }
        self.average = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        # The rows of tokens that no batch uses must stay as they are, so the table gets no weight decay.
        groups = [
            {"params": list(self.unet.parameters()), "weight_decay": settings.weight_decay},
            {"params": [self.encoder.table.weight], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)

    def state(self, step: int) -> Checkpoint:
        tensors = {f"weight/{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        for name, tensor in self.weights.items():
            for key, value in self.optimizer.state[tensor].items():
                tensors[f"optimizer/{key}/{name}"] = value
        return Checkpoint(step, tensors)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(checkpoint.tensors[f"weight/{name}"])
            self.average[name].copy_(checkpoint.tensors[f"average/{name}"])
            self.optimizer.state[tensor] = {
                key: checkpoint.tensors[f"optimizer/{key}/{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
            }

    @torch.no_grad()
    def finish(self) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(self.average[name])


def check_pretrain_folder(folder: Path) -> None:
    """Raises FolderError for a folder with other files than this command's, FileError where nothing can be written."""
    check_output_folder(folder)
    own = {folder: {MODEL_FOLDER, CLASSIFIER_FILE, CHECKPOINT}, folder / MODEL_FOLDER: {CONFIG_FILE, WEIGHTS_FILE, TOKENS_FILE}}
    for place, names in own.items():
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.name not in names and not path.name.endswith(".part"):
                raise FolderError(f"output {folder} holds files that are not this command's ({path}); give another folder")


def resumed_settings(output: Path, *, steps: int | None, seed: int | None) -> PretrainSettings:
    """The settings of the run whose checkpoint is in ``output``. Raises CheckpointError where steps or seed, if any, are others: the
    learning rate falls to zero over the steps of the run, so that another number of them would have begun otherwise."""
    path = output / CHECKPOINT
    there = read_header(path)["settings"]
    for name, own, why in (("steps", steps, ": the learning rate follows them from the first step on"), ("seed", seed, "")):
        if own is not None and own != there[name]:
            raise CheckpointError(f"--{name} {own} contradicts the run in {output}, which has {there[name]}{why}; leave it out")
    return PretrainSettings(**{own.name: there[own.name] for own in fields(PretrainSettings)})


def pretrain(settings: PretrainSettings, output: Path, *, resume: bool = False, progress: Progress | None = None) -> None:
    """Trains the diffusion model into output/unet; until it is done, output/pretrain.ckpt is its checkpoint. Errors: load_checkpoint."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / CHECKPOINT
    named = asdict(settings) | {"unet": UNET_CONFIG}
    images, labels = labelled_images(KNOWN, evaluation=False)
    prompts = torch.stack([tokenize(digit_prompt(int(digit))) for digit in labels])
    null = tokenize("")
    schedule = noise_schedule()
    with repeatable():
        run, first = _Run(settings), 0
        if resume:
            checkpoint = load_checkpoint(path, named)
            run.restore(checkpoint)
            first = checkpoint.step
        start = time.monotonic()
        for step in range(first, settings.steps):
            for group in run.optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            draw = draw_step("pretrain", settings.seed, step, batch=settings.batch, images=images, dropout=settings.dropout)
            tokens = torch.where(draw.dropped[:, None], null, prompts[draw.picks])
            loss = denoising_loss(run.unet, schedule, images[draw.picks], draw.timesteps, draw.noise, run.encoder(tokens))
            run.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(run.weights.values()), 1.0)
            run.optimizer.step()
            with torch.no_grad():
                decay = min(settings.average, (step + 1) / (step + 10))
                for name, tensor in run.weights.items():
                    run.average[name].lerp_(tensor, 1.0 - decay)
            if (step + 1) % settings.checkpoint_every == 0:
                save_checkpoint(run.state(step + 1), named, path)
            if progress:
                progress(step + 1, loss.item(), (step + 1 - first) / (time.monotonic() - start))
        run.finish()
        save_model(run.unet, run.encoder, output / MODEL_FOLDER)
        path.unlink(missing_ok=True)
