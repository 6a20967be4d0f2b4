"""Training of the text encoder together with the U-Net, on latents that were computed once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from loralith.diffusion.determinism import generator, repeatable, seed_global
from loralith.emoji.catalogue import Catalogue, Concept, concepts_digest
from loralith.emoji.models import TRAIN_TIMESTEPS, initialize, new_scheduler, new_text_encoder, new_unet
from loralith.emoji.run import StageProgress, Weights, train
from loralith.emoji.scenes import caption, concept_weights, draw_scene, draws
from loralith.emoji.settings import Settings
from loralith.emoji.vae_stage import autocast, pictures
from loralith.emoji.vocabulary import new_tokenizer, training_words
from loralith.errors import LoralithError
from loralith.formats.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

SHARD = 1000
"""Scenes of one file of latents."""


@dataclass
class Model:
    """Text encoder, tokenizer and U-Net."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel


def new_model(settings: Settings, concepts: Sequence[Concept]) -> Model:
    """The untrained model; the same bits for the same settings and concepts."""
    sizes = settings.sizes
    tokenizer = new_tokenizer(training_words(concepts, settings.seed), vocabulary=sizes.vocabulary, length=sizes.length)
    with repeatable():
        seed_global("emoji model", settings.seed)
        text = new_text_encoder(sizes, tokenizer.get_vocab())
        unet = new_unet(sizes)
        initialize(unet)
        with torch.no_grad():
            unet.conv_out.weight.zero_()
        return Model(text, tokenizer, unet)


def tokens(tokenizer: CLIPTokenizer, captions: Sequence[str], length: int) -> Tensor:
    """Token numbers [N, length], as a stock pipeline makes them."""
    return tokenizer(list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


@torch.no_grad()
def latents_of(vae: AutoencoderKL, settings: Settings, concepts: Sequence[Concept], purpose: str, numbers: Sequence[int]) -> Tensor:
    """Mean and deviation of the scenes' latents [2, N, channels, side, side], FP16."""
    parts = []
    for first in range(0, len(numbers), 50):
        with autocast(settings):
            drawn = pictures(concepts, purpose, settings.seed, numbers[first : first + 50], settings.sizes.image)
            found = vae.encode(drawn).latent_dist  # type: ignore[union-attr]
        parts.append(torch.stack([found.mean, found.std]).to(torch.float16))
    return torch.cat(parts, dim=1)


class TrainingLatents:
    """Mean and deviation of the training scenes' latents, of as many scenes as a step draws from: computed when first asked for, and kept
    in files of `SHARD` scenes in ``folder``."""

    def __init__(self, vae: AutoencoderKL, settings: Settings, concepts: Sequence[Concept], folder: Path) -> None:
        self.vae, self.settings, self.concepts, self.folder = vae, settings, concepts, folder
        self.named = {"stage": "latents", "concepts": concepts_digest(concepts), **settings.of_vae(), "scenes": settings.scenes}
        self.shards: list[Tensor] = []

    def pool(self, step: int) -> int:
        """How many scenes step `step` draws from: one shard more every `pool_steps`, so that training begins at once."""
        return min(self.settings.scenes, SHARD * (1 + step // self.settings.pool_steps))

    def pick(self, picks: Tensor) -> Tensor:
        """[2, N, channels, side, side] of the scenes with those numbers, FP32."""
        while SHARD * len(self.shards) <= int(picks.max()):
            self._next()
        return torch.stack([self.shards[pick // SHARD][:, pick % SHARD] for pick in picks.tolist()], dim=1).float()

    def _next(self) -> None:
        first = SHARD * len(self.shards)
        path = self.folder / f"{first:06}.latents"
        if not path.exists():
            numbers = range(first, min(first + SHARD, self.settings.scenes))
            found = latents_of(self.vae, self.settings, self.concepts, "emoji scene", numbers)
            save_checkpoint(Checkpoint(first, {"latents": found}), self.named, path)
        self.shards.append(load_checkpoint(path, self.named).tensors["latents"])


def velocity_loss(model: Model, latents: Tensor, noise: Tensor, timesteps: Tensor, ids: Tensor, settings: Settings) -> Tensor:
    """Mean squared error of the predicted velocity."""
    scheduler = new_scheduler()
    noised = scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
    # On CPUs, torch's fused attention takes several times as long backward as the products that it stands for.
    with autocast(settings), sdpa_kernel(SDPBackend.MATH):
        condition = model.text_encoder(ids).last_hidden_state
        made = model.unet(noised, timesteps, condition).sample
    return functional.mse_loss(made.float(), scheduler.get_velocity(latents, noise, timesteps))  # type: ignore[arg-type]


def spread_timesteps(count: int, random: torch.Generator) -> Tensor:
    """One time step from each of ``count`` equal parts of the schedule, in random order."""
    place = (torch.randperm(count, generator=random) + torch.rand(count, generator=random)) / count
    return (place * TRAIN_TIMESTEPS).to(torch.int64).clamp(max=TRAIN_TIMESTEPS - 1)


class Validation:
    """The loss on scenes that no training draws, with fixed noise and time steps: of the known concepts, and of the held-out ones."""

    def __init__(self, vae: AutoencoderKL, settings: Settings, catalogue: Catalogue, tokenizer: CLIPTokenizer) -> None:
        self.settings = settings
        numbers = range(settings.validation)
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        for name, concepts in (("known", catalogue.known), ("held_out", catalogue.held_out)):
            sums = concept_weights(concepts)
            scenes = [draw_scene(concepts, "emoji validation", settings.seed, number, sums) for number in numbers]
            spoken = [caption(scene, concepts, draws("emoji validation caption", 0, number)) for number, scene in enumerate(scenes)]
            with repeatable():
                latents = latents_of(vae, settings, concepts, "emoji validation", numbers)[0].float()
            self.parts[name] = (latents, tokens(tokenizer, spoken, settings.sizes.length))

    @torch.no_grad()
    def __call__(self, model: Model) -> dict[str, float]:
        result = {}
        for name, (latents, ids) in self.parts.items():
            random = generator("emoji validation noise", 0)
            noise = torch.randn(latents.shape, generator=random)
            timesteps = spread_timesteps(len(latents), random)
            total = 0.0
            for first in range(0, len(latents), 64):
                part = slice(first, first + 64)
                loss = velocity_loss(model, latents[part], noise[part], timesteps[part], ids[part], self.settings)
                total += float(loss) * len(latents[part])
            result[name] = total / len(latents)
        return result


def train_model(
    vae: AutoencoderKL,
    latents: TrainingLatents,
    settings: Settings,
    catalogue: Catalogue,
    path: Path,
    *,
    steps: int,
    start: Mapping[str, Tensor] | None,
    progress: Callable[[StageProgress], None] | None,
    stop: Callable[[], bool],
    every: float,
) -> tuple[int, list[dict[str, float]]]:
    """Trains up to ``steps`` steps, from the checkpoint at ``path`` where there is one, else from the weights of ``start``, whose names
    begin with `unet.` and `text_encoder.`, else from nothing. Raises LoralithError for weights of another vocabulary."""
    concepts, batch = catalogue.known, settings.batch
    model = new_model(settings, concepts)
    if start is not None:
        load_start(model, start)
    sums = concept_weights(concepts)
    scenes = [draw_scene(concepts, "emoji scene", settings.seed, number, sums) for number in range(settings.scenes)]
    validation = Validation(vae, settings, catalogue, model.tokenizer)
    weights = model_weights(model, settings)

    def loss(step: int) -> Tensor:
        random = generator("emoji step", settings.seed, step)
        picks = torch.randint(latents.pool(step), (batch,), generator=random)
        timesteps = spread_timesteps(batch, random)
        dropped = (torch.rand(batch, generator=random) < settings.dropout).tolist()
        mean, deviation = latents.pick(picks)
        inner, noise = torch.randn((2, *mean.shape), generator=random)
        speak = draws("emoji caption", settings.seed, step)
        spoken = [caption(scenes[pick], concepts, speak) for pick in picks.tolist()]
        ids = tokens(model.tokenizer, ["" if drop else text for drop, text in zip(dropped, spoken, strict=True)], settings.sizes.length)
        return velocity_loss(model, mean + deviation * inner, noise, timesteps, ids, settings)

    def lr(step: int) -> float:
        return settings.lr * min(1.0, (step + 1) / settings.warmup) * min(1.0, (settings.hold / (step + 1)) ** 0.5)

    return train(
        weights,
        loss,
        lr,
        steps=steps,
        path=path,
        settings={"stage": "model", "concepts": concepts_digest(concepts), **settings.of_model()},
        measure=lambda: validation(model),
        progress=progress,
        stop=stop,
        every=every,
    )


def load_start(model: Model, start: Mapping[str, Tensor]) -> None:
    """Gives the model weights whose names begin with `unet.` and `text_encoder.`. Raises LoralithError where they are another model's."""
    for part in ("unet", "text_encoder"):
        own = {name.removeprefix(f"{part}."): tensor for name, tensor in start.items() if name.startswith(f"{part}.")}
        try:
            getattr(model, part).load_state_dict(own)
        except RuntimeError as error:
            raise LoralithError(f"the weights to start from are of another {part}, or of another vocabulary: {error}") from error


def model_weights(model: Model, settings: Settings) -> Weights:
    modules = {"text_encoder": model.text_encoder, "unet": model.unet}
    return Weights(modules, lr=settings.lr, weight_decay=settings.weight_decay, average=settings.average)


def trained_model(settings: Settings, concepts: Sequence[Concept], path: Path) -> tuple[Model, int, list[dict[str, float]]]:
    """The moving average of the checkpoint's weights, its steps and measures. Raises CheckpointError."""
    model = new_model(settings, concepts)
    checkpoint = load_checkpoint(path, {"stage": "model", "concepts": concepts_digest(concepts), **settings.of_model()})
    weights = model_weights(model, settings)
    weights.restore(checkpoint)
    weights.exchange()
    for module in (model.text_encoder, model.unet):
        module.eval().requires_grad_(False)
    return model, checkpoint.step, checkpoint.extra["history"]
