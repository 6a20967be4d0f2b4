"""The measuring encoder: a small contrastive model of pictures and captions that never sees a picture of the pipeline's training.

It learns from another vendor's drawings of the same emoji (`source.TWEMOJI`), in scenes that are disturbed more. Two heads: `prompt`, whose
cosine with a caption's vector says how well they fit; `subject`, whose cosine between two pictures says whether both show the same thing,
whatever its background, size and place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from loralith.diffusion.determinism import generator, repeatable, seed_global
from loralith.emoji.catalogue import Concept, concepts_digest
from loralith.emoji.run import StageProgress, Weights, train
from loralith.emoji.scenes import (
    BACKGROUNDS,
    Scene,
    caption,
    concept_weights,
    draw_scene,
    draws,
    plain_scene,
    render,
    with_article,
    with_first,
)
from loralith.emoji.settings import Settings
from loralith.emoji.vae_stage import autocast, cosine
from loralith.emoji.vocabulary import new_tokenizer, training_words

VECTOR = 96
"""Numbers of a vector of either head."""
TEMPERATURE = 0.07


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.one = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.other = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.other(functional.silu(self.one(functional.silu(self.norm(x)))))


class Encoder(nn.Module):
    """Pictures [N, 3, side, side] in -1..1 and tokens [N, length] as unit vectors [N, VECTOR]."""

    def __init__(self, width: int, vocabulary: int, length: int, end: int) -> None:
        super().__init__()
        self.end = end
        layers: list[nn.Module] = []
        before = 3
        for channels in (width, 2 * width, 4 * width, 6 * width):
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), _Residual(channels)]
            before = channels
        self.pictures = nn.Sequential(*layers, nn.GroupNorm(4, before), nn.SiLU())
        self.subject = nn.Linear(before, VECTOR)
        self.prompt = nn.Linear(before * 4, VECTOR)
        text = 4 * width
        self.words = nn.Embedding(vocabulary, text)
        self.places = nn.Parameter(torch.randn(length, text) * 0.02)
        block = nn.TransformerEncoderLayer(text, 4, 2 * text, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.caption = nn.Linear(text, VECTOR)

    def picture_vectors(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors for subjects and for prompts. The latter see four quarters of the picture, since captions name places."""
        features = self.pictures(pictures)
        quarters = functional.adaptive_avg_pool2d(features, 2).flatten(1)
        subject, prompt = self.subject(features.amax((2, 3))), self.prompt(quarters)
        return functional.normalize(subject.float(), dim=1), functional.normalize(prompt.float(), dim=1)

    def caption_vectors(self, ids: Tensor) -> Tensor:
        inside = ids != self.end
        found = self.text(self.words(ids) + self.places, src_key_padding_mask=~inside)
        mean = (found * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
        return functional.normalize(self.caption(mean).float(), dim=1)


@dataclass
class Judge:
    """The trained encoder with its tokenizer."""

    encoder: Encoder
    tokenizer: CLIPTokenizer
    length: int

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """`Encoder.picture_vectors` of [N, 3, side, side] in -1..1."""
        found = [self.encoder.picture_vectors(part) for part in pictures.split(64)]
        return torch.cat([one for one, _ in found]), torch.cat([other for _, other in found])

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of the captions."""
        return torch.cat([self.encoder.caption_vectors(self._tokens(texts[first : first + 256])) for first in range(0, len(texts), 256)])

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        return self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt").input_ids


def new_judge(settings: Settings, concepts: Sequence[Concept]) -> Judge:
    """The untrained encoder; the same bits for the same settings and concepts."""
    sizes = settings.sizes
    tokenizer = new_tokenizer(training_words(concepts, settings.seed), vocabulary=sizes.vocabulary, length=sizes.length)
    with repeatable():
        seed_global("emoji encoder", settings.seed)
        encoder = Encoder(sizes.encoder_width, len(tokenizer), sizes.length, tokenizer.get_vocab()["<|endoftext|>"])
    return Judge(encoder, tokenizer, sizes.length)


def disturbed(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Pictures with other brightness and contrast, noise, and every second one blurred: the encoder should not look at fine detail."""
    count = len(pictures)
    gain = 1.0 + 0.2 * (torch.rand(count, 1, 1, 1, generator=random) - 0.5)
    shift = 0.1 * (torch.rand(count, 1, 1, 1, generator=random) - 0.5)
    noise = torch.randn(pictures.shape, generator=random) * 0.15 * torch.rand(count, 1, 1, 1, generator=random)
    blurred = functional.interpolate(functional.avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")
    mixed = torch.where(torch.rand(count, 1, 1, 1, generator=random) < 0.5, blurred, pictures)
    return (mixed * gain + shift + noise).clamp(-1, 1)


def stacked(scenes: Sequence[Scene], concepts: Sequence[Concept], size: int) -> Tensor:
    """The scenes' pictures as [N, 3, size, size] in -1..1."""
    drawn = torch.stack([torch.from_numpy(render(scene, concepts, size).copy()) for scene in scenes])
    return drawn.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def contrast(one: Tensor, other: Tensor, same: Tensor | None = None) -> Tensor:
    """InfoNCE in both directions: row k of one belongs to row k of other; `same` [N, N] marks other pairs that are no contrast."""
    logits = one @ other.T / TEMPERATURE
    if same is not None:
        logits = logits.masked_fill(same & ~torch.eye(len(one), dtype=torch.bool), float("-inf"))
    wanted = torch.arange(len(one))
    return 0.5 * (functional.cross_entropy(logits, wanted) + functional.cross_entropy(logits.T, wanted))


def train_encoder(
    settings: Settings,
    concepts: Sequence[Concept],
    unseen: Sequence[Concept],
    path: Path,
    progress: Callable[[StageProgress], None] | None,
    stop: Callable[[], bool],
) -> Judge | None:
    """The trained encoder; None where ``stop`` ended it. concepts: another vendor's; unseen: the pipeline's, for the measures alone."""
    judge = new_judge(settings, concepts)
    encoder, sums = judge.encoder, concept_weights(concepts)
    weights = Weights({"encoder": encoder}, lr=settings.encoder_lr, weight_decay=0.02, average=min(settings.average, 0.998))
    size, batch = settings.sizes.image, settings.encoder_batch

    def loss(step: int) -> Tensor:
        speak = draws("emoji encoder caption", settings.seed, step)
        numbers = range(2 * batch * step, 2 * batch * (step + 1))
        drawn = [draw_scene(concepts, "emoji encoder", settings.seed, number, sums) for number in numbers]
        ones = drawn[:batch]
        scenes = ones + [with_first(other, one.items[0].concept) for one, other in zip(ones, drawn[batch:], strict=True)]
        wanted = disturbed(stacked(scenes, concepts, size), generator("emoji encoder", settings.seed, step))
        ids = judge._tokens([caption(scene, concepts, speak) for scene in scenes])
        first = torch.tensor([one.items[0].concept for one in ones])
        with autocast(settings):
            subject, prompt = encoder.picture_vectors(wanted)
            said = encoder.caption_vectors(ids)
        same = first[:, None] == first[None]
        equal = (ids[:, None] == ids[None]).all(2)
        return contrast(subject[:batch], subject[batch:], same) + contrast(prompt, said, equal)

    reached, _ = train(
        weights,
        loss,
        cosine(settings.encoder_lr, settings.encoder_steps, 100),
        steps=settings.encoder_steps,
        path=path,
        settings={"stage": "encoder", "concepts": concepts_digest(concepts), **settings.of_encoder()},
        measure=lambda: accuracy(judge, unseen, settings),
        progress=progress,
        stop=stop,
    )
    if reached < settings.encoder_steps:
        return None
    weights.exchange()
    encoder.eval().requires_grad_(False)
    return judge


def accuracy(judge: Judge, concepts: Sequence[Concept], settings: Settings) -> dict[str, float]:
    """What the encoder knows of pictures that it has not seen, each as a share: `name`, the right one among all concepts' names;
    `background`, the right one among all colours; `subject`, another picture of the same concept is the nearest of all."""
    count, size = min(settings.validation, len(concepts)), settings.sizes.image
    picked = draws("emoji encoder validation", 0, 0).sample(range(len(concepts)), count)
    scenes, others = ([plain_scene(concepts, pick, "emoji encoder validation", number) for pick in picked] for number in (1, 2))
    subject, prompt = judge.pictures(stacked(scenes, concepts, size))
    again, _ = judge.pictures(stacked(others, concepts, size))
    named = judge.captions([f"a photo of {with_article(concept.names[0])}" for concept in concepts])
    coloured = judge.captions([f"a photo of a thing on {with_article(colour)} background" for colour in BACKGROUNDS])
    colours = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    return {
        "name": share((prompt @ named.T).argmax(1), torch.tensor(picked)),
        "background": share((prompt @ coloured.T).argmax(1), colours),
        "subject": share((subject @ again.T).argmax(1), torch.arange(count)),
    }


def share(found: Tensor, wanted: Tensor) -> float:
    """The share of equal ones."""
    return float((found == wanted).float().mean())
