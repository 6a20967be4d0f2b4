"""Hollowed Net (Cho et al., 2024): a full pass once for each sample, then LoRA on what is kept, with the rest's output as a constant."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from torch import Tensor

from loralith.diffusion.determinism import generator
from loralith.diffusion.objective import step_loss
from loralith.diffusion.peft_adapter import add_adapter
from loralith.diffusion.unet import assets_digest, load_model, model_digest
from loralith.formats.adapter_file import AdapterError
from loralith.formats.run_folder import BOUNDARY
from loralith.methods.hollow.boundary_store import BoundaryStore
from loralith.methods.hollow.hollowed_unet import Boundary, hollowed, tapped
from loralith.methods.hollow.parts import Hollow, choose
from loralith.methods.lora import Lora
from loralith.methods.options import HollowOptions
from loralith.methods.training_method import Bench, Interrupted

if TYPE_CHECKING:
    from loralith.diffusion.subject import Subject
    from loralith.methods.settings import FinetuneSettings

__all__ = ["HollowedNet"]


class HollowedNet(Lora):
    """``model`` is the hollowed U-Net with adapters; what it leaves out is not in memory while it trains.

    A stored batch of samples is the batch of step 0, 1, ... of LoRA on the same settings; where there are more steps than batches, later
    rounds take them in orders of their own. `evaluation_model` and the adapter that is saved are of the full U-Net.
    """

    def __init__(self, settings: FinetuneSettings, subject: Subject) -> None:
        options = settings.options
        assert isinstance(options, HollowOptions)
        self.own = options
        self.batches = options.prepared(settings.steps, settings.batch)
        self._boundary: Boundary | None = None
        super().__init__(settings, subject)
        self.store: BoundaryStore | None = None

    def adapted(self, settings: FinetuneSettings, unet: UNet2DConditionModel) -> PeftModel:
        """The first call hollows ``unet``; later ones leave it whole, with adapters on the kept layers alone."""
        first = self._boundary is None
        if first:
            self.hollow: Hollow = choose(unet, self.own.hollow)
            self.targets = kept_targets(unet, settings.targets, self.hollow, self.own)
            self._boundary = hollowed(unet, self.hollow)
        return add_adapter(unet, **{**settings.adapter(), "targets": self.targets})

    def identity(self) -> dict[str, Any]:
        """What decides the stored tensors' bits."""
        settings = self.settings
        told = dict(settings.identity())
        names = ("digit", "images", "seed", "batch", "dropout", "data")
        return {
            **{name: told[name] for name in names if name in told},
            "model": assets_digest() if settings.model is None else model_digest(settings.model),
            "hollow": list(self.hollow.names),
            "batches": self.batches,
            "boundary": self.own.boundary,
            "arithmetic": "int8" if settings.modules == "all" else "fp32",
        }

    def prepare(self, bench: Bench) -> None:
        """Stage 1: the full frozen U-Net, forward, once for each stored batch."""
        folder = self.settings.output / BOUNDARY
        self.store = store = BoundaryStore(folder, self.identity(), self.batches, int8=self.own.boundary == "int8")
        if store.complete:
            return
        unet, encoder = load_model(self.settings.model)
        # With the LoRA layers alone on the device, what is frozen is torch's.
        device = bench.attached(unet) if self.settings.modules == "all" else nullcontext()
        with device as attachment, tapped(unet, self.hollow) as found:
            while not store.complete:
                batch = store.next
                if attachment:
                    attachment.step_begin(batch)
                step_loss(unet, encoder, self.subject.images, self.settings, batch, self.subject.captions)
                store.add(found[0])
                bench.say(f"boundary {store.next}/{self.batches}")
                if bench.stopping() and not store.complete:
                    raise Interrupted(0, self.settings.output)

    def batch_of(self, step: int) -> int:
        """The stored batch that a step reads."""
        turn, place = divmod(step, self.batches)
        if turn == 0:
            return place
        return int(torch.randperm(self.batches, generator=generator("boundary order", self.settings.seed, turn))[place])

    def boundary(self, batch: int) -> Tensor:
        """[N, C, H, W] of a stored batch."""
        assert self.store is not None
        return self.store.read(batch)

    def image(self, batch: int) -> Tensor:
        """The boundary tensor of a stored batch as `loss_of` takes it and as a device keeps images, [N, H, W, C]."""
        return self.boundary(batch).permute(0, 2, 3, 1).contiguous()

    def batch(self, step: int) -> dict[str, Tensor]:
        batch = self.batch_of(step)
        return super().batch(batch) | {"boundary": self.image(batch)}

    def loss_of(self, **batch: Tensor) -> Tensor:
        assert self._boundary is not None
        self._boundary.value = batch.pop("boundary").permute(0, 3, 1, 2).contiguous()
        return super().loss_of(**batch)

    def figures(self) -> dict[str, Any]:
        kept = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            **super().figures(),
            "hollow": {
                "blocks": list(self.hollow.names),
                "share_of_parameters": self.hollow.share,
                "resident_parameters": kept,
                "batches_stored": self.batches,
                "boundary_bytes": self.store.nbytes() if self.store else 0,
            },
        }

    @property
    def label(self) -> str:
        return f"Hollowed Net without {', '.join(self.hollow.names)}, LoRA rank {self.settings.rank}"


def kept_targets(unet: UNet2DConditionModel, targets: tuple[str, ...], hollow: Hollow, options: HollowOptions) -> tuple[str, ...]:
    """Full names of the projections of ``targets`` that stay and are to be trained. Raises AdapterError where none is."""
    ends = tuple(f".{target}" for target in targets)
    names = tuple(sorted(name for name, _ in unet.named_modules() if name.endswith(ends) and not hollow.holds(name)))
    if options.train == "behind":
        names = tuple(name for name in names if name.startswith("up_blocks."))
    if not names:
        raise AdapterError(f"without {', '.join(hollow.names)} the model keeps no layer of {', '.join(targets)}; leave out less")
    return names
