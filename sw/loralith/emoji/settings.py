"""Sizes of the emoji pipeline and settings of its training."""

from dataclasses import asdict, dataclass, field
from typing import Any

from loralith.errors import LoralithError

PARAMETERS_AT_MOST = 12_000_000
BYTES_AT_MOST = 25_000_000
"""Of the whole exported folder."""
VOCABULARY_AT_MOST = 2000
PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the models.

    image: pixels of a side. vae_channels: by level, each but the last halves the side; latents: channels of the latents. vocabulary:
    tokens at most; length: tokens of a prompt; text_width, text_layers, text_heads: of the text encoder. unet_channels: by level;
    unet_layers: residual blocks of each; head: channels of an attention head. groups, unet_groups: of the group norms. encoder_width:
    channels of the measuring encoder's first layer.
    """

    image: int = 64
    vae_channels: tuple[int, ...] = (16, 32, 64, 128)
    latents: int = 16
    groups: int = 8
    vocabulary: int = 1900
    length: int = 32
    text_width: int = 192
    text_layers: int = 3
    text_heads: int = 6
    unet_channels: tuple[int, ...] = (64, 128)
    unet_layers: int = 1
    unet_groups: int = 16
    head: int = 32
    encoder_width: int = 32

    @property
    def latent_size(self) -> int:
        return self.image >> (len(self.vae_channels) - 1)


@dataclass(frozen=True)
class Settings:
    """Settings that decide every bit of a training run.

    VAE and its decoder's refinement: steps, batch and the highest learning rate of a cosine; `kl` weighs the latents' divergence for each
    latent number. scenes: pictures whose latents are kept; every `pool_steps` steps 1000 more of them are drawn from.
    Text encoder and U-Net: AdamW with batch and learning rate `lr`, linear warm-up, constant until step `hold`, then falling with the
    square root of the steps, so that a run may be stopped or prolonged at any step. dropout: share of empty captions. average: decay of the
    weights' moving average, which is what is exported. Measuring encoder: steps and the highest learning rate of a cosine; `encoder_batch`
    concepts of a step, with two pictures each. precision: of the products, `bf16` (autocast) or `fp32`.
    start: SHA-256 of the weights that training starts from, empty where it starts from nothing.
    """

    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    precision: str = "bf16"
    average: float = 0.9995
    vae_steps: int = 4000
    vae_batch: int = 8
    vae_lr: float = 2e-3
    kl: float = 1e-3
    decoder_steps: int = 3000
    decoder_lr: float = 5e-4
    scenes: int = 24_000
    pool_steps: int = 60
    batch: int = 64
    lr: float = 8e-4
    warmup: int = 400
    hold: int = 3000
    dropout: float = 0.1
    weight_decay: float = 1e-2
    validation: int = 256
    encoder_steps: int = 2000
    encoder_batch: int = 48
    encoder_lr: float = 1e-3
    start: str = ""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise LoralithError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.sizes.vocabulary > VOCABULARY_AT_MOST:
            raise LoralithError(f"vocabulary must be at most {VOCABULARY_AT_MOST}, not {self.sizes.vocabulary}")

    def of_vae(self) -> dict[str, Any]:
        """What the VAE's bits depend on."""
        own = ("image", "vae_channels", "latents", "groups")
        return (
            {name: getattr(self.sizes, name) for name in own}
            | self._started()
            | _named(self, "seed precision average vae_steps vae_batch vae_lr kl validation")
        )

    def of_decoder(self) -> dict[str, Any]:
        """What the refined decoder's bits depend on."""
        return self.of_vae() | _named(self, "decoder_steps decoder_lr")

    def of_model(self) -> dict[str, Any]:
        """What the text encoder's and U-Net's bits depend on."""
        others = ("decoder_steps", "decoder_lr", "encoder_steps", "encoder_batch", "encoder_lr")
        return {name: value for name, value in asdict(self).items() if name not in (*others, "start")} | self._started()

    def _started(self) -> dict[str, str]:
        return {"start": self.start} if self.start else {}

    def of_encoder(self) -> dict[str, Any]:
        """What the measuring encoder's bits depend on."""
        own = ("image", "vocabulary", "length", "encoder_width")
        return {name: getattr(self.sizes, name) for name in own} | _named(
            self, "seed precision average encoder_steps encoder_batch encoder_lr validation"
        )


def _named(settings: Settings, names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names.split()}


TINY = Settings(
    sizes=Sizes(
        image=16,
        vae_channels=(8, 8),
        latents=4,
        groups=4,
        vocabulary=600,
        length=16,
        text_width=16,
        text_layers=1,
        text_heads=2,
        unet_channels=(8, 16),
        unet_groups=4,
        head=8,
        encoder_width=8,
    ),
    vae_steps=4,
    vae_batch=2,
    decoder_steps=2,
    scenes=12,
    batch=2,
    warmup=2,
    hold=4,
    validation=4,
    encoder_steps=2,
    encoder_batch=4,
    precision="fp32",
)
"""For tests: everything in seconds."""
PRESETS = {"shipped": Settings(), "tiny": TINY}
