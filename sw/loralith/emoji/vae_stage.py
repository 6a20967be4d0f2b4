"""Training of the VAE, and later of its decoder alone on latents that no longer change."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from loralith.diffusion.determinism import generator, repeatable, seed_global
from loralith.emoji.catalogue import Concept, concepts_digest
from loralith.emoji.models import initialize, new_vae
from loralith.emoji.run import StageProgress, Weights, train
from loralith.emoji.scenes import concept_weights, draw_scene, render
from loralith.emoji.settings import Settings


def autocast(settings: Settings) -> torch.autocast:
    """Products in BF16 where the settings say so."""
    return torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16")


def pictures(concepts: Sequence[Concept], purpose: str, seed: int, numbers: Sequence[int], size: int) -> Tensor:
    """Scenes of those numbers as [N, 3, size, size] in -1..1."""
    sums = concept_weights(concepts)
    drawn = [torch.from_numpy(render(draw_scene(concepts, purpose, seed, number, sums), concepts, size).copy()) for number in numbers]
    return torch.stack(drawn).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 127.5 - 1.0


def difference(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute and squared difference of the pixels, and the absolute one of their steps right and down: edges stay sharp."""
    error = made - wanted
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + error.square().mean() + across.abs().mean() + down.abs().mean()


def cosine(highest: float, steps: int, warmup: int) -> Callable[[int], float]:
    """A learning rate that rises to `highest` within `warmup` steps and falls to zero over `steps`."""
    return lambda step: highest * min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def train_vae(
    settings: Settings, concepts: Sequence[Concept], path: Path, progress: Callable[[StageProgress], None] | None, stop: Callable[[], bool]
) -> AutoencoderKL | None:
    """The trained VAE, its latents standardized; None where ``stop`` ended it. ``path``: its checkpoint."""
    size = settings.sizes.image
    with repeatable():
        seed_global("emoji vae", settings.seed)
        vae = new_vae(settings.sizes)
        initialize(vae)
        _begin_with_little_noise(vae)
    weights = Weights({"vae": vae}, lr=settings.vae_lr, weight_decay=0.0, average=min(settings.average, 0.998))

    def loss(step: int) -> Tensor:
        numbers = range(step * settings.vae_batch, (step + 1) * settings.vae_batch)
        wanted = pictures(concepts, "emoji vae", settings.seed, numbers, size)
        with autocast(settings):
            latents = vae.encode(wanted).latent_dist  # type: ignore[union-attr]
            noise = torch.randn(latents.mean.shape, generator=generator("emoji vae noise", settings.seed, step))
            made = vae.decode(latents.mean + latents.std * noise).sample  # type: ignore[union-attr]
        mean, logvar = latents.mean.float(), latents.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
        return difference(made.float(), wanted) + settings.kl * divergence

    def measure() -> dict[str, float]:
        return {"error": reconstruction_error(vae, settings, concepts)}

    reached, _ = train(
        weights,
        loss,
        cosine(settings.vae_lr, settings.vae_steps, 100),
        steps=settings.vae_steps,
        path=path,
        settings={"stage": "vae", "concepts": concepts_digest(concepts), **settings.of_vae()},
        measure=measure,
        progress=progress,
        stop=stop,
    )
    if reached < settings.vae_steps:
        return None
    weights.exchange()
    with repeatable():
        standardize(vae, settings, concepts)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def _begin_with_little_noise(vae: AutoencoderKL) -> None:
    """Lets the latents' deviations begin at e^-2: with deviations of 1 a decoder first learns to look past the latents."""
    assert vae.quant_conv is not None
    assert vae.quant_conv.bias is not None
    vae.quant_conv.bias[vae.config["latent_channels"] :] = -4.0


@torch.no_grad()
def reconstruction_error(vae: AutoencoderKL, settings: Settings, concepts: Sequence[Concept]) -> float:
    """Mean absolute error of the pixels (of 0..255) over pictures that the training does not draw."""
    count = settings.validation
    total = 0.0
    for first in range(0, count, 64):
        numbers = range(first, min(first + 64, count))
        wanted = pictures(concepts, "emoji validation", settings.seed, numbers, settings.sizes.image)
        with autocast(settings):
            made = vae.decode(vae.encode(wanted).latent_dist.mean).sample  # type: ignore[union-attr]
        total += float((made.float().clamp(-1, 1) - wanted).abs().mean()) * len(numbers)
    return total / count * 127.5


@torch.no_grad()
def standardize(vae: AutoencoderKL, settings: Settings, concepts: Sequence[Concept]) -> None:
    """Folds each latent channel's mean and deviation into the 1 x 1 convolutions at both its ends: afterwards the latents have mean 0 and
    deviation 1 on training pictures, and the reconstruction is what it was."""
    parts = []
    for first in range(0, max(settings.validation, 2), 64):
        numbers = range(first, min(first + 64, max(settings.validation, 2)))
        with autocast(settings):
            drawn = pictures(concepts, "emoji statistics", settings.seed, numbers, settings.sizes.image)
            parts.append(vae.encode(drawn).latent_dist.mean.float())  # type: ignore[union-attr]
    latents = torch.cat(parts).transpose(0, 1).flatten(1)
    mean, deviation = latents.mean(1), latents.std(1).clamp(min=1e-4)
    channels = len(mean)
    out, back = vae.quant_conv, vae.post_quant_conv
    assert out is not None
    assert back is not None
    assert out.bias is not None
    assert back.bias is not None
    out.weight[:channels] /= deviation[:, None, None, None]
    out.bias[:channels] = (out.bias[:channels] - mean) / deviation
    out.bias[channels:] -= 2.0 * deviation.log()
    back.bias += functional.conv2d(mean[None, :, None, None], back.weight)[0, :, 0, 0]
    back.weight *= deviation[None, :, None, None]


def refine_decoder(
    vae: AutoencoderKL,
    settings: Settings,
    concepts: Sequence[Concept],
    path: Path,
    progress: Callable[[StageProgress], None] | None,
    stop: Callable[[], bool],
) -> bool:
    """Trains the decoder of a trained VAE further, in place; whether it came to the end. The encoder, so all latents, stay."""
    trained = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    for module in trained.values():
        module.requires_grad_(True)
    weights = Weights(trained, lr=settings.decoder_lr, weight_decay=0.0, average=settings.average)

    def loss(step: int) -> Tensor:
        numbers = range(step * settings.vae_batch, (step + 1) * settings.vae_batch)
        wanted = pictures(concepts, "emoji decoder", settings.seed, numbers, settings.sizes.image)
        with autocast(settings):
            with torch.no_grad():
                latents = vae.encode(wanted).latent_dist  # type: ignore[union-attr]
                noise = torch.randn(latents.mean.shape, generator=generator("emoji decoder noise", settings.seed, step))
                sample = latents.mean + latents.std * noise
            made = vae.decode(sample).sample  # type: ignore[union-attr]
        return difference(made.float(), wanted)

    reached, _ = train(
        weights,
        loss,
        cosine(settings.decoder_lr, settings.decoder_steps, 100),
        steps=settings.decoder_steps,
        path=path,
        settings={"stage": "decoder", "concepts": concepts_digest(concepts), **settings.of_decoder()},
        measure=lambda: {"error": reconstruction_error(vae, settings, concepts)},
        progress=progress,
        stop=stop,
    )
    weights.exchange()
    vae.requires_grad_(False)
    return reached >= settings.decoder_steps
